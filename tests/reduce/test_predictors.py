import numpy as np
import pytest

from pa_dist.reduce.block.aggregate import buckets
from pa_dist.reduce.block.predictors import fell_back, predictions, stands_out
from pa_dist.schema import REWARD_PREDICTORS

N = np.nan
# Values of a trajectory's steps, and for each predictor the step it blames and whether that is only its tie rule.
CASES = [
    # Nothing is negative and nothing falls: every predictor has only its rule.
    ([1.0, 1.0, 2.0], {"min_cumulative": (0, True), "sharpest_drop": (0, True), "sharpest_abs_drop": (0, True)}),
    # Nothing is negative, but step 1 falls by 2: running sums 3, 4, 6.
    ([3.0, 1.0, 2.0], {"min_cumulative": (0, True), "sharpest_drop": (0, True), "sharpest_abs_drop": (1, False)}),
    # Running sums 1, 0.5, 1.5: the lowest is step 1's, which is negative, though no sum is.
    ([1.0, -0.5, 1.0], {"min_cumulative": (1, False), "sharpest_drop": (1, False), "sharpest_abs_drop": (1, False)}),
    # Running sums 1, 4, 3: never below the first, which is above zero, though a step is negative.
    ([1.0, 3.0, -1.0], {"min_cumulative": (0, True), "sharpest_drop": (2, False), "sharpest_abs_drop": (2, False)}),
    # The first step is the worst, and nothing falls after it.
    ([-2.0, -1.0, 0.0], {"min_cumulative": (1, False), "sharpest_drop": (0, False), "sharpest_abs_drop": (0, True)}),
    # A single valid step can be negative, and cannot fall; the others were truncated away.
    ([N, -1.0, N], {"min_cumulative": (1, False), "sharpest_drop": (1, False), "sharpest_abs_drop": (1, True)}),
    ([0.0], {"min_cumulative": (0, True), "sharpest_drop": (0, True), "sharpest_abs_drop": (0, True)}),
    # No valid step: nothing is blamed, by no rule.
    ([N, N], {"min_cumulative": (-1, False), "sharpest_drop": (-1, False), "sharpest_abs_drop": (-1, False)}),
    # Of reward models, less their threshold: the first below it, or the lowest.
    ([0.3, 0.1, 0.2], {"earliest_below": (1, True)}),
    ([0.3, -0.1, -0.2], {"earliest_below": (1, False)}),
]


@pytest.mark.parametrize(("steps", "expected"), CASES)
def test_what_is_blamed_and_what_is_a_tie_rule(steps, expected):
    _check([steps], [expected])


def test_together_as_alone():
    _check(*zip(*CASES, strict=True))


def _check(trajectories, expected):
    flat = np.concatenate([np.array(steps) for steps in trajectories])
    starts = np.cumsum([0, *map(len, trajectories)])
    layout = buckets(np.isfinite(flat), starts)
    blamed = predictions(flat[None], layout, len(trajectories), REWARD_PREDICTORS)
    fell = fell_back(flat[None], blamed, layout, REWARD_PREDICTORS)
    for row, of in enumerate(expected):
        for name, (step, fallback) in of.items():
            place = REWARD_PREDICTORS.index(name)
            at = -1 if step < 0 else starts[row] + step
            assert (blamed[0, place, row], fell[0, place, row]) == (at, fallback), name


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # Median 0; distances from it 1, 0, 0.5, 0.5, 6, their median 0.5: -6 / (1.4826 * 0.5).
        ([1.0, 0.0, 0.5, -0.5, -6.0], -6 / 0.7413),
        # Of an even number: 0.5 lies between 0 and 1; distances 0.5, 0.5, 1.5, 1.5, 2.5, 6.5, their median 1.5.
        ([1.0, 0.0, 2.0, -1.0, 3.0, -6.0], -6.5 / (1.4826 * 1.5)),
        # A step that was cut is none of them.
        ([1.0, N, 0.0, 0.5, -0.5, N, -6.0], -6 / 0.7413),
        # Too few, most of them equal, none at all.
        ([1.0, 0.0, 0.5, -6.0], N),
        ([1.0, 1.0, 1.0, 1.0, 0.5, -6.0], N),
        ([N, N], N),
    ],
)
def test_how_far_a_step_stands_out(steps, expected):
    flat = np.array([*steps, *([0.0] * 20)])  # a longer trajectory beside it
    layout = buckets(np.isfinite(flat), np.array([0, len(steps), len(flat)]))
    blamed = predictions(flat[None], layout, 2)
    found = stands_out(flat[None], blamed, layout)
    assert found[0, :, 0].tolist() == pytest.approx([expected] * 3, nan_ok=True)
    assert np.isnan(found[0, :, 1]).all()
