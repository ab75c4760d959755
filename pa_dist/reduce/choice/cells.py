"""One method's figures under each way to choose its cell: beforehand, on other tasks' data, and in hindsight.

The cell chosen beforehand is a method's first: token mean and step mean, or its own step aggregation; of FA token mean,
with each predictor.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pa_dist.config import Evaluate
from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.block.methods import Cell
from pa_dist.reduce.choice.cross_fitting import Pairs, Sums, read_auroc, read_means, redraws
from pa_dist.reduce.choice.differences import (
    BASELINE,
    CROSS_FITTED,
    HEADLINE,
    HINDSIGHT,
    NO_CELL,
    CellName,
    Reading,
)
from pa_dist.reduce.metrics.best_of_n import Trials
from pa_dist.reduce.metrics.groups import Group
from pa_dist.reduce.metrics.intervals import FOLDS, Clusters, Estimate, estimates_of_means, nothing
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty, why_undefined

# What a cell is chosen by; of the one chosen beforehand UQ has more.
CHOSEN_BY = {"uq": "auroc", "best_of_n": "success", "fa": "step_accuracy"}
UQ_METRICS = ("auroc", "spearman", "aurc")
NO_TRIAL = "no task has a trial with a reward"


def uq_choices(
    group: Group,
    cells: Sequence[Cell],
    scores: Floats,
    outcomes: Outcomes,
    others: dict[str, Floats],
    settings: Evaluate,
) -> Iterator[Reading]:
    """UQ of one method.

    Args:
      cells: all of the method's, the one chosen beforehand first.
      scores: [cells, rows], higher is better; NaN where there is none.
      outcomes: of the rows.
      others: scores of each method whose figures will be held against this one's.
      settings: resamples and their seed.
    """
    rated = Rated(scores, outcomes, settings)
    shared = {name: rated.known & ~np.isnan(score) for name, score in others.items()}
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
    """A group's trajectories that have rewards, and one method's scores of them, [cells, rows]."""

    scores: Floats
    outcomes: Outcomes
    settings: Evaluate

    @cached_property
    def known(self) -> Bools:
        """[rows] those with a score in every cell."""
        known: Bools = np.logical_and.reduce(~np.isnan(self.scores), axis=0)
        return known

    @cached_property
    def _choices(self) -> tuple[Ints, int, Floats]:
        pairs = Pairs.of(self._scores(self.known), self.outcomes.success[self.known], self._clusters(self.known))
        choice, best = pairs.choose()
        allowed = _allowed(choice, len(self.scores), self.outcomes.clusters)
        weights = _weights(self.outcomes.clusters, self.settings)
        redrawn = pairs.redrawn(weights) if allowed is choice else np.empty(0)
        return allowed, max(best, 0), redrawn

    def _scores(self, mask: Bools) -> Floats:
        """[cells, rows] of some rows; where those are all, not a copy."""
        return self.scores if mask.all() else self.scores[:, mask]

    def _clusters(self, mask: Bools) -> Clusters:
        return self.outcomes.clusters.some(mask)

    @property
    def choice(self) -> Ints:
        """The cell chosen for each two folds, [FOLDS, FOLDS]; -1 where none can be."""
        return self._choices[0]

    @property
    def best(self) -> int:
        """The best cell in hindsight."""
        return self._choices[1]

    def estimates(self, mask: Bools) -> dict[tuple[str, str], Estimate]:
        """By choice and metric, on some of the rows."""
        success = self.outcomes.success[mask]
        why = why_undefined(success) if len(mask) else "no trajectory has a reward"
        of_head = uncertainty(np.where(mask, self.scores[0], np.nan), self.outcomes)
        found = {
            (HEADLINE, metric): replace(of_head[METRICS.index((metric, None))], undefined=why) for metric in UQ_METRICS
        }
        one_class = success.all() or not success.any()
        like = found[HEADLINE, "auroc"]
        for choice, cells, undefined in (
            (CROSS_FITTED, self.choice, why if one_class else _why_no_choice(self.outcomes.clusters)),
            (HINDSIGHT, np.full_like(self.choice, self.best), why),
        ):
            value, parts = read_auroc(self._scores(mask), success, cells, self._clusters(mask))
            redrawn = self._choices[2] if choice == CROSS_FITTED else np.empty(0)
            found[choice, "auroc"] = replace(like, value=value, parts=parts, redrawn=redrawn, undefined=undefined)
        return found


def _weights(clusters: Clusters, settings: Evaluate) -> Floats:
    return redraws(clusters.n_bins, settings.resamples, settings.seed)


def _allowed(choice: Ints, n_cells: int, clusters: Clusters) -> Ints:
    """One cell needs no choosing, and too few clusters allow none."""
    if n_cells == 1:
        return np.zeros_like(choice)
    return choice if clusters.n_clusters >= FOLDS else np.full_like(choice, -1)


def _why_no_choice(clusters: Clusters) -> str:
    if clusters.n_clusters < FOLDS:
        return f"{clusters.n_clusters} tasks are too few to choose on: there are {FOLDS} folds"
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
    clusters: Clusters,
    settings: Evaluate,
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
      clusters: of the rows.
      settings: resamples and their seed.
      headlines: how many cells, the first ones, were chosen beforehand.
      undefined: said where no row counts.
      at: of the metric.
      notes: said of every figure.
    """
    sums = Sums.of(outcomes, clusters)
    choice, best = sums.choose()
    allowed, best = _allowed(choice, len(names), clusters), max(best, 0)
    read = np.column_stack([outcomes[:, :headlines], read_means(outcomes, clusters.folds, allowed), outcomes[:, best]])
    choices = [*[HEADLINE] * headlines, CROSS_FITTED, HINDSIGHT]
    at_cells = [*names[:headlines], NO_CELL, names[best]]
    why = [undefined] * len(choices)
    if not np.isnan(outcomes).all():
        why[headlines] = _why_no_choice(clusters)
    estimates = estimates_of_means(read, clusters, notes, why)
    if allowed is choice and not np.isnan(estimates[headlines].value):
        estimates[headlines] = replace(estimates[headlines], redrawn=sums.redrawn(_weights(clusters, settings)))
    for how, cell, estimate in zip(choices, at_cells, estimates, strict=True):
        said = _how(how, _chosen(names, allowed), len(names))
        yield Reading(*place, how, cell, CHOSEN_BY[place[0]], at, estimate, said)


