import math

from benchmarks import reducing

from pa_dist.config import Evaluate
from pa_dist.reduce.block.tables import reduce_block


def test_the_plain_loop_does_the_same_work():
    block = reducing.block(0, 12, 0.5, 0.5)
    assert 0 < block["step_labels"].null_count < 12
    reduced = reduce_block(block, Evaluate())
    looped = [reducing.plain_loop(reducing._as_arrays(row)) for row in block.to_pylist()]
    _same(reduced.steps.to_pylist(), [step for steps, _, _ in looped for step in steps])
    _same(reduced.scores.to_pylist(), [scores for _, scores, _ in looped])
    found = [*reduced.attributions.to_pylist(), *reduced.suspects.to_pylist()]
    expected = [blamed for _, _, rows in looped for blamed in rows]
    _same(*(sorted(rows, key=_cell) for rows in (found, expected)))
    assert found


def _cell(row):
    return [row[key] for key in ("trajectory_id", "method", "token_agg", "predictor")]


def _same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, float):
                assert math.isclose(value, other[key], rel_tol=1e-9, abs_tol=1e-9), key
            else:
                assert value == other[key], key
