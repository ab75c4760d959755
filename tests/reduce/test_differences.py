"""Differences of readings: families, with Holm's adjustment worked out by hand."""

import numpy as np
import pytest

from pa_dist.config import Evaluate
from pa_dist.reduce.choice.differences import (
    BASELINE,
    CROSS_FITTED,
    HEADLINE,
    HINDSIGHT,
    METHOD,
    NO_CELL,
    Reading,
    compare,
    holm,
)
from pa_dist.reduce.metrics.intervals import Estimate, difference, nothing

PLACE = ("fa", ("who", None, None))
DROP = ("mean", None, "sharpest_drop")
SETTINGS = Evaluate(resamples=50)


def _reading(method, estimate, choice=HEADLINE, cell=DROP, **beside):
    return Reading(*PLACE, method, choice, cell, "step_accuracy", None, estimate, (), beside)


def _estimate(value, seed=0, **settings):
    parts = np.random.default_rng(seed).normal(size=12) / 50
    return Estimate(value, parts - parts.mean(), 12, 12, **settings)


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.5, times 4 3 2 1: 0.04 0.06 0.06 0.5, never falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_differences_are_paired_and_a_family_is_adjusted():
    mine, other, random = _estimate(0.5), _estimate(0.3, 1), _estimate(0.6, 2)
    readings = [
        _reading(METHOD, mine),
        _reading(METHOD, mine, HINDSIGHT),
        _reading("entropy", other),
        _reading("entropy", other, cell=("mean", None, "min_cumulative")),  # of another predictor
        _reading("progress_advantage_per_token", mine),  # no baseline
        Reading(*PLACE, BASELINE, None, (None, None, "random"), "step_accuracy", None, random),
    ]
    rows = compare(readings, SETTINGS)
    assert [row.against for row in rows if row.against is None] == [None] * 5
    found = [row for row in rows if row.against]
    assert [row.against for row in found] == ["entropy", "random"]
    for row, theirs in zip(found, (other, random), strict=True):
        exact = difference(mine, theirs)
        assert (row.figure.value, row.figure.ci_low, row.p_value) == (exact.value, exact.low, exact.p_value)
        assert row.comparisons == 2
    assert [row.p_holm for row in found] == pytest.approx(holm([row.p_value for row in found]))


def test_only_shared_rows_are_compared():
    mine = _reading(METHOD, _estimate(0.5), entropy=_estimate(0.75))
    other = _reading("entropy", _estimate(0.5, 1), **{METHOD: _estimate(0.25, 1)})
    (row,) = (row for row in compare([mine, other], SETTINGS) if row.against)
    assert row.figure.value == 0.5


def test_what_is_missing_says_why_and_takes_no_part():
    chosen = _estimate(0.5, redrawn=np.random.default_rng(0).normal(size=50) / 10)
    readings = [
        _reading(METHOD, chosen, CROSS_FITTED, NO_CELL),
        _reading("entropy", nothing("no entropy here"), CROSS_FITTED, NO_CELL),
        _reading("perplexity", _estimate(0.1, 1), CROSS_FITTED, NO_CELL),
    ]
    rows = {row.against: row for row in compare(readings, SETTINGS) if row.against}
    missing = rows["entropy"]
    assert (missing.figure.value, missing.figure.note, missing.p_value, missing.comparisons) == (
        None,
        "no entropy here",
        None,
        None,
    )
    assert rows["perplexity"].comparisons == 1


def test_intervals_can_be_left_out():
    rows = compare(
        [_reading(METHOD, _estimate(0.5)), _reading("entropy", _estimate(0.3, 1))], Evaluate(intervals="none")
    )
    assert all((r.figure.ci_low, r.p_value, r.p_holm) == (None,) * 3 for r in rows)
