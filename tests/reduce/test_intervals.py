"""Intervals worked out by hand, against a bootstrap, and at the edges."""

import numpy as np
import pytest
from scipy import stats

from pa_dist.reduce.choice.cross_fitting import redraws
from pa_dist.reduce.metrics.intervals import (
    ALL_ALIKE,
    FOLDS,
    MOST_BINS,
    TOO_FEW,
    TOO_FEW_OF_OUTCOME,
    Clusters,
    Estimate,
    Scale,
    difference,
    estimates_of_means,
    wilson,
)


def _mean(values, clusters=None):
    (estimate,) = estimates_of_means(
        np.asarray(values, float)[:, None], Clusters.of(np.arange(len(values)) if clusters is None else clusters, 0)
    )
    return estimate


def test_a_mean_by_hand():
    # Ten tasks of two trials; a task with a and b right adds (a + b - 2 mean) / 20. Of 1 1 1 1 1 0 0 0 0 0 out of two
    # each the mean is 1/4, and the parts are +-1/40: the sum of squares is 10 / 1600, times 10/9 is 1/144.
    values = np.repeat([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], 2) * np.tile([1, 0], 10)
    found = _mean(values, np.repeat(np.arange(10), 2))
    assert (found.value, found.clusters, found.n) == (0.25, 10, 20)
    assert found.variance == pytest.approx(1 / 144)
    # Of p (1 - p) / n = 1/144 the effective n is 27.
    t = stats.t.ppf(0.975, 9)
    assert found.interval() == pytest.approx(wilson(0.25, 27, t))
    assert found.scale == Scale.SHARE


def test_wilson_is_scipys():
    z = stats.norm.ppf(0.975)
    for k, n in ((0, 12), (3, 12), (12, 12), (500, 1000)):
        exact = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n, z) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_a_free_mean_is_students():
    values = np.random.default_rng(0).normal(size=30)
    found = stats.ttest_1samp(values, 0).confidence_interval()
    assert _mean(values).interval() == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(("n", "enough"), [(1, False), (9, False), (10, True)])
def test_fewer_than_ten_tasks_have_no_interval(n, enough):
    figure = _mean(np.arange(n)).figure("mae", None)
    assert figure.value == (n - 1) / 2
    assert (figure.ci_low is not None, figure.ci_high is not None) == (enough, enough)
    assert figure.note == (None if enough else TOO_FEW)
    assert _mean(np.arange(n)).figure("mae", None, intervals=False).note is None


def test_the_edges_have_a_width():
    for value in (0.0, 1.0):
        found = _mean([value] * 12)
        low, high = found.interval()
        assert low <= value <= high
        assert (low, high) == pytest.approx(wilson(value, 12, stats.t.ppf(0.975, 11)))
        assert high - low > 0.2
    # Every task has one of two right: nothing varies, and twenty rows are what there is.
    halves = _mean(np.tile([0, 1], 10), np.repeat(np.arange(10), 2))
    assert halves.variance == 0
    assert halves.interval() == pytest.approx(wilson(0.5, 20, stats.t.ppf(0.975, 9)))
    # Of what is no share nothing can be said.
    assert _mean([3.0] * 12).figure("mae", None).note == ALL_ALIKE


def test_what_decides_may_be_rarer_than_tasks():
    estimate = Estimate(0.8, np.full(20, 0.01), 20, 20, rarer=4)
    assert estimate.figure("auroc", None).note == TOO_FEW_OF_OUTCOME
    wide, narrow = (Estimate(0.8, np.full(20, 0.01), 20, 20, rarer=k).interval() for k in (5, 20))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_many_clusters_share_bins_and_say_the_same():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(40_000), 2) + rng.normal(size=80_000)
    numbers = np.repeat(np.arange(40_000), 2)
    clusters = Clusters.of(numbers, 3)
    assert (clusters.n_bins, clusters.n_clusters) == (MOST_BINS, 40_000)
    (found,) = estimates_of_means(values[:, None], clusters)
    parts = np.bincount(numbers, values - values.mean()) / len(values)
    assert np.sqrt(found.variance) == pytest.approx(np.sqrt(parts @ parts), rel=0.05)
    # A bin is of one fold, and a fold is what it was.
    dealt = np.random.default_rng([3, FOLDS]).permutation(40_000)
    assert (clusters.folds == (dealt % FOLDS)[numbers]).all()


def test_a_bootstrap_has_the_same_width():
    """The plain twin: tasks drawn with replacement, of a mean and of a difference."""
    rng = np.random.default_rng(1)
    tasks = np.repeat(np.arange(300), 4)
    quality = rng.random(300)[tasks]
    both = np.stack([rng.random(1200) < quality, rng.random(1200) < quality * 0.9], axis=1).astype(float)
    first, second = estimates_of_means(both, Clusters.of(tasks, 0))
    drawn = 1 + redraws(300, 4000, 0)
    sums = np.stack([np.bincount(tasks, column) for column in both.T], axis=1)
    means = drawn @ sums / (drawn @ np.bincount(tasks))[:, None]
    for values, (low, high) in (
        (means[:, 0], first.interval()),
        (means[:, 0] - means[:, 1], (lambda of: (of.low, of.high))(difference(first, second))),
    ):
        assert high - low == pytest.approx(np.diff(np.quantile(values, [0.025, 0.975]))[0], rel=0.05)


def test_differences_are_paired():
    rng = np.random.default_rng(2)
    values = rng.normal(size=40)
    found = difference(_mean(values), _mean(values + 0.5 + 1e-3 * rng.normal(size=40)))
    assert found.value == pytest.approx(-0.5, abs=1e-3)
    assert found.high - found.low < 0.01
    assert found.p_value < 1e-10
    apart = difference(_mean(values), _mean(rng.normal(size=40)))
    assert apart.low < apart.value < apart.high
    assert (apart.p_value < 0.05) == (not apart.low < 0 < apart.high)


def test_a_difference_of_one_with_itself_has_no_interval():
    estimate = _mean(np.random.default_rng(0).normal(size=20))
    found = difference(estimate, estimate)
    assert (found.value, found.p_value, found.figure("mae", None).note) == (0, None, ALL_ALIKE)


def test_a_difference_of_edges_has_a_width():
    found = difference(_mean([1.0] * 12), _mean([0.0] * 12))
    assert found.value == 1
    assert 0 < found.low < found.high
    assert found.p_value < 0.01


def test_p_values_are_students_where_nothing_is_bounded():
    rng = np.random.default_rng(3)
    for shift in (0.1, 0.4, 1.0):
        first, second = rng.normal(size=60) + shift, rng.normal(size=60)
        found, exact = difference(_mean(first), _mean(second)), stats.ttest_rel(first, second)
        assert found.p_value == pytest.approx(exact.pvalue, rel=0.02, abs=1e-9)


def test_what_was_chosen_anew_widens():
    parts = np.random.default_rng(0).normal(size=50) / 500
    parts -= parts.mean()
    given = Estimate(0.6, parts, 50, 50)
    anew = Estimate(0.6, parts, 50, 50, redrawn=2 * (redraws(50, 500, 0) @ parts))
    assert anew.variance == pytest.approx(np.var(anew.redrawn, ddof=1))
    assert anew.variance > 3 * given.variance
    # The same choice in both: paired; beside one that needs no choice, its parts are drawn as well.
    weights = redraws(50, 500, 0)
    assert difference(anew, anew).figure("auroc", None).note == ALL_ALIKE
    assert difference(anew, given, weights).high > 0
