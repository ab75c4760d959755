import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from pa_dist.reduce.metrics.intervals import TOO_FEW, TOO_FEW_OF_OUTCOME, Clusters
from pa_dist.reduce.metrics.uq import COVERAGES, METRICS, Outcomes, Ranked, uncertainty

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-10, 10))
ROWS = st.lists(st.tuples(VALUES, st.sampled_from([0.0, 0.25, 1.0])), min_size=2, max_size=40)


def _estimates(score, reward, clusters=None):
    score, reward = np.array(score, float), np.array(reward, float)
    numbers = np.arange(len(score)) if clusters is None else np.array(clusters)
    outcomes = Outcomes(reward, reward >= 1, Clusters.of(numbers, 0))
    return dict(zip(METRICS, uncertainty(score, outcomes), strict=True))


def _figures(score, reward, clusters=None):
    return {name: of.figure(*name) for name, of in _estimates(score, reward, clusters).items()}


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


@settings(deadline=None, max_examples=30)
@given(ROWS, st.integers(0, 39))
def test_influences_are_derivatives(rows, at):
    """The plain twin: each row some hundred times, and one of them twice more; but for AURC, which is a sum over rows
    and not a function of shares of them, and for risks, whose cut falls between two rows."""
    score, reward = map(np.array, zip(*rows, strict=True))
    assume(0 < np.count_nonzero(reward >= 1) < len(rows) and len(set(score)) > 1)
    at, often = at % len(rows), 400
    more = np.full(len(rows), often)
    more[at] += 2
    found = _estimates(score, reward)
    place = Clusters.of(np.arange(len(rows)), 0).bins[at]
    before, after = (
        _estimates(np.repeat(score, times), np.repeat(reward, times)) for times in (np.full(len(rows), often), more)
    )
    for name in (("auroc", None), ("auprc", None), ("spearman", None), ("risk", 1.0)):
        slope = (after[name].value - before[name].value) / (2 / often)
        assert math.isclose(found[name].parts[place], slope, rel_tol=0.03, abs_tol=3e-3), name


def test_influence_on_aurc_is_a_derivative():
    """Against the sum over rows with one more of them: of many rows a row more is a small step."""
    rng = np.random.default_rng(0)
    score, reward = rng.integers(0, 300, 2000).astype(float), (rng.random(2000) < 0.6).astype(float)
    outcomes = Outcomes(reward, reward >= 1, Clusters.of(np.arange(2000), 0))
    ranked = Ranked.of(score, outcomes)
    value, influence = ranked.aurc()
    for row in (3, 700, 1500):
        at = np.flatnonzero(ranked.ties.order == row)[0]
        again = _estimates(np.append(score, score[row]), np.append(reward, reward[row]))["aurc", None].value
        assert math.isclose(influence[at], again - value, rel_tol=0.05, abs_tol=2e-5)


@settings(deadline=None)
@given(ROWS)
def test_influences_sum_to_nothing(rows):
    for name, found in _estimates(*map(list, zip(*rows, strict=True))).items():
        assert abs(found.parts.sum()) < 1e-9, name


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


def test_a_bootstrap_has_the_same_width():
    """The plain twin: whole tasks drawn with replacement, and the figures taken anew."""
    rng = np.random.default_rng(1)
    tasks = np.repeat(np.arange(300), 3)
    reward = (rng.random(900) < rng.random(300)[tasks]).astype(float)
    score = reward + 0.5 * rng.normal(size=300)[tasks] + rng.normal(size=900)
    found = _figures(score, reward, tasks)
    values = []
    for _ in range(600):
        rows = (3 * rng.integers(0, 300, 300)[:, None] + np.arange(3)).ravel()
        values.append([of.value for of in _estimates(score[rows], reward[rows]).values()])
    for name, widths in zip(METRICS, np.diff(np.quantile(values, [0.025, 0.975], axis=0), axis=0)[0], strict=True):
        # Of 600 resamples a width is known to 4%; the cut of a low coverage is not smooth.
        near = 0.3 if name[0] == "risk" and name[1] < 0.3 else 0.12
        assert math.isclose(found[name].ci_high - found[name].ci_low, widths, rel_tol=near), name


def test_the_rarer_outcome_decides():
    found = _figures([*range(12, 0, -1)], [*[1] * 8, *[0] * 4])
    assert (found["auroc", None].value, found["auroc", None].note) == (1, TOO_FEW_OF_OUTCOME)
    figure = _figures([*range(12, 0, -1)], [*[1] * 7, *[0] * 5])["auroc", None]
    # Perfect on twelve tasks is not perfect.
    assert figure.ci_low < 0.9
    assert figure.value == figure.ci_high == 1


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_one_class_is_null_with_a_note(reward):
    found = _figures([1, 2, 3], [reward] * 3)
    for metric in ("auroc", "auprc", "spearman"):
        assert (found[metric, None].value, found[metric, None].ci_low) == (None, None)
        assert "one class only" in found[metric, None].note
    assert found["aurc", None].value == 1 - reward  # known, if dull


def test_null_scores_are_left_out_and_a_null_column_says_so():
    found = _figures([np.nan, 3, 2, 1], [1, 1, 0, 0])
    assert found["auroc", None].value == 1
    assert found["auroc", None].n == 3
    assert "1 trajectories without a score left out" in found["auroc", None].note
    empty = _figures([np.nan] * 3, [1, 0, 0])
    assert all(f.value is None and "no trajectory has a score" in f.note and f.n == 0 for f in empty.values())


def test_a_single_trajectory():
    found = _figures([1.0], [1.0])
    assert found["auroc", None].value is None
    assert (found["risk", 1.0].value, found["risk", 1.0].ci_low) == (0, None)
    assert found["risk", 1.0].note == TOO_FEW
