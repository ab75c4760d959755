"""Tokens to a step, steps to a trajectory: METHOD.md's aggregations on flat arrays and offsets.

Sums run in float64. A step without tokens and a trajectory without valid steps give NaN, which is written as null.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pa_dist.ragged import Bools, Floats, Ints, offsets
from pa_dist.schema import NONE, TOKEN_AGGS


def token_aggregates(values: NDArray[np.floating], counts: Ints) -> Floats:
    """Every token aggregation of every step.

    Args:
      values: [tokens], step after step.
      counts: [steps], tokens of each step.

    Returns:
      [5, steps] in the order of `schema.TOKEN_AGGS`; NaN where a step has no tokens.
    """
    filled = np.flatnonzero(counts)
    result = np.full((len(TOKEN_AGGS), len(counts)), np.nan)
    if not len(filled):
        return result
    count = counts[filled]
    # reduceat gives an empty segment the value of the next one, so only steps with tokens take part.
    ends = np.cumsum(count)
    starts = ends - count
    total = np.add.reduceat(values, starts, dtype=np.float64)
    result[:, filled] = (total / count, total, values[ends - 1], *_extremes(values, starts))
    return result


def token_extremes(values: NDArray[np.floating], counts: Ints) -> Floats:
    """Minimum and maximum of every step, [2, steps]; NaN where a step has no tokens."""
    filled = np.flatnonzero(counts)
    result = np.full((2, len(counts)), np.nan)
    if len(filled):
        count = counts[filled]
        result[:, filled] = _extremes(values, np.cumsum(count) - count)
    return result


def _extremes(values: NDArray[np.floating], starts: Ints) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


@dataclass(frozen=True)
class Bucket:
    """Trajectories with about as many valid steps, laid out so that one numpy call reduces all of them.

    Attributes:
      rows: [n] the trajectories.
      index: [length, n] each one's valid steps in the flat array, padded with its last valid step: repeating that one
        changes no minimum, maximum, last value or first argmin.
      inside: [length, n] False at the padding.
      counts: [n] valid steps.
    """

    rows: Ints
    index: Ints
    inside: Bools
    counts: Ints


def buckets(valid: Bools, starts: Ints) -> list[Bucket]:
    """Lay out the valid steps of every trajectory that has any.

    Args:
      valid: [steps].
      starts: [trajectories + 1] offsets of the trajectories' steps.

    Returns:
      One bucket per power of two, so padding at most doubles the work and a long trajectory costs only its own.
    """
    position = np.flatnonzero(valid)
    first = offsets(valid)[starts]
    counts = np.diff(first)
    level = np.ceil(np.log2(np.maximum(counts, 1)))
    level[counts == 0] = -1
    powers = np.unique(level[level >= 0])
    return [_bucket(np.flatnonzero(level == power), position, first, counts) for power in powers]


def _bucket(rows: Ints, position: Ints, first: Ints, counts: Ints) -> Bucket:
    count = counts[rows]
    step = np.arange(count.max())[:, None]
    return Bucket(rows, position[first[rows] + np.minimum(step, count - 1)], step < count, count)


def cumulative(dense: Floats, inside: Bools) -> Floats:
    """Running sum over the steps of [k, length, n]; equal to a sequential loop's to the last bit, so ties are too."""
    # A global cumsum minus each trajectory's offset would round differently and break ties at random.
    return np.cumsum(np.where(inside, dense, 0.0), axis=1)


def step_aggregates(values: Floats, layout: Sequence[Bucket], n_trajectories: int, aggs: Sequence[str]) -> Floats:
    """Aggregate the valid steps of each trajectory.

    Args:
      values: [k, steps], k readings of the same steps.
      layout: the valid steps, from `buckets`.
      n_trajectories: how many trajectories there are.
      aggs: names out of `schema.STEP_AGGS`, or `schema.NONE`.

    Returns:
      [k, len(aggs), n_trajectories]; NaN where a trajectory has no valid step.
    """
    result = np.full((len(values), len(aggs), n_trajectories), np.nan)
    for bucket in layout:
        dense = values[:, bucket.index]
        total = cumulative(dense, bucket.inside)[:, -1] if {"mean", "sum", NONE} & set(aggs) else np.empty(0)
        for place, agg in enumerate(aggs):
            result[:, place, bucket.rows] = _step_aggregate(agg, dense, total, bucket)
    return result


def _step_aggregate(agg: str, dense: Floats, total: Floats, bucket: Bucket) -> Floats:
    result: Floats
    match agg:
        case "mean":
            result = total / bucket.counts
        case "sum" | "none":  # counts, which have one aggregation
            result = total
        case "last":
            result = dense[:, -1]
        case "max":
            result = dense.max(axis=1)
        case "min":
            result = dense.min(axis=1)
        case "bottom10":
            result = _bottom10(dense, bucket)
        case _:
            raise ValueError(f"unknown step aggregation {agg!r}")
    return result


def _bottom10(dense: Floats, bucket: Bucket) -> Floats:
    """Mean of the lowest ceil(10%) valid steps, at least one."""
    lowest = (bucket.counts + 9) // 10
    most = int(lowest.max())
    if most == 1:
        only: Floats = dense.min(axis=1)
        return only
    padded = np.where(bucket.inside, dense, np.inf).transpose(0, 2, 1)
    running = np.cumsum(np.sort(padded, axis=-1)[..., :most], axis=-1)
    picked: Floats = np.take_along_axis(running, (lowest - 1)[None, :, None], axis=-1)[..., 0]
    return picked / lowest
