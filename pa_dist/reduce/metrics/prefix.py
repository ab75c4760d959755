"""The tasks of scenario `prefix`: what a method's first cell tells before a trajectory ends, from `prefixes`.

One task a column and all methods for AUROC and AUPRC after so many steps, which are compared; one a method for alarms.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Floats, Ints, column, lengths
from pa_dist.reduce.block.methods import Cell
from pa_dist.reduce.choice.differences import HEADLINE, METHOD, Reading
from pa_dist.reduce.metrics.alarms import NONE_CAUGHT, alarm_estimates, median, thresholds
from pa_dist.reduce.metrics.groups import Group
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, Figure, unlabelled
from pa_dist.reduce.metrics.labels import kept_labels, read_scores
from pa_dist.reduce.metrics.slices import MetricRow
from pa_dist.reduce.metrics.survey import Slicing
from pa_dist.reduce.metrics.uq import Outcomes, uncertainty
from pa_dist.store.folder import RunFolder

_NO_REWARD = "no trajectory has a reward"
NO_STEPS = "it judges whole trajectories, so that it says nothing before they end"
ALARMS = ("false_alarms", "caught", "caught_step", "caught_share")
METRICS = ("auroc_at", "auprc_at", "auroc_after", "auprc_after", *ALARMS)
_TABLE = "prefixes"


@dataclass(frozen=True)
class Point:
    """After how many steps: the end of the columns' names, `at` of the figures and what these are called."""

    column: str
    at: float
    metrics: tuple[str, str]

    @property
    def compared(self) -> bool:
        """Whether methods are compared there. After all steps they are in `uq`."""
        return self.metrics == METRICS[:2] and self.at < 1


def points(settings: Evaluate) -> list[Point]:
    """After each share of the steps, and after each number of them."""
    shares = [(at, ("auroc_at", "auprc_at")) for at in schema.PREFIX_SHARES]
    numbers = [(float(k), ("auroc_after", "auprc_after")) for k in settings.prefix_steps]
    columns = schema.prefix_columns("", settings.prefix_steps)
    return [Point(column, *of) for column, of in zip(columns, [*shares, *numbers], strict=True)]


def unknown(settings: Evaluate, reasons: Mapping[Cell, str], plan: Slicing) -> Iterator[MetricRow | Reading]:
    """Null figures of cells that have no running score, with the reason."""
    names = [(metric, point.at) for point in points(settings) for metric in point.metrics]
    names += [(metric, settings.false_alarms) for metric in ALARMS]
    for group, _ in plan.of("prefix"):
        for cell, reason in reasons.items():
            yield from _of_cell(group, cell, unlabelled(names, reason))


def _of_cell(group: Group, cell: Cell, figures: Sequence[Figure]) -> list[MetricRow]:
    name = cell.method, cell.token_agg, cell.step_agg
    return [MetricRow("prefix", group, *name, None, figure) for figure in figures]


def after_steps(
    folder: RunFolder, settings: Evaluate, cells: Sequence[Cell], point: Point, plan: Slicing
) -> Iterator[MetricRow | Reading]:
    """AUROC and AUPRC of each method's score after some steps.

    Args:
      cells: one of each method.
      plan: says which groups.
    """
    place, every = kept_labels(folder)
    read = read_scores(folder, [f"{cell.method}{point.column}" for cell in cells], place, _TABLE)
    read *= np.array([[cell.orientation] for cell in cells])
    for group, rows in plan.of("prefix"):
        rated = np.flatnonzero(~np.isnan(every.reward[rows])) + rows.start
        labels, scores = every.some(rated), read[:, rated]
        success = labels.reward >= settings.success_threshold
        outcomes = Outcomes(labels.reward, success, labels.clusters(settings.seed))
        for k, cell in enumerate(cells):
            if not len(labels):
                yield from _of_cell(group, cell, unlabelled([(name, point.at) for name in point.metrics], _NO_REWARD))
                continue
            estimates = uncertainty(scores[k], outcomes, 2)
            named = zip(point.metrics, estimates, strict=True)
            shown = settings.intervals != "none"
            yield from _of_cell(group, cell, [of.figure(name, point.at, intervals=shown) for name, of in named])
            if point.compared:
                theirs = {
                    other.method: score
                    for other, score in zip(cells, scores, strict=True)
                    if (cell.method == METHOD) != (other.method == METHOD)
                }
                of_cell = (cell.token_agg, cell.step_agg, None)
                where = "prefix", group, cell.method, HEADLINE, of_cell, point.metrics[0], point.at
                yield Reading(*where, estimates[0], beside=_beside(scores[k], theirs, outcomes))


