"""FA: how near the blamed step is to the labelled one, and the random, first-step and last-step baselines beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.ragged import Bools, Floats, Ints, column, is_valid, lengths, offsets
from pa_dist.reduce.block.predictors import agent_matches
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, estimates_of_means

METRICS = ("step_accuracy", "step_accuracy_reachable", "step_accuracy_within", "mae", "agent_accuracy")
FIRST_ERROR: list[tuple[str, float | None]] = [("first_error_accuracy", None)]
BASELINES = ("random", "first_step", "last_step")
NO_LABEL = "no trajectory has a mistake_step"
_NO_AGENT = "no trajectory has a mistake_agent"
_NONE_REACHABLE = "no label is on a scored step"
_WHERE = dict(
    zip(
        schema.UNREACHABLE,
        (
            "on a message that is no action",
            "in a step whose tokens truncation removed",
            "in a step without a score",
        ),
        strict=True,
    )
)


def metric_names(within: Sequence[int]) -> list[tuple[str, float | None]]:
    """Metric and `at` of each column of an outcome matrix."""
    near: list[tuple[str, float | None]] = [("step_accuracy_within", float(k)) for k in within]
    exact: list[tuple[str, float | None]] = [("step_accuracy", None), ("step_accuracy_reachable", None)]
    return [*exact, *near, ("mae", None), ("agent_accuracy", None)]


def outcomes(
    distance: Floats, agent_correct: Floats, labelled: Bools, reachable: Bools, within: Sequence[int]
) -> Floats:
    """What each trajectory adds to each metric, [trajectories, metrics]; NaN where it does not count.

    Args:
      distance: |blamed - labelled| in messages; NaN without a prediction, which is a miss at any distance and no part
        of the mean absolute error.
      agent_correct: 1, 0 or NaN without a label.
      labelled: whether there is a mistake_step.
      reachable: whether it is a step with a score, which alone can be hit.
      within: distances.
    """
    exact, *near = (np.where(labelled, distance <= k, np.nan) for k in (0, *within))
    of_reachable = np.where(reachable, exact, np.nan)
    return np.stack([exact, of_reachable, *near, np.where(labelled, distance, np.nan), agent_correct], axis=1)


def unreachable_labels(reasons: pa.Array, n_labelled: int) -> str:
    """How many labels are on no scored step, and why; nothing where all are.

    Args:
      reasons: `unreachable` of labelled rows of `attributions`, one cell of each trajectory.
      n_labelled: how many labels there are.
    """
    found = Counter(reasons.drop_null().to_pylist())
    said = ", ".join(f"{found[why]} {where}" for why, where in _WHERE.items() if found[why])
    return f"{found.total()} of {n_labelled} labels are on no scored step ({said})" if found else ""


def fa_estimates(values: Floats, clusters: Clusters, unreachable: str = "", missed: str = "") -> list[Estimate]:
    """Means of an outcome matrix, as `metric_names` has them.

    Args:
      values: from `outcomes`.
      clusters: of the rows.
      unreachable: from `unreachable_labels`; said of what counts exact hits.
      missed: the same for the figure that counts these labels too.
    """
    counts = np.count_nonzero(~np.isnan(values), axis=0)
    n_labelled, n_predicted = int(counts[0]), int(counts[-2])
    unpredicted = f"{n_labelled - n_predicted} trajectories without a prediction"
    notes = (f"{unpredicted}: wrong in accuracies, left out of mae",) if n_predicted < n_labelled else ()
    undefined = "none predicted" if n_labelled else NO_LABEL
    exact, reachable, *others, agent = estimates_of_means(values, clusters, notes, undefined)
    # Without a prediction no step has a score, so that no label is on one.
    none_reachable = _NONE_REACHABLE if n_labelled else NO_LABEL
    left_out = (f"{unreachable}: left out",) if unreachable else ()
    return [
        replace(exact, notes=(*exact.notes, *filter(None, [missed]))),
        replace(reachable, notes=left_out, undefined=none_reachable),
        *others,
        agent if counts[-1] else replace(agent, notes=(), undefined=_NO_AGENT),
    ]


def blamed_outcomes(table: pa.Table, mistake: Floats, within: Sequence[int]) -> Floats:
    """Outcome matrix of rows of `attributions`: step, agent_correct, unreachable.

    Args:
      mistake: [rows] the message that the label names, NaN without one.
    """
    labelled = ~np.isnan(mistake)
    distance = np.abs(_numbers(table, "step") - mistake)
    reachable = labelled & ~is_valid(column(table, "unreachable"))
    return outcomes(distance, _numbers(table, "agent_correct"), labelled, reachable, within)


def first_error_outcomes(table: pa.Table, first_wrong: Floats) -> Floats:
    """[rows, 1] whether rows of `attributions` blame the first step that is labelled wrong; no prediction is a miss.

    Args:
      first_wrong: [rows] its message, NaN without one.
    """
    return np.where(np.isnan(first_wrong), np.nan, _numbers(table, "step") == first_wrong)[:, None]


def _numbers(table: pa.Table, name: str) -> Floats:
    # Arrow casts booleans to float64 only by way of an integer.
    values: Floats = column(table, name).cast(pa.int32()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def baseline_outcomes(table: pa.Table, within: Sequence[int], reachable: Bools) -> dict[str, Floats]:
    """Outcome matrices of the baselines over all action steps; `random` is its exact expectation, not a draw.

    Args:
      table: trajectory_id, mistake_step, mistake_agent, and the lists step and agent of `logprobs`.
      within: distances.
      reachable: whose labelled step has a score.
    """
    step = column(table, "step")
    n_steps = lengths(step)
    starts = offsets(n_steps)
    rows = np.repeat(np.arange(len(table)), n_steps)
    labelled = is_valid(column(table, "mistake_step"))
    distance = np.abs(step.flatten().to_numpy(zero_copy_only=False) - _numbers(table, "mistake_step")[rows])
    mistake_agent = column(table, "mistake_agent")
    matches = agent_matches(column(table, "agent").flatten(), mistake_agent.take(pa.array(rows))).astype(np.float64)
    agent_correct = np.where(is_valid(mistake_agent)[rows], matches, np.nan)
    every_step = outcomes(distance, agent_correct, labelled[rows], reachable[rows], within)
    # A trajectory without actions has no prediction: a miss where it is labelled.
    no_agent = np.where(is_valid(mistake_agent), 0.0, np.nan)
    none = outcomes(np.full(len(table), np.nan), no_agent, labelled, reachable, within)
    return {
        "random": _means(every_step, n_steps, none),
        "first_step": _picked(every_step, starts[:-1], n_steps, none),
        "last_step": _picked(every_step, starts[1:] - 1, n_steps, none),
    }


def _means(every_step: Floats, n_steps: Ints, none: Floats) -> Floats:
    filled = np.flatnonzero(n_steps)
    result = none.copy()
    if len(filled):
        starts = offsets(n_steps)[filled]
        result[filled] = np.add.reduceat(every_step, starts, axis=0) / n_steps[filled][:, None]
    return result


def _picked(every_step: Floats, position: Ints, n_steps: Ints, none: Floats) -> Floats:
    filled = np.flatnonzero(n_steps)
    result = none.copy()
    result[filled] = every_step[position[filled]]
    return result
