"""Cells chosen on other folds: against plain loops over folds and pairs, and on noise."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pa_dist.reduce.choice.cross_fitting import Pairs, Sums, read_auroc, read_means, redraws
from pa_dist.reduce.metrics.intervals import FOLDS, Clusters, Estimate


def _plain_auroc(pairs):
    """Of (success's score, failure's score)."""
    return np.mean([(s > f) + (s == f) / 2 for s, f in pairs]) if pairs else np.nan


def _pairs(score, success, fold, won_in, lost_in):
    won = [s for s, y, k in zip(score, success, fold, strict=True) if y and k in won_in]
    lost = [s for s, y, k in zip(score, success, fold, strict=True) if not y and k in lost_in]
    return [(s, f) for s in won for f in lost]


def _first_best(values):
    return -1 if np.isnan(values).all() else int(np.nanargmax(values))


def _plain_choice(scores, success, fold):
    choice = np.empty((FOLDS, FOLDS), int)
    for a, b in np.ndindex(FOLDS, FOLDS):
        others = set(range(FOLDS)) - {a, b}
        choice[a, b] = _first_best([_plain_auroc(_pairs(s, success, fold, others, others)) for s in scores])
    return choice


def _plain_read(scores, success, fold, choice):
    pairs = [
        pair for a, b in np.ndindex(FOLDS, FOLDS) for pair in _pairs(scores[choice[a, b]], success, fold, {a}, {b})
    ]
    return _plain_auroc(pairs)


def _alone(n, seed=0):
    """A cluster a row."""
    return Clusters.of(np.arange(n), seed)


@pytest.mark.parametrize("seed", range(8))
def test_auroc_is_that_of_loops_over_pairs(seed):
    rng = np.random.default_rng(seed)
    clusters = Clusters.of(rng.permutation(np.arange(40) % 13), seed)
    scores, success = rng.integers(0, 6, (4, 40)).astype(float), rng.random(40) < 0.5  # many ties
    pairs, fold = Pairs.of(scores, success, clusters), clusters.folds
    choice, best = pairs.choose()
    np.testing.assert_array_equal(choice, _plain_choice(scores, success, fold))
    assert best == _first_best([roc_auc_score(success, score) for score in scores])
    value, parts = read_auroc(scores, success, choice, clusters)
    assert value == pytest.approx(_plain_read(scores, success, fold, choice))
    # A bin more than once: to first order what its rows repeated would make of it.
    assert abs(parts.sum()) < 1e-12
    for drawn in range(3):
        rows = np.concatenate([np.arange(40)] * 200 + [np.flatnonzero(clusters.bins == drawn)])
        again, _ = read_auroc(scores[:, rows], success[rows], choice, clusters.some(rows))
        assert parts[drawn] == pytest.approx((again - value) * 200, abs=2e-3)


def test_one_cell_everywhere_is_its_auroc():
    rng = np.random.default_rng(0)
    score, success = rng.normal(size=30), rng.random(30) < 0.4
    value, _ = read_auroc(score[None], success, np.zeros((FOLDS, FOLDS), int), _alone(30))
    assert value == pytest.approx(roc_auc_score(success, score))


def test_pairs_that_no_fold_can_choose_for_are_undefined():
    # The only failure is in fold 0, so what is left without fold 0 holds successes alone.
    success, clusters = np.array([False, True, True, True, True]), Clusters(np.arange(FOLDS), FOLDS, FOLDS, 0)
    scores = np.arange(10.0).reshape(2, 5)
    choice, best = Pairs.of(scores, success, clusters).choose()
    assert choice[0, 1] == -1
    assert best == 0
    value, parts = read_auroc(scores, success, choice, clusters)
    assert np.isnan(value)
    assert len(parts) == 0


def test_means_by_hand():
    # A task a fold. Sums 3, 3, 1. Without fold 0 the cells have 2, 3, 1; without 1: 2, 3, 1; without 2: 2, 2, 1, a tie
    # that goes to the first; without 3: 3, 2, 0; without 4: 3, 2, 1.
    outcomes = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]], float)
    choice, best = Sums.of(outcomes, Clusters(np.arange(FOLDS), FOLDS, FOLDS, 0)).choose()
    assert choice.tolist() == [1, 1, 0, 0, 0]
    assert best == 0
    assert read_means(outcomes, np.arange(FOLDS), choice).tolist() == [0, 0, 1, 0, 0]


def test_rows_that_do_not_count_choose_nothing():
    outcomes = np.full((5, 2), np.nan)
    outcomes[0] = 1
    choice, _ = Sums.of(outcomes, Clusters(np.arange(FOLDS), FOLDS, FOLDS, 0)).choose()
    assert choice.tolist() == [-1, 0, 0, 0, 0]
    assert np.isnan(read_means(outcomes, np.arange(FOLDS), choice)).all()


def test_folds_are_even_and_the_seed_decides():
    assert np.bincount(_alone(12).folds).tolist() == [3, 3, 2, 2, 2]
    assert _alone(12).folds.tolist() == _alone(12).folds.tolist() != _alone(12, 1).folds.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_means_chosen_anew_are_those_of_repeated_rows(seed):
    rng, clusters = np.random.default_rng(seed), Clusters.of(np.arange(60) % 20, seed)
    outcomes = (rng.random((60, 4)) < 0.5).astype(float)
    weights = redraws(20, 30, seed)
    found = Sums.of(outcomes, clusters).redrawn(weights)
    expected = []
    for drawn in 1 + weights.astype(int):
        rows = np.repeat(np.arange(60), drawn[clusters.bins])
        again = clusters.some(rows)
        choice, _ = Sums.of(outcomes[rows], again).choose()
        expected.append(read_means(outcomes[rows], again.folds, choice).mean())
    np.testing.assert_allclose(found, expected - np.mean(expected), atol=1e-12)


def test_pairs_chosen_anew_are_near_those_of_repeated_rows():
    """They are counted to first order, and the choice may differ where cells do not."""
    rng, clusters = np.random.default_rng(0), _alone(300)
    success = rng.random(300) < 0.4
    scores = rng.normal(size=(4, 300)) + np.array([[1.0], [0.2], [0.1], [0]]) * success
    pairs, weights = Pairs.of(scores, success, clusters), redraws(300, 40, 0)
    expected = []
    for drawn in 1 + weights.astype(int):
        rows = np.repeat(np.arange(300), drawn[clusters.bins])
        again = clusters.some(rows)
        choice, _ = Pairs.of(scores[:, rows], success[rows], again).choose()
        expected.append(read_auroc(scores[:, rows], success[rows], choice, again)[0])
    assert np.corrcoef(pairs.redrawn(weights), expected)[0, 1] > 0.98
    assert pairs.redrawn(weights).std() == pytest.approx(np.std(expected), rel=0.1)


def test_intervals_hold_the_truth_where_the_choice_wavers():
    """On pure noise: somewhat too often; given the choice alone, too seldom."""
    rng, held = np.random.default_rng(1), []
    for seed in range(200):
        clusters = _alone(80, seed)
        success, scores = rng.permutation(80) < 35, rng.normal(size=(15, 80))
        pairs = Pairs.of(scores, success, clusters)
        value, parts = read_auroc(scores, success, pairs.choose()[0], clusters)
        given = Estimate(value, parts, 80, 80, rarer=35)
        anew = Estimate(value, parts, 80, 80, rarer=35, redrawn=pairs.redrawn(redraws(80, 200, seed)))
        held.append([low <= 0.5 <= high for low, high in (given.interval(), anew.interval())])
    without, repeated = np.mean(held, axis=0)
    print(f"held the truth: {repeated:.1%}, given the choice {without:.1%}")
    assert 0.78 < without < 0.93
    assert repeated > 0.94


def test_noise_looks_good_in_hindsight_alone():
    """Cells of noise on 60 trajectories, 200 times: the standard error of AUROC is 0.076 a time, 0.005 of the mean."""
    rng, crossed, hindsight, picked, best_mean = np.random.default_rng(0), [], [], [], []
    for seed in range(200):
        success, clusters = rng.permutation(60) < 25, _alone(60, seed)
        scores = rng.normal(size=(30, 60))
        choice, best = Pairs.of(scores, success, clusters).choose()
        crossed.append(read_auroc(scores, success, choice, clusters)[0])
        hindsight.append(roc_auc_score(success, scores[best]))
        outcomes = (rng.random((60, 15)) < 0.3).astype(float)
        choice, best = Sums.of(outcomes, clusters).choose()
        picked.append(read_means(outcomes, clusters.folds, choice).mean())
        best_mean.append(outcomes[:, best].mean())
    assert np.mean(hindsight) > 0.62
    assert abs(np.mean(crossed) - 0.5) < 0.02
    assert np.mean(best_mean) > 0.37
    assert abs(np.mean(picked) - 0.3) < 0.015
