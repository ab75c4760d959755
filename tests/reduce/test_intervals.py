import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_dist.reduce.metrics import intervals
from pa_dist.reduce.metrics.intervals import TOO_FEW, Resampling, cluster_means, figures, quantiles


@pytest.mark.parametrize("chunk", [1, 70, 10**6])
def test_resamples_do_not_depend_on_chunks(monkeypatch, chunk):
    monkeypatch.setattr(intervals, "_CHUNK", chunk)
    drawn = np.concatenate(list(Resampling(np.arange(14) % 11, 23, 4).counts()))
    expected = np.random.default_rng(4).integers(0, 11, (23, 11))
    np.testing.assert_array_equal(drawn, [np.bincount(row, minlength=11) for row in expected])


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
    # Cluster 0: 1 and 3; 1: 5 and one that does not count; of eight more nothing counts. A resample in which 0 comes a
    # times and 1 comes b times has the mean (4 a + 5 b) / (2 a + b), and none where both are 0.
    rows = np.array([[1.0], [5.0], [3.0], [np.nan], *[[np.nan]] * 8])
    resampling = Resampling(np.array([0, 1, 0, 1, *range(2, 10)]), 50, 0)
    means, resampled, clusters = cluster_means(rows, resampling)
    assert (means.tolist(), clusters.tolist()) == ([3], [2])
    drawn = np.concatenate(list(resampling.counts()))
    a, b = drawn[:, 0], drawn[:, 1]
    known = a + b > 0
    np.testing.assert_allclose(resampled[known, 0], ((4 * a + 5 * b) / np.maximum(2 * a + b, 1))[known])
    assert np.isnan(resampled[~known, 0]).all()
    # Two tasks that count are too few, however many there are.
    (figure,) = figures([("mae", None)], means, resampled, clusters, [3], 50)
    assert (figure.value, figure.ci_low, figure.ci_high, figure.note) == (3, None, None, TOO_FEW)


@pytest.mark.parametrize(("n", "enough"), [(1, False), (2, False), (9, False), (10, True)])
def test_fewer_than_ten_tasks_have_no_interval(n, enough):
    resampling = Resampling(np.arange(n), 100, 0)
    (figure,) = figures([("mae", None)], *cluster_means(np.arange(n, dtype=float)[:, None], resampling), [n], 100)
    assert figure.value == (n - 1) / 2
    assert (figure.ci_low is not None, figure.ci_high is not None) == (enough, enough)
    assert figure.note == (None if enough else "fewer than ten tasks: no interval")


def test_no_resamples_means_no_interval_and_no_note():
    resampling = Resampling(np.arange(3), 0, 0)
    (figure,) = figures([("mae", None)], *cluster_means(np.ones((3, 1)), resampling), [3], 0)
    assert (figure.value, figure.ci_low, figure.ci_high, figure.note) == (1, None, None, None)
