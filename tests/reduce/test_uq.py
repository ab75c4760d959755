import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from pa_dist.reduce.metrics.intervals import Resampling
from pa_dist.reduce.metrics.uq import COVERAGES, METRICS, _measure, _Ranking, uncertainty

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10))
ROWS = st.lists(st.tuples(VALUES, st.sampled_from([0.0, 0.25, 1.0])), min_size=2, max_size=40)


def _figures(score, reward, resamples=0, clusters=None, seed=0):
    score, reward = np.array(score, float), np.array(reward, float)
    resampling = Resampling(np.arange(len(score)) if clusters is None else np.array(clusters), resamples, seed)
    return {(f.metric, f.at): f for f in uncertainty(score, reward, reward >= 1, resampling)}


def _plain_risk(score, success):
    """Expected risk of the k best for every k: within a tied group errors come at the group's own rate."""
    risks, wrong, taken = [], 0.0, 0
    for value in sorted(set(score), reverse=True):
        tied = [not s for v, s in zip(score, success, strict=True) if v == value]
        for j in range(1, len(tied) + 1):
            risks.append((wrong + j * sum(tied) / len(tied)) / (taken + j))
        wrong, taken = wrong + sum(tied), taken + len(tied)
    return risks


@settings(deadline=None)
@given(ROWS)
def test_points_are_sklearns_and_scipys(rows):
    score, reward = map(list, zip(*rows, strict=True))
    success = [r >= 1 for r in reward]
    found = _figures(score, reward)
    risks = _plain_risk(score, success)
    _close(found["aurc", None], sum(risks) / len(risks))
    for tenth, coverage in enumerate(COVERAGES, 1):
        _close(found["risk", coverage], risks[-(-tenth * len(rows) // 10) - 1])
    if 0 < sum(success) < len(success):
        _close(found["auroc", None], roc_auc_score(success, score))
        _close(found["auprc", None], average_precision_score(success, score))
    else:
        assert found["auroc", None].value is None is found["auprc", None].value
        assert "one class only" in found["auroc", None].note
    if len(set(score)) > 1 and len(set(reward)) > 1:
        _close(found["spearman", None], spearmanr(score, reward).statistic)
    else:
        assert found["spearman", None].value is None
        assert found["spearman", None].note


def _close(figure, expected):
    assert math.isclose(figure.value, expected, rel_tol=1e-9, abs_tol=1e-9), figure


@settings(deadline=None)
@given(ROWS, st.data())
def test_weights_are_repeated_rows(rows, data):
    score, reward = map(np.array, zip(*rows, strict=True))
    weights = np.array([data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))) for _ in "ab"])
    assume((weights.sum(axis=1) > 0).all())
    ranking = _Ranking.of(score, reward, reward >= 1)
    weighted = _measure(ranking, weights.astype(float), np.arange(len(rows)))
    for drawn, found in zip(weights, weighted, strict=True):
        again = _figures(np.repeat(score, drawn), np.repeat(reward, drawn))
        expected = [again[name].value for name in METRICS]
        np.testing.assert_allclose(found, [np.nan if e is None else e for e in expected], rtol=1e-9, atol=1e-9)


def test_by_hand():
    # Scores 4 3 2 1, success yes no yes no. Pairs (success, failure) in order: 4>3, 4>1, 2<3, 2>1: 3 of 4.
    # Precision at the two hits: 1/1 and 2/3: mean 5/6. Risks of the best 1, 2, 3, 4: 0, 1/2, 1/3, 1/2: mean 1/3.
    # Ranks of rewards 3.5 1.5 3.5 1.5 against 4 3 2 1: r = 1 / sqrt(5 * 4).
    found = _figures([4, 3, 2, 1], [1, 0, 1, 0])
    assert found["auroc", None].value == 0.75
    assert math.isclose(found["auprc", None].value, 5 / 6)
    assert math.isclose(found["aurc", None].value, 1 / 3)
    assert math.isclose(found["spearman", None].value, 2 / math.sqrt(5 * 4))
    assert found["risk", 0.3].value == 0.5  # ceil(1.2) = 2 best


def test_bootstrap_is_a_resampling_of_clusters():
    """The same draws, done by repeating rows and calling scikit-learn."""
    rng = np.random.default_rng(1)
    score, reward, clusters = rng.normal(size=40), (rng.random(40) < 0.5).astype(float), np.arange(40) // 4
    figure = _figures(score, reward, 50, clusters, seed=5)["auroc", None]
    values = []
    for drawn in np.random.default_rng(5).integers(0, 10, (50, 10)):
        rows = np.concatenate([np.flatnonzero(clusters == cluster) for cluster in drawn])
        values.append(roc_auc_score(reward[rows], score[rows]))
    np.testing.assert_allclose((figure.ci_low, figure.ci_high), np.quantile(values, [0.025, 0.975]))


def test_resamples_of_one_class_are_left_out_and_counted():
    # One success among ten: a resample without it has one class.
    figure = _figures([*range(10, 0, -1)], [1, *[0] * 9], resamples=200)["auroc", None]
    assert figure.value == figure.ci_low == figure.ci_high == 1
    assert "of 200 resamples left out" in figure.note


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_one_class_is_null_with_a_note(reward):
    found = _figures([1, 2, 3], [reward] * 3, resamples=20)
    for metric in ("auroc", "auprc", "spearman"):
        assert (found[metric, None].value, found[metric, None].ci_low) == (None, None)
        assert "one class only" in found[metric, None].note
    assert found["aurc", None].value == 1 - reward  # known, if dull


def test_null_scores_are_left_out_and_a_null_column_says_so():
    found = _figures([np.nan, 3, 2, 1], [1, 1, 0, 0], resamples=50)
    assert found["auroc", None].value == 1
    assert found["auroc", None].n == 3
    assert "1 trajectories without a score left out" in found["auroc", None].note
    empty = _figures([np.nan] * 3, [1, 0, 0], resamples=50)
    assert all(f.value is None and "no trajectory has a score" in f.note and f.n == 0 for f in empty.values())


def test_a_single_trajectory():
    found = _figures([1.0], [1.0], resamples=10)
    assert found["auroc", None].value is None
    assert (found["risk", 1.0].value, found["risk", 1.0].ci_low) == (0, None)
    assert found["risk", 1.0].note == "fewer than ten tasks: no interval"
