"""Progress advantage minus each other method on the same trajectories, with paired intervals and p-values.

Two figures of the same clusters and seed have the same resamples, so their differences, resample by resample, are those
of a paired bootstrap. The p-value is two-sided and inverts the percentile interval: twice the smaller share of
resamples in which the difference is at most, or at least, zero, the observed one counted among them:
2 (1 + k) / (1 + resamples).
It is below 0.05 about where the 95% interval leaves out zero, and never below 2 / (1 + resamples). Of fewer tasks than
an interval takes there is none.
Holm's adjustment holds the chance of one false finding in a family to its level. A family is all differences of one
scenario, group, metric, way to choose cells, and predictor; more `evaluate.resamples` let a large one reach smaller
values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pa_dist.ragged import Floats
from pa_dist.reduce.metrics.groups import Group
from pa_dist.reduce.metrics.intervals import Figure, figures

METHOD = "progress_advantage"
# The same quantity, aggregated otherwise: its token mean, sum and last are equal.
VARIANTS = ("progress_advantage_per_token",)
BASELINE = "baseline"
HEADLINE, CROSS_FITTED, HINDSIGHT = CHOICES = ("headline", "cross_fitted", "hindsight")
CellName = tuple[str | None, str | None, str | None]
"""Token aggregation, step aggregation, predictor; null where there is none."""
NO_CELL: CellName = (None, None, None)


@dataclass(frozen=True)
class Resampled:
    """A figure with its resamples, [resamples] or none, and what is to be said of it.

    `value` is NaN where it is undefined, and `undefined` says why. It is of `clusters` tasks, and of `n` rows.
    """

    value: float
    resampled: Floats
    clusters: int
    n: int
    notes: tuple[str, ...] = ()
    undefined: str = ""

    def minus(self, other: "Resampled") -> "Resampled":
        """The difference, resample by resample."""
        both = len(self.resampled) and len(other.resampled)
        return Resampled(
            self.value - other.value,
            self.resampled - other.resampled if both else np.empty(0),
            min(self.clusters, other.clusters),
            min(self.n, other.n),
            tuple(dict.fromkeys((*self.notes, *other.notes))),
            self.undefined or other.undefined,
        )

    def figure(self, metric: str, at: float | None, resamples: int, *said: str) -> Figure:
        """The point value with its interval."""
        (figure,) = figures(
            [(metric, at)],
            np.array([self.value]),
            self.resampled[:, None],
            [self.clusters],
            [self.n],
            resamples,
            (*self.notes, *said),
            self.undefined or "undefined on these rows",
        )
        return figure


def nothing(reason: str) -> Resampled:
    """Of what cannot be estimated."""
    return Resampled(np.nan, np.empty(0), 0, 0, (), reason)


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
    estimate: Resampled
    said: tuple[str, ...] = ()
    beside: Mapping[str, Resampled] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """A row of `comparisons`: a reading, or what it is above another one."""

    reading: Reading
    against: str | None
    figure: Figure
    p_value: float | None = None
    p_holm: float | None = None
    comparisons: int | None = None


def compare(readings: Sequence[Reading], resamples: int) -> list[Compared]:
    """Every method's own figures, and the differences between `METHOD` and the others."""
    own = [Compared(r, None, r.estimate.figure(r.metric, r.at, resamples, *r.said)) for r in readings if r.choice]
    families: dict[tuple[object, ...], list[Compared]] = {}
    for mine in readings:
        if mine.method == METHOD and mine.choice != HINDSIGHT:
            family = families.setdefault((mine.scenario, mine.group, mine.metric, mine.choice, mine.cell[2]), [])
            family += [_difference(mine, other, resamples) for other in _others(mine, readings)]
    return [*own, *(row for family in families.values() for row in _adjusted(family))]


def _others(mine: Reading, readings: Sequence[Reading]) -> Iterator[Reading]:
    where = (mine.scenario, mine.group, mine.metric)
    for other in readings:
        if other.method in (METHOD, *VARIANTS) or where != (other.scenario, other.group, other.metric):
            continue
        if other.choice is None or (other.choice == mine.choice and other.cell[2] == mine.cell[2]):
            yield other


def _difference(mine: Reading, other: Reading, resamples: int) -> Compared:
    name = other.method if other.choice else other.cell[2]
    ours = mine.beside.get(other.method, mine.estimate)
    difference = ours.minus(other.beside.get(mine.method, other.estimate))
    figure = difference.figure(mine.metric, mine.at, resamples)
    return Compared(mine, name, figure, significance(figure, difference))


def significance(figure: Figure, difference: Resampled) -> float | None:
    """Null where there is no interval either: what a p-value inverts."""
    return None if figure.ci_low is None else p_value(difference.resampled)


def p_value(differences: Floats) -> float | None:
    """Two-sided, of resampled differences; NaN among them is left out, and None where nothing is left."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    sides = np.count_nonzero(known <= 0), np.count_nonzero(known >= 0)
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(known))))


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
