"""Progress advantage minus each other method on the same trajectories, with paired intervals and p-values.

Two figures of the same clusters have their parts in the same bins, so the variance of their difference takes into
account that they move together (`intervals.difference`). Of fewer tasks than an interval takes there is no p-value.
Holm's adjustment holds the chance of one false finding in a family to its level. A family is all differences of one
scenario, group, metric (at one point of it), way to choose cells, and predictor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pa_dist.config import Evaluate
from pa_dist.reduce.choice.cross_fitting import redraws
from pa_dist.reduce.metrics.groups import Group
from pa_dist.reduce.metrics.intervals import Estimate, Figure, difference

METHOD = "progress_advantage"
# The same quantity, aggregated otherwise: its token mean, sum and last are equal. So of a further reference.
VARIANTS = ("progress_advantage_per_token",)
BASELINE = "baseline"
HEADLINE, CROSS_FITTED, HINDSIGHT = CHOICES = ("headline", "cross_fitted", "hindsight")
CellName = tuple[str | None, str | None, str | None]
"""Token aggregation, step aggregation, predictor; null where there is none."""
NO_CELL: CellName = (None, None, None)


@dataclass(frozen=True)
class Reading:
    """A metric of one method in a group, under one way to choose its cells.

    Attributes:
      choice: one of `CHOICES`; null of baselines, which have no cells.
      cell: `NO_CELL` where it is not a single one. Of a baseline the last entry is its name.
      said: of how the cell was chosen.
      beside: the same on those rows that another method has as well, by its name; where rows differ at all.
    """

    scenario: str
    group: Group
    method: str
    choice: str | None
    cell: CellName
    metric: str
    at: float | None
    estimate: Estimate
    said: tuple[str, ...] = ()
    beside: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """A row of `comparisons`: a reading, or what it is above another one."""

    reading: Reading
    against: str | None
    figure: Figure
    p_value: float | None = None
    p_holm: float | None = None
    comparisons: int | None = None


def compare(readings: Sequence[Reading], settings: Evaluate) -> list[Compared]:
    """Every method's own figures, and the differences between `METHOD` and the others.

    Args:
      readings: of one group.
      settings: seed and resamples of what was chosen anew in each, and whether there are intervals.
    """
    intervals = settings.intervals != "none"
    own = [
        Compared(r, None, r.estimate.figure(r.metric, r.at, *r.said, intervals=intervals)) for r in readings if r.choice
    ]
    families: dict[tuple[object, ...], list[Compared]] = {}
    for mine in readings:
        if mine.method == METHOD and mine.choice != HINDSIGHT:
            family = families.setdefault(
                (mine.scenario, mine.group, mine.metric, mine.at, mine.choice, mine.cell[2]), []
            )
            family += [_difference(mine, other, settings, intervals) for other in _others(mine, readings)]
    return [*own, *(row for family in families.values() for row in _adjusted(family))]


def _others(mine: Reading, readings: Sequence[Reading]) -> Iterator[Reading]:
    where = (mine.scenario, mine.group, mine.metric)
    for other in readings:
        if (
            other.method == METHOD
            or other.method.partition("@")[0] in VARIANTS
            or where != (other.scenario, other.group, other.metric)
        ):
            continue
        # A figure that cannot be is of no point in particular.
        if None not in (mine.at, other.at) and mine.at != other.at:
            continue
        if other.choice is None or (other.choice == mine.choice and other.cell[2] == mine.cell[2]):
            yield other


def _difference(mine: Reading, other: Reading, settings: Evaluate, intervals: bool) -> Compared:
    name = other.method if other.choice else other.cell[2]
    ours, theirs = mine.beside.get(other.method, mine.estimate), other.beside.get(mine.method, other.estimate)
    # What needs no choice is drawn as what was chosen anew.
    chosen = len(ours.redrawn) or len(theirs.redrawn)
    weights = redraws(len(ours.parts), settings.resamples, settings.seed) if chosen else None
    found = difference(ours, theirs, weights)
    figure = found.figure(mine.metric, mine.at, intervals=intervals)
    return Compared(mine, name, figure, found.p_value if intervals else None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979), in the order given."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def _adjusted(family: list[Compared]) -> list[Compared]:
    """With Holm's p-value over those that have one, and how many those are."""
    adjusted = iter(holm([row.p_value for row in family if row.p_value is not None]))
    n = sum(row.p_value is not None for row in family)
    return [row if row.p_value is None else replace(row, p_holm=next(adjusted), comparisons=n) for row in family]
