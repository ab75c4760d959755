"""What each method says of a trajectory that is still under way: its score after the first steps.

The score after t steps is what the method's first cell, the one chosen beforehand, would give a trajectory that ended
there: the same aggregation over those of its first t steps that have a value. A trajectory that is shorter than t keeps
its last one. Of all steps only those are kept at which the running score is worse than ever before: they say at which
step it first falls below any threshold, and are few.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pa_dist.ragged import Bools, Floats, Ints, offsets
from pa_dist.reduce.block.aggregate import Bucket, cumulative
from pa_dist.schema import PREFIX_SHARES


def prefix_arrays(
    values: Floats,
    layout: Sequence[Bucket],
    valid: Bools,
    n_steps: Ints,
    *,
    agg: str,
    orientation: int,
    k: Sequence[int],
) -> list[pa.Array]:
    """A method's columns of `prefixes`.

    Args:
      values: [steps], of the method's first token aggregation.
      layout: its valid steps, from `buckets`.
      valid: [steps].
      n_steps: [trajectories], valid or not.
      agg: its first step aggregation.
      orientation: +1 where a higher score is better, -1 where a lower one is.
      k: numbers of steps.
    """
    starts, known = offsets(n_steps), offsets(valid)
    # After a share of the steps, at least one.
    ends = [*(-(-n_steps * round(4 * share) // 4) for share in PREFIX_SHARES), *(np.minimum(n_steps, t) for t in k)]
    found = np.full((len(ends), len(n_steps)), np.nan)
    worst: list[tuple[Ints, Ints, Floats]] = []
    for bucket in layout:
        running = _running(agg, values[bucket.index], bucket)
        column, first = np.arange(len(bucket.rows)), starts[bucket.rows]
        for place, end in enumerate(ends):
            n_known = known[first + end[bucket.rows]] - known[first]
            at = running[np.maximum(n_known - 1, 0), column]
            found[place, bucket.rows] = np.where(n_known > 0, at, np.nan)
        worst.append(_worst(running, bucket, first, orientation))
    rows, step, score = (np.concatenate(parts) for parts in zip(*worst, strict=True)) if worst else _NONE
    order = np.argsort(rows, kind="stable")
    counted = pa.array(offsets(np.bincount(rows, minlength=len(n_steps))).astype(np.int32))
    lists = [pa.array(step[order].astype(np.int32)), pa.array(score[order])]
    return [*(pa.array(of, from_pandas=True) for of in found), *(pa.ListArray.from_arrays(counted, of) for of in lists)]


_NONE: tuple[Ints, Ints, Floats] = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _running(agg: str, dense: Floats, bucket: Bucket) -> Floats:
    """The aggregation of the first valid steps, [length, n]: at its end it is `step_aggregates`', to the last bit."""
    match agg:
        case "mean" | "none":
            total: Floats = cumulative(dense[None], bucket.inside)[0]
            return total if agg == "none" else total / np.arange(1.0, len(dense) + 1)[:, None]
        case "last":
            return dense
        case "bottom10":
            return _running_bottom10(dense)
        case _:
            raise ValueError(f"no running {agg!r}")


def _running_bottom10(dense: Floats) -> Floats:
    """Mean of the lowest ceil(10%) of the first steps."""
    length, n = dense.shape
    result = np.empty_like(dense)
    lowest = np.full((-(-length // 10), n), np.inf)  # ascending
    below = np.full_like(lowest, -np.inf)
    for t, value in enumerate(dense):
        below[1:] = lowest[:-1]
        lowest = np.clip(value, below, lowest)  # the new one takes its place, what is above it moves on
        count = t // 10 + 1
        result[t] = np.cumsum(lowest[:count], axis=0)[-1] / count
    return result


def _worst(running: Floats, bucket: Bucket, first: Ints, orientation: int) -> tuple[Ints, Ints, Floats]:
    """Where the running score is worse than ever before: trajectories, steps counted from 1 and scores."""
    oriented = orientation * running
    before = np.full_like(oriented, np.inf)
    np.fmin.accumulate(oriented[:-1], axis=0, out=before[1:])
    column, place = np.nonzero((bucket.inside & (oriented < before)).T)
    step = bucket.index[place, column] - first[column] + 1
    return bucket.rows[column], step, running[place, column]