def bon_choices(
    group: Group,
    cells: Sequence[Cell],
    picks: Sequence[Floats],
    tried: Trials,
    clusters: Clusters,
    notes: list[str],
    settings: Evaluate,
) -> Iterator[Reading]:
    """Best-of-N of one method: success of the pick among the most trials that a task has, a mean over the tasks that
    have as many.

    Args:
      cells: all of the method's, the one chosen beforehand first.
      picks: from `picked` of each.
      clusters: of the tasks.
      notes: what was left out before.
    """
    yield from mean_choices(
        ("best_of_n", group, cells[0].method),
        [_name(cell) for cell in cells],
        np.stack(picks, axis=1),
        clusters,
        settings,
        headlines=1,
        undefined="no trial has a score" if len(tried.task) else NO_TRIAL,
        at=float(tried.largest),
        notes=notes,
    )


def random_trial(group: Group, tried: Trials, clusters: Clusters, notes: list[str]) -> Reading:
    """What best-of-N is held against: the success of a trial taken at random, in the tasks with the most trials."""
    means = np.bincount(tried.task, weights=tried.success) / tried.sizes
    outcomes = np.where(tried.sizes == tried.largest, means, np.nan)[:, None]
    (estimate,) = estimates_of_means(outcomes, clusters, notes, NO_TRIAL)
    return baseline(("best_of_n", group), "mean", float(tried.largest), estimate)


def baseline(place: tuple[str, Group], name: str, at: float | None, estimate: Estimate) -> Reading:
    """What needs no method, by the name that `against` has for it."""
    return Reading(*place, BASELINE, None, (None, None, name), CHOSEN_BY[place[0]], at, estimate)


def picked(tried: Trials, score: Floats) -> Floats:
    """Success of each task's pick, [tasks]; NaN in tasks with fewer trials than others, and without any score."""
    if np.isnan(score).all():
        return np.full(len(tried.sizes), np.nan)
    return np.where(tried.sizes == tried.largest, tried.success[tried.picked(score)], np.nan)


def lacking_choices(
    scenario: str, group: Group, method: str, headlines: Sequence[CellName], reason: str
) -> Iterator[Reading]:
    """Readings of a method that lacks its column, with the reason."""
    for choice, cell in [*((HEADLINE, name) for name in headlines), (CROSS_FITTED, NO_CELL)]:
        yield Reading(scenario, group, method, choice, cell, CHOSEN_BY[scenario], None, nothing(reason))
