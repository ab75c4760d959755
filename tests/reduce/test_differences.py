"""Differences of readings: paired, with p-values and Holm's adjustment worked out by hand."""

import numpy as np
import pytest

from pa_dist.reduce.choice.differences import (
    BASELINE,
    CROSS_FITTED,
    HEADLINE,
    HINDSIGHT,
    METHOD,
    NO_CELL,
    Reading,
    Resampled,
    compare,
    holm,
    nothing,
    p_value,
)

PLACE = ("fa", ("who", None, None))
DROP = ("mean", None, "sharpest_drop")


def _reading(method, estimate, choice=HEADLINE, cell=DROP, **beside):
    return Reading(*PLACE, method, choice, cell, "step_accuracy", None, estimate, (), beside)


def _estimate(value, *resampled):
    return Resampled(value, np.array(resampled, float), 10, 9)


def test_p_value_counts_both_sides():
    # Of 9 resamples 2 are at most zero, one of them zero itself, and 8 at least zero: 2 * (1 + 2) / 10.
    assert p_value(np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7.0])) == 0.6
    assert p_value(np.arange(1, 20.0)) == 2 / 20
    assert p_value(np.zeros(9)) == 1
    assert p_value(np.array([np.nan, *range(1, 20)])) == 2 / 20
    assert p_value(np.array([np.nan])) is None


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.5, times 4 3 2 1: 0.04 0.06 0.06 0.5, never falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_differences_are_paired_and_a_family_is_adjusted():
    mine, other = _estimate(0.5, 0.4, 0.5, 0.6), _estimate(0.3, 0.1, 0.4, 0.4)
    readings = [
        _reading(METHOD, mine),
        _reading(METHOD, mine, HINDSIGHT),
        _reading("entropy", other),
        _reading("entropy", other, cell=("mean", None, "min_cumulative")),  # of another predictor
        _reading("progress_advantage_per_token", mine),  # no baseline
        Reading(*PLACE, BASELINE, None, (None, None, "random"), "step_accuracy", None, _estimate(0.6, 0.5, 0.6, 0.7)),
    ]
    rows = compare(readings, 3)
    assert [row.against for row in rows if row.against is None] == [None] * 5
    entropy, random = (row for row in rows if row.against)
    assert (entropy.against, random.against) == ("entropy", "random")
    assert entropy.figure.value == pytest.approx(0.2)
    assert (entropy.figure.ci_low, entropy.figure.ci_high) == pytest.approx((0.105, 0.295))  # of 0.1, 0.2, 0.3
    assert random.figure.ci_low == pytest.approx(-0.1)  # always 0.1 below: no width
    assert random.figure.ci_high == pytest.approx(-0.1)
    assert entropy.p_value == random.p_value == 0.5
    assert (entropy.p_holm, entropy.comparisons) == (1, 2)


def test_only_shared_rows_are_compared():
    mine = _reading(METHOD, _estimate(0.5, 0.5), entropy=_estimate(0.75, 0.75))
    other = _reading("entropy", _estimate(0.5, 0.5), **{METHOD: _estimate(0.25, 0.25)})
    (row,) = (row for row in compare([mine, other], 1) if row.against)
    assert row.figure.value == 0.5


def test_what_is_missing_says_why_and_takes_no_part():
    readings = [
        _reading(METHOD, _estimate(0.5, 0.5), CROSS_FITTED, NO_CELL),
        _reading("entropy", nothing("no entropy here"), CROSS_FITTED, NO_CELL),
        _reading("perplexity", _estimate(0.1, 0.1), CROSS_FITTED, NO_CELL),
    ]
    rows = {row.against: row for row in compare(readings, 1) if row.against}
    missing = rows["entropy"]
    assert (missing.figure.value, missing.figure.note, missing.p_value, missing.comparisons) == (
        None,
        "no entropy here",
        None,
        None,
    )
    assert rows["perplexity"].comparisons == 1
