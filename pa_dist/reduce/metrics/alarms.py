"""An alarm while a trajectory is under way: it goes off at the first step where the running score is below a threshold.

The threshold of each fold of tasks is set on the successes of the other folds, by the lowest running score of each, so
that a new success is flagged at any of its steps with at most the chance that is allowed: the j-th lowest of n, with
j = rate (n + 1) rounded down (split conformal prediction). What it flags is then counted on tasks that set none of it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import FOLDS, Clusters, Estimate, Figure, estimates_of_means
from pa_dist.reduce.metrics.uq import why_undefined

NONE_CAUGHT = "no failure is caught"


def thresholds(lowest: Floats, success: Bools, folds: Ints, rate: float) -> Floats:
    """The threshold that each row is held against, [rows]; NaN where the other folds have too few successes.

    Args:
      lowest: [rows] lowest running score, higher is better.
      success: [rows].
      folds: [rows] the fold of each row's task.
      rate: share of the successes that may be flagged.
    """
    found = np.full(len(lowest), np.nan)
    for fold in range(FOLDS):
        others = np.sort(lowest[success & (folds != fold)])
        allowed = int(rate * (len(others) + 1) + 1e-9)
        if allowed:
            found[folds == fold] = others[allowed - 1]
    return found


def alarm_estimates(
    lowest: Floats, threshold: Floats, success: Bools, clusters: Clusters, rate: float, notes: Sequence[str]
) -> tuple[Estimate, Estimate]:
    """The share of successes that is flagged, and the share of failures.

    The interval of the first is that of the thresholds as they are. The second moves with them as well: where a success
    more is flagged, so is what lies beside it of the failures.

    Args:
      lowest, success: as of `thresholds`, without NaN.
      threshold: its result.
      clusters: of the rows.
      rate: what it was set for.
      notes: said of both.
    """
    why = why_undefined(success) if success.all() or not success.any() else ""
    least = int(np.ceil(1 / rate - 1 - 1e-9))
    why = why or f"too few successes on other tasks: a rate of {rate:g} takes {least}"
    flagged = np.where(np.isnan(threshold).any(), np.nan, lowest < threshold)
    values = np.stack([np.where(success, flagged, np.nan), np.where(success, np.nan, flagged)], axis=1)
    false_alarms, caught = estimates_of_means(values, clusters, notes, why)
    if np.isnan(false_alarms.value) or np.isnan(caught.value):
        return false_alarms, caught
    parts = caught.parts - _slope(lowest, success, int(flagged.sum())) * false_alarms.parts
    rarer = min(clusters.counted(success), clusters.counted(~success))
    return false_alarms, replace(caught, parts=parts, rarer=rarer, edge=caught.clusters)


def _slope(lowest: Floats, success: Bools, k: int) -> float:
    """How much of the failures the next success that is flagged takes along, as shares of both, about the k-th row."""
    reach = int(np.ceil(len(lowest) ** (2 / 3) / 2))
    near = success[np.argsort(lowest)][max(0, k - reach) : k + reach]
    won, lost = max(int(near.sum()), 1), int((~near).sum())
    return (lost / np.count_nonzero(~success)) / (won / np.count_nonzero(success))


def median(
    metric: str, at: float, values: Floats, clusters: Clusters, notes: Sequence[str], *, intervals: bool
) -> Figure:
    """The median over rows, with the interval of the share of rows up to it, read back as values (Woodruff 1952).

    Args:
      values: [rows].
      clusters: of the rows.
    """
    if not len(values):
        return Figure(metric, at, None, None, None, 0, "; ".join([*notes, NONE_CAUGHT]))
    middle = float(np.median(values))
    (up_to,) = estimates_of_means((values <= middle).astype(np.float64)[:, None], clusters, notes)
    figure = replace(up_to.figure(metric, at, intervals=intervals), value=middle)
    if figure.ci_low is None or figure.ci_high is None:
        return figure
    shares = np.clip([0.5 + end - up_to.value for end in (figure.ci_low, figure.ci_high)], 0, 1)
    low, high = np.quantile(values, shares, method="inverted_cdf")
    return replace(figure, ci_low=min(float(low), middle), ci_high=max(float(high), middle))
