"""One method's figures under each way to choose its cell: beforehand, on other tasks' data, and in hindsight.

The cell chosen beforehand is a method's first: token mean and step mean, or its own step aggregation; of FA token mean,
with each predictor.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.config import Evaluate
from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.block.methods import Cell
from pa_dist.reduce.choice.cross_fitting import FOLDS, Pairs, choose_by_mean, folds, read_auroc, read_means
from pa_dist.reduce.choice.differences import (
    BASELINE,
    CROSS_FITTED,
    HEADLINE,
    HINDSIGHT,
    NO_CELL,
    CellName,
    Reading,
    Resampled,
    nothing,
)
from pa_dist.reduce.metrics.best_of_n import Trials
from pa_dist.reduce.metrics.groups import LABELLED, Group, by_group, clusters, floats, trials
from pa_dist.reduce.metrics.intervals import Resampling, cluster_means, distinct
from pa_dist.reduce.metrics.survey import Slicing
from pa_dist.reduce.metrics.uq import METRICS, measured, why_undefined
from pa_dist.store.folder import RunFolder

# What a cell is chosen by; of the one chosen beforehand UQ has more.
CHOSEN_BY = {"uq": "auroc", "best_of_n": "success", "fa": "step_accuracy"}
UQ_METRICS = ("auroc", "spearman", "aurc")
NO_TRIAL = "no task has a trial with a reward"


def score_choices(
    folder: RunFolder,
    settings: Evaluate,
    cells: Sequence[Cell],
    others: Sequence[Cell],
    plan: Slicing,
) -> Iterator[Reading]:
    """UQ and best-of-N of one method.

    Args:
      cells: all of the method's, the one chosen beforehand first; the task holds a column of each.
      others: one cell of each method whose figures will be held against this one's.
      plan: says which groups.
    """
    columns = dict.fromkeys(cell.column for cell in (*cells, *others))
    table = folder.dataset("scores").to_table(columns=[*LABELLED, *columns])
    for group, members in by_group(table):
        if group in plan.planned["uq"]:
            rewarded = members.filter(pc.is_valid(members["reward"]))
            yield from _uncertainty(group, rewarded, cells, others, settings)
        if group in plan.planned["best_of_n"]:
            yield from _best_of_n(group, *trials(members, settings), cells, settings)


def _uncertainty(
    group: Group, members: pa.Table, cells: Sequence[Cell], others: Sequence[Cell], settings: Evaluate
) -> Iterator[Reading]:
    reward = floats(members, "reward")
    scores = np.stack([cell.orientation * floats(members, cell.column) for cell in cells])
    resampling = Resampling(clusters(members), settings.resamples, settings.seed)
    rated = Rated(scores, reward, reward >= settings.success_threshold, resampling)
    shared = {other.method: rated.known & ~np.isnan(floats(members, other.column)) for other in others}
    # Most methods have a score of the same trajectories: each set of them is measured once.
    masks = {mask.tobytes(): mask for mask in (rated.known, *shared.values())}
    found = {key: rated.estimates(mask) for key, mask in masks.items()}
    names = [_name(cell) for cell in cells]
    at = {HEADLINE: names[0], CROSS_FITTED: NO_CELL, HINDSIGHT: names[rated.best]}
    chosen = _chosen(names, rated.choice[np.triu_indices(FOLDS)])
    for (choice, metric), own in found[rated.known.tobytes()].items():
        beside = {name: found[mask.tobytes()][choice, metric] for name, mask in shared.items()}
        said = _how(choice, chosen, len(cells))
        yield Reading("uq", group, cells[0].method, choice, at[choice], metric, None, own, said, beside)


@dataclass(frozen=True)
class Rated:
    """A group's trajectories that have rewards, and one method's scores of them.

    Attributes:
      scores: [cells, rows], higher is better; NaN where there is none.
      reward: [rows].
      success: [rows].
      resampling: of these rows.
    """

    scores: Floats
    reward: Floats
    success: Bools
    resampling: Resampling

    @cached_property
    def known(self) -> Bools:
        """[rows] those with a score in every cell."""
        known: Bools = np.logical_and.reduce(~np.isnan(self.scores), axis=0)
        return known

    @cached_property
    def fold(self) -> Ints:
        return folds(self.resampling.n_clusters, self.resampling.seed)[self.resampling.clusters]

    @cached_property
    def _choices(self) -> tuple[Ints, int]:
        pairs = Pairs.of(self.scores[:, self.known], self.success[self.known], self.fold[self.known])
        choice, best = pairs.choose()
        return _allowed(choice, len(self.scores), self.resampling), max(best, 0)

    @property
    def choice(self) -> Ints:
        """The cell chosen for each two folds, [FOLDS, FOLDS]; -1 where none can be."""
        return self._choices[0]

    @property
    def best(self) -> int:
        """The best cell in hindsight."""
        return self._choices[1]

    def estimates(self, mask: Bools) -> dict[tuple[str, str], Resampled]:
        """By choice and metric, on some of the rows."""
        n, success, of_cluster = int(mask.sum()), self.success[mask], self.resampling.clusters[mask]
        notes = [f"{len(mask) - n} trajectories without a score left out"] if n < len(mask) else []
        why = why_undefined(success) if len(mask) else "no trajectory has a reward"
        values, resampled = measured(self.scores[0, mask], self.reward[mask], success, of_cluster, self.resampling)
        size = distinct(of_cluster), n
        found = {}
        for metric in UQ_METRICS:
            k = METRICS.index((metric, None))
            found[HEADLINE, metric] = Resampled(float(values[k]), resampled[:, k], *size, tuple(notes), why)
        one_class = success.all() or not success.any()
        for choice, cells, undefined in (
            (CROSS_FITTED, self.choice, why if one_class else _why_no_choice(self.resampling)),
            (HINDSIGHT, np.full_like(self.choice, self.best), why),
        ):
            read = read_auroc(self.scores[:, mask], success, self.fold[mask], cells, of_cluster, self.resampling)
            found[choice, "auroc"] = Resampled(*read, *size, tuple(notes), undefined)
        return found


def _allowed(choice: Ints, n_cells: int, resampling: Resampling) -> Ints:
    """One cell needs no choosing, and too few clusters allow none."""
    if n_cells == 1:
        return np.zeros_like(choice)
    return choice if resampling.n_clusters >= FOLDS else np.full_like(choice, -1)


def _why_no_choice(resampling: Resampling) -> str:
    if resampling.n_clusters < FOLDS:
        return f"{resampling.n_clusters} tasks are too few to choose on: there are {FOLDS} folds"
    return "the folds left to choose on cannot tell cells apart: they hold one class, or nothing"


def _name(cell: Cell) -> CellName:
    return cell.token_agg, cell.step_agg, None


def _chosen(names: Sequence[CellName], choice: Ints) -> str:
    """The cells that were chosen on other tasks, the most frequent first."""
    counts = Counter("/".join(filter(None, names[cell])) for cell in choice.tolist() if cell >= 0)
    return ", ".join(f"{name} ({n} of {len(choice)})" for name, n in counts.most_common())


def _how(choice: str, chosen: str, n_cells: int) -> tuple[str, ...]:
    if n_cells > 1 and choice == HINDSIGHT:
        return (f"the best of {n_cells} cells on these rows themselves: too high for others",)
    return (f"chosen on other tasks: {chosen}",) if n_cells > 1 and choice == CROSS_FITTED and chosen else ()


def mean_choices(
    place: tuple[str, Group, str],
    names: Sequence[CellName],
    outcomes: Floats,
    resampling: Resampling,
    *,
    headlines: int,
    undefined: str,
    at: float | None = None,
    notes: Sequence[str] = (),
) -> Iterator[Reading]:
    """Readings of a metric that is a mean over rows: tasks of best-of-N, trajectories of FA.

    Args:
      place: scenario, group, method.
      names: of the cells.
      outcomes: [rows, cells], 0 or 1; NaN where a row does not count.
      resampling: of the rows.
      headlines: how many cells, the first ones, were chosen beforehand.
      undefined: said where no row counts.
      at: of the metric.
      notes: said of every figure.
    """
    fold = folds(resampling.n_clusters, resampling.seed)[resampling.clusters]
    choice, best = choose_by_mean(outcomes, fold)
    choice, best = _allowed(choice, len(names), resampling), max(best, 0)
    read = np.column_stack([outcomes[:, :headlines], read_means(outcomes, fold, choice), outcomes[:, best]])
    choices = [*[HEADLINE] * headlines, CROSS_FITTED, HINDSIGHT]
    at_cells = [*names[:headlines], NO_CELL, names[best]]
    why = [undefined] * len(choices)
    if not np.isnan(outcomes).all():
        why[headlines] = _why_no_choice(resampling)
    for how, cell, estimate in zip(choices, at_cells, mean_estimates(read, resampling, notes, why), strict=True):
        said = _how(how, _chosen(names, choice), len(names))
        yield Reading(*place, how, cell, CHOSEN_BY[place[0]], at, estimate, said)


def mean_estimates(
    outcomes: Floats, resampling: Resampling, notes: Sequence[str], undefined: Sequence[str]
) -> list[Resampled]:
    """Means of columns, [rows, k]; `undefined` says k times why there is none."""
    if not len(outcomes):
        return [nothing(why) for why in undefined]
    values, resampled, of_clusters = cluster_means(outcomes, resampling)
    counts = (~np.isnan(outcomes)).sum(axis=0)
    return [
        Resampled(float(values[k]), resampled[:, k], int(of_clusters[k]), int(counts[k]), tuple(notes), why)
        for k, why in enumerate(undefined)
    ]


def _best_of_n(
    group: Group, members: pa.Table, tried: Trials, notes: list[str], cells: Sequence[Cell], settings: Evaluate
) -> Iterator[Reading]:
    """Success of the pick among the most trials that a task has, a mean over the tasks that have as many."""
    picks = [_picked(tried, cell.orientation * floats(members, cell.column)) for cell in cells]
    yield from mean_choices(
        ("best_of_n", group, cells[0].method),
        [_name(cell) for cell in cells],
        np.stack(picks, axis=1),
        _of_tasks(tried, settings),
        headlines=1,
        undefined="no trial has a score" if len(members) else NO_TRIAL,
        at=float(tried.largest),
        notes=notes,
    )


def random_trial(group: Group, tried: Trials, notes: list[str], settings: Evaluate) -> Reading:
    """What best-of-N is held against: the success of a trial taken at random, in the tasks with the most trials."""
    means = np.bincount(tried.task, weights=tried.success) / tried.sizes
    outcomes = np.where(tried.sizes == tried.largest, means, np.nan)[:, None]
    (estimate,) = mean_estimates(outcomes, _of_tasks(tried, settings), notes, [NO_TRIAL])
    return baseline(("best_of_n", group), "mean", float(tried.largest), estimate)


def baseline(place: tuple[str, Group], name: str, at: float | None, estimate: Resampled) -> Reading:
    """What needs no method, by the name that `against` has for it."""
    return Reading(*place, BASELINE, None, (None, None, name), CHOSEN_BY[place[0]], at, estimate)


def _picked(tried: Trials, score: Floats) -> Floats:
    """Success of each task's pick, [tasks]; NaN in tasks with fewer trials than others, and without any score."""
    if np.isnan(score).all():
        return np.full(len(tried.sizes), np.nan)
    return np.where(tried.sizes == tried.largest, tried.success[tried.picked(score)], np.nan)


def _of_tasks(tried: Trials, settings: Evaluate) -> Resampling:
    return Resampling(np.arange(len(tried.sizes)), settings.resamples, settings.seed)


def lacking_choices(
    scenario: str, group: Group, method: str, headlines: Sequence[CellName], reason: str
) -> Iterator[Reading]:
    """Readings of a method that lacks its column, with the reason."""
    for choice, cell in [*((HEADLINE, name) for name in headlines), (CROSS_FITTED, NO_CELL)]:
        yield Reading(scenario, group, method, choice, cell, CHOSEN_BY[scenario], None, nothing(reason))
