"""Which step a method blames for a failure: the published predictors, on step values."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.block.aggregate import Bucket, cumulative
from pa_dist.schema import FEWEST_STEPS, PREDICTORS

# Times the median distance from the median: the standard deviation, where values are normal.
_SIGMA = 1.4826


def predictions(
    values: Floats, layout: Sequence[Bucket], n_trajectories: int, predictors: Sequence[str] = PREDICTORS
) -> Ints:
    """The step each predictor blames; the first one on ties.

    `min_cumulative`: argmin of the running sum over valid steps. `sharpest_drop`: the lowest value, or the first valid
    step where none is negative. `sharpest_abs_drop`: the later step of the largest fall between consecutive valid
    steps, or the first valid step where nothing falls. `earliest_below`: the first step below zero, or the lowest where
    none is.

    Args:
      values: [k, steps], oriented: higher is better.
      layout: the valid steps, from `buckets`.
      n_trajectories: how many trajectories there are.
      predictors: which of them, by name.

    Returns:
      [k, len(predictors), n_trajectories] positions in the flat steps; -1 where a trajectory has no valid step.
    """
    result = np.full((len(values), len(predictors), n_trajectories), -1, np.int64)
    for bucket in layout:
        dense = values[:, bucket.index]
        for place, predictor in enumerate(predictors):
            local = _blamed(predictor, dense, bucket.inside)
            # What has no value blames nothing: an aggregation may be undefined where another one of the step is not.
            there = ~np.isnan(np.take_along_axis(dense, local[:, None], axis=1)[:, 0])
            result[:, place, bucket.rows] = np.where(there, np.take_along_axis(bucket.index, local, axis=0), -1)
    return result


def fell_back(values: Floats, blamed: Ints, layout: Sequence[Bucket], predictors: Sequence[str] = PREDICTORS) -> Bools:
    """Where a predictor had nothing to go by, and the step it blames is only its tie rule's.

    `sharpest_drop` and `earliest_below`: no valid step is below zero. `min_cumulative`: the running sum is never below
    its first entry, and that is not below zero, so the first step is blamed for nothing. `sharpest_abs_drop`: nothing
    falls from a valid step to the next; of a single valid step nothing ever does. In the first three the blamed step
    itself is then not below zero, and else it is; in the last it is the first valid one, and else a later one.

    Args:
      values, layout, predictors: as of `predictions`.
      blamed: its result.

    Returns:
      Of the shape of `blamed`; False where no step is blamed.
    """
    result = np.zeros(blamed.shape, np.bool_)
    for bucket in layout:
        for place, predictor in enumerate(predictors):
            chosen = blamed[:, place, bucket.rows]
            if predictor == "sharpest_abs_drop":
                result[:, place, bucket.rows] = chosen == bucket.index[0]
            else:
                result[:, place, bucket.rows] = np.take_along_axis(values, chosen, axis=1) >= 0
    return result


def stands_out(values: Floats, blamed: Ints, layout: Sequence[Bucket]) -> Floats:
    """How far blamed steps are from the valid steps of their trajectory, as `stands_out` of `schema.ATTRIBUTIONS` is.

    Args:
      values, layout: as of `predictions`.
      blamed: its result.

    Returns:
      Of the shape of `blamed`; NaN where it is not defined.
    """
    result = np.full(blamed.shape, np.nan)
    for bucket in layout:
        enough = bucket.counts >= FEWEST_STEPS
        if not enough.any():
            continue
        dense, chosen = values[:, bucket.index], blamed[..., bucket.rows]
        centre = _median(dense, bucket)[:, None]
        spread = _SIGMA * _median(np.abs(dense - centre), bucket)[:, None]
        distance = values[np.arange(len(values))[:, None, None], chosen] - centre
        defined = enough & (chosen >= 0) & (spread > 0)
        result[..., bucket.rows] = np.divide(distance, spread, out=np.full(chosen.shape, np.nan), where=defined)
    return result


def _median(dense: Floats, bucket: Bucket) -> Floats:
    """[k, n] of each trajectory's valid steps in [k, length, n]."""
    ordered = np.sort(np.where(bucket.inside, dense, np.inf), axis=1)
    rows = np.arange(len(bucket.counts))
    middle: Floats = (ordered[:, (bucket.counts - 1) // 2, rows] + ordered[:, bucket.counts // 2, rows]) / 2
    return middle


def _blamed(predictor: str, dense: Floats, inside: Bools) -> Ints:
    """The place of the blamed step among the valid ones, [k, n]."""
    place: Ints
    match predictor:
        case "min_cumulative":
            place = cumulative(dense, inside).argmin(axis=1)
        case "sharpest_drop":
            place = np.where(dense.min(axis=1) < 0, dense.argmin(axis=1), 0)
        case "sharpest_abs_drop":
            # The leading 0 is the argmin where nothing falls.
            place = np.diff(dense, axis=1, prepend=dense[:, :1]).argmin(axis=1)
        case "earliest_below":
            below = dense < 0
            place = np.where(below.any(axis=1), below.argmax(axis=1), dense.argmin(axis=1))
        case _:
            raise ValueError(f"unknown predictor {predictor!r}")
    return place


def agent_matches(agents: pa.Array, mistake_agents: pa.Array) -> Bools:
    """Whether each agent's name starts with the labelled one: "Orchestrator" is right of "Orchestrator (thought)".

    Both arrays have one entry per step; a null on either side does not match.
    """
    agent, mistake = agents.dictionary_encode(), mistake_agents.dictionary_encode()
    agent_codes = agent.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    mistake_codes = mistake.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    known = (agent_codes >= 0) & (mistake_codes >= 0)
    width = len(mistake.dictionary) + 1
    # Few distinct pairs of names, however many steps.
    pairs, which = np.unique(np.where(known, agent_codes * width + mistake_codes, -1), return_inverse=True)
    names, labels = agent.dictionary.to_pylist(), mistake.dictionary.to_pylist()
    starts = [pair >= 0 and names[pair // width].startswith(labels[pair % width]) for pair in pairs.tolist()]
    matches: Bools = np.array(starts, bool)[which]
    return matches