def _beside(score: Floats, others: Mapping[str, Floats], outcomes: Outcomes) -> dict[str, Estimate]:
    """AUROC on those rows that another method has as well, where that is not all."""
    lacking = {name: np.isnan(of) & ~np.isnan(score) for name, of in others.items()}
    return {
        name: uncertainty(np.where(without, np.nan, score), outcomes, 1)[0]
        for name, without in lacking.items()
        if without.any()
    }


def alarm_of_method(folder: RunFolder, settings: Evaluate, cell: Cell, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """What one method's alarm catches, and when."""
    rate, shown = settings.false_alarms, settings.intervals != "none"
    place, every = kept_labels(folder)
    lowest, threshold = np.full(len(place), np.nan), np.full(len(place), np.nan)
    for worst in _running(folder, cell, place):
        has = worst.counts > 0
        lowest[worst.rows[has]] = worst.score[np.cumsum(worst.counts)[has] - 1]
    known = ~np.isnan(lowest) & ~np.isnan(every.reward)
    success = every.reward >= settings.success_threshold
    clusters: dict[Group, Clusters] = {}
    for group, rows in plan.of("prefix"):
        here = np.flatnonzero(known[rows]) + rows.start
        clusters[group] = every.some(here).clusters(settings.seed)
        threshold[here] = thresholds(lowest[here], success[here], clusters[group].folds, rate)
    step, share = np.full(len(place), np.nan), np.full(len(place), np.nan)
    for worst in _running(folder, cell, place):
        step[worst.rows] = worst.first_below(threshold[worst.rows])
        share[worst.rows] = step[worst.rows] / np.maximum(worst.n_steps, 1)
    for group, rows in plan.of("prefix"):
        n_rated = int(np.count_nonzero(~np.isnan(every.reward[rows])))
        here = np.flatnonzero(known[rows]) + rows.start
        if not len(here):
            reason = "no trajectory has a score" if n_rated else _NO_REWARD
            yield from _of_cell(group, cell, unlabelled([(name, rate) for name in ALARMS], reason))
            continue
        notes = [f"{n_rated - len(here)} trajectories without a score left out"] if n_rated > len(here) else []
        of_group = clusters[group]
        estimates = alarm_estimates(lowest[here], threshold[here], success[here], of_group, rate, notes)
        figures = [of.figure(name, rate, intervals=shown) for name, of in zip(ALARMS, estimates, strict=False)]
        if np.isnan(estimates[1].value):
            figures += unlabelled([(name, rate) for name in ALARMS[2:]], figures[1].note or NONE_CAUGHT)
        else:
            caught = ~success[here] & ~np.isnan(step[here])
            for name, when in zip(ALARMS[2:], (step, share), strict=True):
                figures.append(median(name, rate, when[here][caught], of_group.some(caught), notes, intervals=shown))
        yield from _of_cell(group, cell, figures)


@dataclass(frozen=True)
class _Worst:
    """Of some trajectories the steps at which the running score is worse than before, and the scores, in a row.

    Attributes:
      rows: their places among the labels.
      n_steps: [trajectories] how many steps each has.
      counts: [trajectories] how many such steps each has.
      step, score: of all, trajectory after trajectory; scores so that higher is better.
    """

    rows: Ints
    n_steps: Ints
    counts: Ints
    step: Ints
    score: Floats

    def first_below(self, threshold: Floats) -> Floats:
        """The first step at which each score is below its threshold; NaN where it never is, or there is none."""
        ends = np.cumsum(self.counts)
        above = np.concatenate([[0], np.cumsum(self.score >= np.repeat(threshold, self.counts))])
        at = ends - self.counts
        n_above = above[ends] - above[at]  # they fall from each to the next
        falls = (n_above < self.counts) & ~np.isnan(threshold)
        found = np.full(len(self.rows), np.nan)
        found[falls] = self.step[(at + n_above)[falls]]
        return found


def _running(folder: RunFolder, cell: Cell, place: Ints) -> Iterator[_Worst]:
    """A method's running scores, some trajectories at a time."""
    at = np.empty(len(place), np.int64)
    at[place] = np.arange(len(place))
    names = [f"{cell.method}__{name}" for name in (schema.WORST_STEP, schema.WORST)]
    start = 0
    for path in folder.parts(_TABLE):
        table = folder.read_table(path, ["n_steps", *names])
        rows = at[start : start + len(table)]
        start += len(table)
        steps, scores = (column(table, name) for name in names)
        counts = lengths(steps)
        oriented = cell.orientation * scores.flatten().to_numpy()
        yield _Worst(rows, table["n_steps"].to_numpy(), counts, steps.flatten().to_numpy(), oriented)
