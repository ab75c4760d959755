"""Cells chosen on other folds: against plain loops over folds and pairs, and on noise."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pa_dist.reduce.choice.cross_fitting import FOLDS, Pairs, choose_by_mean, folds, read_auroc, read_means
from pa_dist.reduce.metrics.intervals import Resampling


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


@pytest.mark.parametrize("seed", range(8))
def test_auroc_is_that_of_loops_over_pairs(seed):
    rng = np.random.default_rng(seed)
    n, resampling = 40, Resampling(rng.permutation(np.arange(40) % 13), 3, seed)
    scores, success = rng.integers(0, 6, (4, n)).astype(float), rng.random(n) < 0.5  # many ties
    fold = folds(13, seed)[resampling.clusters]
    choice, best = Pairs.of(scores, success, fold).choose()
    np.testing.assert_array_equal(choice, _plain_choice(scores, success, fold))
    assert best == _first_best([roc_auc_score(success, score) for score in scores])
    value, resampled = read_auroc(scores, success, fold, choice, resampling.clusters, resampling)
    assert value == pytest.approx(_plain_read(scores, success, fold, choice))
    for drawn, found in zip(np.random.default_rng(seed).integers(0, 13, (3, 13)), resampled, strict=True):
        rows = np.concatenate([np.flatnonzero(resampling.clusters == cluster) for cluster in drawn])
        assert found == pytest.approx(_plain_read(scores[:, rows], success[rows], fold[rows], choice))


def test_one_cell_everywhere_is_its_auroc():
    rng = np.random.default_rng(0)
    score, success = rng.normal(size=30), rng.random(30) < 0.4
    resampling = Resampling(np.arange(30), 0, 0)
    choice = np.zeros((FOLDS, FOLDS), int)
    value, _ = read_auroc(score[None], success, folds(30, 0), choice, resampling.clusters, resampling)
    assert value == pytest.approx(roc_auc_score(success, score))


def test_pairs_that_no_fold_can_choose_for_are_undefined():
    # The only failure is in fold 0, so what is left without fold 0 holds successes alone.
    success, fold = np.array([False, True, True, True, True]), np.arange(FOLDS)
    scores, resampling = np.arange(10.0).reshape(2, 5), Resampling(np.arange(5), 4, 0)
    choice, best = Pairs.of(scores, success, fold).choose()
    assert choice[0, 1] == -1
    assert best == 0
    value, resampled = read_auroc(scores, success, fold, choice, resampling.clusters, resampling)
    assert np.isnan(value)
    assert len(resampled) == 0


def test_means_by_hand():
    # A task a fold. Sums 3, 3, 1. Without fold 0 the cells have 2, 3, 1; without 1: 2, 3, 1; without 2: 2, 2, 1, a tie
    # that goes to the first; without 3: 3, 2, 0; without 4: 3, 2, 1.
    outcomes = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]], float)
    choice, best = choose_by_mean(outcomes, np.arange(FOLDS))
    assert choice.tolist() == [1, 1, 0, 0, 0]
    assert best == 0
    assert read_means(outcomes, np.arange(FOLDS), choice).tolist() == [0, 0, 1, 0, 0]


def test_rows_that_do_not_count_choose_nothing():
    outcomes = np.full((5, 2), np.nan)
    outcomes[0] = 1
    choice, _ = choose_by_mean(outcomes, np.arange(FOLDS))
    assert choice.tolist() == [-1, 0, 0, 0, 0]
    assert np.isnan(read_means(outcomes, np.arange(FOLDS), choice)).all()


def test_folds_are_even_and_the_seed_decides():
    assert np.bincount(folds(12, 0)).tolist() == [3, 3, 2, 2, 2]
    assert folds(12, 0).tolist() == folds(12, 0).tolist() != folds(12, 1).tolist()


def test_intervals_hold_the_truth_less_often_where_the_choice_wavers():
    """As the module says: on pure noise they are too narrow, one cell's are not."""
    rng, held = np.random.default_rng(1), []
    for seed in range(200):
        resampling = Resampling(np.arange(80), 200, seed)
        success, fold, scores = rng.permutation(80) < 35, folds(80, seed), rng.normal(size=(15, 80))
        choice, _ = Pairs.of(scores, success, fold).choose()
        read = [
            read_auroc(scores, success, fold, cells, resampling.clusters, resampling)[1]
            for cells in (choice, np.zeros_like(choice))
        ]
        held.append([np.quantile(of, 0.025) <= 0.5 <= np.quantile(of, 0.975) for of in read])
    crossed, one_cell = np.mean(held, axis=0)
    print(f"held the truth: {crossed:.1%} chosen on other folds, {one_cell:.1%} of one cell")
    assert 0.78 < crossed < 0.93
    assert one_cell > 0.91


def test_noise_looks_good_in_hindsight_alone():
    """Cells of noise on 60 trajectories, 200 times: the standard error of AUROC is 0.076 a time, 0.005 of the mean."""
    rng, crossed, hindsight, picked, best_mean = np.random.default_rng(0), [], [], [], []
    for seed in range(200):
        resampling = Resampling(np.arange(60), 0, seed)
        success, fold = rng.permutation(60) < 25, folds(60, seed)
        scores = rng.normal(size=(30, 60))
        choice, best = Pairs.of(scores, success, fold).choose()
        crossed.append(read_auroc(scores, success, fold, choice, resampling.clusters, resampling)[0])
        hindsight.append(roc_auc_score(success, scores[best]))
        outcomes = (rng.random((60, 15)) < 0.3).astype(float)
        choice, best = choose_by_mean(outcomes, fold)
        picked.append(read_means(outcomes, fold, choice).mean())
        best_mean.append(outcomes[:, best].mean())
    assert np.mean(hindsight) > 0.62
    assert abs(np.mean(crossed) - 0.5) < 0.02
    assert np.mean(best_mean) > 0.37
    assert abs(np.mean(picked) - 0.3) < 0.015
