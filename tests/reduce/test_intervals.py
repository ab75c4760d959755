import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_dist.reduce import intervals
from pa_dist.reduce.intervals import Resampling, cluster_means, figures, quantiles


@pytest.mark.parametrize("chunk", [1, 70, 10**6])
def test_resamples_do_not_depend_on_chunks(monkeypatch, chunk):
    monkeypatch.setattr(intervals, "_CHUNK", chunk)
    drawn = np.concatenate(list(Resampling(np.arange(7) % 5, 23, 4).counts()))
    expected = np.random.default_rng(4).integers(0, 5, (23, 5))
    np.testing.assert_array_equal(drawn, [np.bincount(row, minlength=5) for row in expected])


@given(st.lists(st.lists(st.one_of(st.just(np.nan), st.floats(-5, 5)), min_size=2, max_size=2), max_size=12))
def test_quantiles_are_numpys_without_nan(rows):
    resampled = np.array(rows).reshape(-1, 2)
    low, high, left_out = quantiles(resampled)
    for k, column in enumerate(resampled.T):
        known = column[~np.isnan(column)]
        assert left_out[k] == len(column) - len(known)
        expected = np.quantile(known, [0.025, 0.975]) if len(known) else [np.nan, np.nan]
        np.testing.assert_allclose((low[k], high[k]), expected, atol=1e-12)


def test_cluster_means_skip_what_does_not_count():
    # Clusters 0: 1, 3; 1: 5 and one that does not count. Mean 3; a resample of (0, 0) has mean 2, of (1, 1) 5.
    means, resampled = cluster_means(
        np.array([[1.0], [5.0], [3.0], [np.nan]]), Resampling(np.array([0, 1, 0, 1]), 50, 0)
    )
    assert means.tolist() == [3]
    assert set(resampled[:, 0].tolist()) == {2.0, 3.0, 5.0}


def test_no_resamples_means_no_interval_and_no_note():
    resampling = Resampling(np.arange(3), 0, 0)
    (figure,) = figures([("mae", None)], *cluster_means(np.ones((3, 1)), resampling), [3], 0)
    assert (figure.value, figure.ci_low, figure.ci_high, figure.note) == (1, None, None, None)
