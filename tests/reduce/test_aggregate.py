import numpy as np
import plain_reduce as plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_dist import schema
from pa_dist.ragged import offsets
from pa_dist.reduce.block.aggregate import buckets, step_aggregates, token_aggregates
from pa_dist.reduce.block.predictors import predictions

FLOATS = st.floats(-50, 50, width=32)


def _nan(value):
    return np.nan if value is None else value


@given(st.lists(st.lists(FLOATS, max_size=20), max_size=12))
def test_token_aggregates_agree_with_loops(steps):
    flat = np.array([x for step in steps for x in step], np.float32)
    found = token_aggregates(flat, np.array([len(step) for step in steps], np.int64))
    expected = [[_nan(plain.token_agg(agg, step)) for step in steps] for agg in schema.TOKEN_AGGS]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), rtol=1e-12, atol=1e-12)


def test_sums_run_in_float64():
    # In float32, 2^24 + 1 is 2^24: adding 1 a hundred times would change nothing.
    flat = np.array([2**24] + [1] * 100, np.float32)
    assert token_aggregates(flat, np.array([101]))[1, 0] == 2**24 + 100


RAGGED = st.lists(st.lists(st.one_of(st.none(), plain.EIGHTHS, FLOATS), max_size=40), max_size=8)


@given(RAGGED)
def test_step_aggregates_agree_with_loops(trajectories):
    values, layout, n = _dense(trajectories)
    found = step_aggregates(values, layout, n, schema.STEP_AGGS)[0]
    expected = [[_nan(plain.step_agg(agg, steps)) for steps in trajectories] for agg in schema.STEP_AGGS]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), rtol=1e-9, atol=1e-9)


@given(RAGGED)
def test_predictions_agree_with_loops_to_the_last_tie(trajectories):
    values, layout, n = _dense(trajectories)
    found = predictions(values, layout, n)[0]
    starts = offsets(np.array([len(steps) for steps in trajectories], np.int64))
    for k, steps in enumerate(trajectories):
        expected = plain.predict(steps)
        for place, predictor in enumerate(schema.PREDICTORS):
            blamed = expected[predictor]
            assert found[place, k] == (-1 if blamed is None else starts[k] + blamed), predictor


def _dense(trajectories):
    values = np.array([[_nan(s) for steps in trajectories for s in steps]], float)
    counts = np.array([len(steps) for steps in trajectories], np.int64)
    return values, buckets(~np.isnan(values[0]), offsets(counts)), len(trajectories)


@pytest.mark.parametrize(
    ("steps", "min_cumulative", "sharpest_drop", "sharpest_abs_drop"),
    [
        # Running sums 1, -1, -1, 2: the lowest, -1, first at 1. Lowest value -2 at 1. Falls: 3 (to 1); then rises.
        ([1.0, -2.0, 0.0, 3.0], 1, 1, 1),
        # None negative: sharpest_drop takes the first. Falls: 1 (to 1), 2 (to 3).
        ([2.0, 1.0, 3.0, 1.0], 0, 0, 3),
        # Nothing falls. Running sums -3, -5, -6.
        ([-3.0, -2.0, -1.0], 2, 0, 0),
        # Running sums over the valid steps 1 and 3: 3, 2. From 1 to 3 it falls by 4, across the gap.
        ([None, 3.0, None, -1.0], 3, 3, 3),
        # Two falls of 1: the first one's later step.
        ([2.0, 1.0, 2.0, 1.0], 0, 0, 1),
    ],
)
def test_predictors_by_hand(steps, min_cumulative, sharpest_drop, sharpest_abs_drop):
    assert predictions(*_dense([steps]))[0, :, 0].tolist() == [min_cumulative, sharpest_drop, sharpest_abs_drop]


def test_bottom10_takes_the_lowest_tenth_rounded_up():
    # 11 steps: ceil(1.1) = 2 lowest of 1..11 are 1 and 2. 10 steps: one, the 1.
    values, layout, n = _dense([[float(x) for x in range(11, 0, -1)], [float(x) for x in range(10, 0, -1)]])
    assert step_aggregates(values, layout, n, ["bottom10"])[0, 0].tolist() == [1.5, 1.0]


def test_sum_does_not_depend_on_neighbours():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=13).tolist()
    alone = step_aggregates(*_dense([steps]), ["sum"])[0, 0, 0]
    among = step_aggregates(*_dense([rng.normal(size=16).tolist(), steps, [1.0] * 9]), ["sum"])[0, 0, 1]
    assert alone == among == sum(steps)
