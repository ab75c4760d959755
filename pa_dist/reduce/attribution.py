"""FA: how near the blamed step is to the labelled one, and the random, first-step and last-step baselines beside it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pa_dist.reduce.intervals import Figure, Resampling, cluster_means, figures
from pa_dist.reduce.predictors import agent_matches
from pa_dist.reduce.ragged import Bools, Floats, Ints, column, is_valid, lengths, offsets

METRICS = ("step_accuracy", "step_accuracy_within", "mae", "agent_accuracy")
BASELINES = ("random", "first_step", "last_step")
NO_LABEL = "no trajectory has a mistake_step"
_NO_AGENT = "no trajectory has a mistake_agent"


def metric_names(within: Sequence[int]) -> list[tuple[str, float | None]]:
    """Metric and `at` of each column of an outcome matrix."""
    near: list[tuple[str, float | None]] = [("step_accuracy_within", float(k)) for k in within]
    return [("step_accuracy", None), *near, ("mae", None), ("agent_accuracy", None)]


def outcomes(distance: Floats, agent_correct: Floats, labelled: Bools, within: Sequence[int]) -> Floats:
    """What each trajectory adds to each metric, [trajectories, metrics]; NaN where it does not count.

    Args:
      distance: |blamed - labelled| in messages; NaN without a prediction, which is a miss at any distance and no part
        of the mean absolute error.
      agent_correct: 1, 0 or NaN without a label.
      labelled: whether there is a mistake_step.
      within: distances.
    """
    near = [np.where(labelled, distance <= k, np.nan) for k in (0, *within)]
    return np.stack([*near, np.where(labelled, distance, np.nan), agent_correct], axis=1)


def fa_figures(values: Floats, resampling: Resampling, within: Sequence[int]) -> list[Figure]:
    """Means of an outcome matrix with intervals by question."""
    names = metric_names(within)
    counts = [int(count) for count in (~np.isnan(values)).sum(axis=0)]
    n_labelled, n_predicted = counts[0], counts[-2]
    unpredicted = f"{n_labelled - n_predicted} trajectories without a prediction"
    notes = [f"{unpredicted}: wrong in accuracies, left out of mae"] if n_predicted < n_labelled else []
    if len(values):
        means, resampled = cluster_means(values, resampling)
    else:
        means, resampled = np.full(len(names), np.nan), np.empty((0, len(names)))
    made = figures(
        names, means, resampled, counts, resampling.resamples, notes, NO_LABEL if not n_labelled else "none predicted"
    )
    *steps, agent = made
    no_agent = figures(names[-1:], means[-1:], resampled[:, -1:], counts[-1:], resampling.resamples, [], _NO_AGENT)
    return [*steps, agent if counts[-1] else no_agent[0]]


def blamed_outcomes(table: pa.Table, within: Sequence[int]) -> Floats:
    """Outcome matrix of rows of `attributions`."""
    labelled = is_valid(column(table, "mistake_step"))
    distance = np.abs(_numbers(table, "step") - _numbers(table, "mistake_step"))
    return outcomes(distance, _numbers(table, "agent_correct"), labelled, within)


def _numbers(table: pa.Table, name: str) -> Floats:
    # Arrow casts booleans to float64 only by way of an integer.
    values: Floats = column(table, name).cast(pa.int32()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def baseline_outcomes(table: pa.Table, within: Sequence[int]) -> dict[str, Floats]:
    """Outcome matrices of the baselines over all action steps; `random` is its exact expectation, not a draw.

    Args:
      table: trajectory_id, mistake_step, mistake_agent, and the lists step and agent of `logprobs`.
      within: distances.
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
    every_step = outcomes(distance, agent_correct, labelled[rows], within)
    # A trajectory without actions has no prediction: a miss where it is labelled.
    none = outcomes(np.full(len(table), np.nan), np.where(is_valid(mistake_agent), 0.0, np.nan), labelled, within)
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
