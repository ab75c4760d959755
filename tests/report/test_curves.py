"""Curves agree with the metrics beside them, whatever the ties, and look the same with fewer points."""

import numpy as np
import pytest

from pa_dist.reduce.metrics.intervals import Clusters
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty
from pa_dist.report.figures.curves import BINS, histogram, risk_coverage_curve, roc_curve, thinned


def _scores(n, ties):
    rng = np.random.default_rng(n)
    score = rng.normal(size=n)
    success = score + rng.normal(size=n) > 0
    return (np.round(score, 1) if ties else score), success


def test_roc_by_hand():
    # Best first: a success, then a success and a failure that tie, then a failure.
    false, true = roc_curve(np.array([0.1, 0.5, 0.9, 0.5]), np.array([False, True, True, False]))
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]


def test_risk_coverage_by_hand():
    coverage, risk = risk_coverage_curve(np.array([0.1, 0.5, 0.9, 0.5]), np.array([False, True, True, False]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 0.25, 1 / 3, 0.5])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [7, 400])
def test_areas_are_those_of_the_metrics(n, ties):
    score, success = _scores(n, ties)
    figures = uncertainty(score, Outcomes(success.astype(float), success, Clusters.of(np.arange(n), 0)))
    known = {metric: figure.value for (metric, at), figure in zip(METRICS, figures, strict=True) if at is None}
    false, true = roc_curve(score, success)
    assert np.trapezoid(true, false) == pytest.approx(known["auroc"], abs=1e-9)
    assert risk_coverage_curve(score, success)[1].mean() == pytest.approx(known["aurc"], abs=1e-9)


@pytest.mark.parametrize("curve", [roc_curve, risk_coverage_curve])
def test_a_thinned_curve_keeps_its_ends_its_extremes_and_its_area(curve):
    x, y = curve(*_scores(20_000, ties=False))
    kept = thinned(x, y)
    assert len(kept) <= 2 * BINS + 2
    assert kept[0] == 0
    assert kept[-1] == len(x) - 1
    assert (np.diff(kept) > 0).all()
    assert y[kept].max() == y.max()
    assert y[kept].min() == y.min()
    assert np.trapezoid(y[kept], x[kept]) == pytest.approx(np.trapezoid(y, x), abs=1 / BINS)


def test_a_short_curve_is_left_as_it_is():
    x, y = roc_curve(*_scores(50, ties=False))
    assert thinned(x, y).tolist() == list(range(len(x)))


def test_every_row_is_in_the_histogram():
    score, success = _scores(1000, ties=False)
    score[0] = 1e9
    edges, failed, succeeded = histogram(score, success)
    assert failed.sum() == (~success).sum()
    assert succeeded.sum() == success.sum()
    assert edges[-1] < 10
    assert len(edges) == len(failed) + 1


def test_equal_scores_make_one_bin():
    edges, failed, succeeded = histogram(np.full(4, 2.0), np.array([True, False, True, True]))
    assert (edges.tolist(), failed.tolist(), succeeded.tolist()) == ([1.5, 2.5], [1], [3])
