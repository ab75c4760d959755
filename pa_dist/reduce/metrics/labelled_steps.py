"""Figures of labelled steps: how well a method's step values tell wrong steps from the others.

Steps without a label take no part. Lower values are more suspicious. A million trajectories have fifteen million steps,
so that what is held of each is counted in bytes, and sums run over some steps at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pa_dist.ragged import Bools, Floats, Ints, offsets
from pa_dist.reduce.metrics.groups import Labels
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, estimates_of_means, nothing
from pa_dist.reduce.metrics.uq import pairs_at_the_edge
from pa_dist.schema import RIGHT, WRONG
from pa_dist.store.folder import REDUCING, RunFolder

TABLE = f"{REDUCING}/labelled"
"""What blocks leave of their labelled steps, a file for each of `scores` that has any."""
METRICS = ("step_auroc", "step_auprc", "precision_at", "recall_at", "pair_accuracy")
_NO_SCORE = "no labelled step has a score"
_NO_WRONG = "no trajectory has a step labelled wrong"
# Steps whose sums are made at a time.
_CHUNK = 1 << 20

Bytes = NDArray[np.int8]


def metric_names(lowest: Sequence[int], *, pairs: bool) -> list[tuple[str, float | None]]:
    """Metric and `at` of each figure of a group; of pairs where it has any."""
    ranked = [(name, float(k)) for name in ("precision_at", "recall_at") for k in lowest]
    return [("step_auroc", None), ("step_auprc", None), *ranked, *([("pair_accuracy", None)] if pairs else [])]


@dataclass(frozen=True)
class LabelledSteps:
    """Labelled steps, trajectory after trajectory.

    Attributes:
      labels: [steps] right, neutral or wrong.
      starts: [trajectories + 1] where each one's begin.
    """

    labels: Bytes
    starts: Ints

    def of(self, rows: slice) -> "LabelledSteps":
        """Of trajectories next to each other."""
        starts = self.starts[rows.start : rows.stop + 1]
        return LabelledSteps(self.labels[starts[0] : starts[-1]], starts - starts[0])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> Ints:
        """[trajectories] how many each has."""
        return np.diff(self.starts)


class StepReader:
    """Columns of the table of labelled steps, in the order of labels."""

    def __init__(self, folder: RunFolder, place: Ints, labels: Labels) -> None:
        self._folder, self._parts = folder, folder.parts(TABLE)
        starts = offsets(labels.n_labelled)
        # The table has trajectories as `scores` has them.
        row = np.empty(len(place), np.int64)
        row[place] = np.arange(len(place))
        counts = labels.n_labelled[row]
        shift = (starts[row] - offsets(counts)[:-1]).astype(np.int32)
        self._at = np.repeat(shift, counts) + np.arange(starts[-1], dtype=np.int32)
        self._values = np.empty(starts[-1])
        self.steps = LabelledSteps(np.empty(starts[-1], np.int8), starts)
        self._read("label", self.steps.labels)

    def values(self, column: str) -> Floats:
        """[steps] of `METHOD__TOKENAGG`, higher is better; NaN where there is none. The next call overwrites them."""
        self._read(column, self._values)
        return self._values

    def _read(self, column: str, found: Floats | Bytes) -> None:
        start = 0
        for path in self._parts:
            values = self._folder.read_table(path, [column])[column]
            found[self._at[start : start + len(values)]] = values.to_numpy()
            start += len(values)


def step_estimates(
    values: Floats, steps: LabelledSteps, pair: Ints, clusters: Clusters, lowest: Sequence[int]
) -> list[Estimate]:
    """Figures of a group, as `metric_names`.

    Args:
      values: [steps], higher is better; NaN where there is none.
      steps: the labels.
      pair: [trajectories] a number for each pair, -1 of what is in none.
      clusters: of the trajectories.
      lowest: numbers of steps.
    """
    wrong = steps.labels == WRONG
    owner = np.repeat(clusters.bins.astype(np.int16), steps.counts)  # of which there are `MOST_BINS` at most
    detected = detection(values, wrong, owner, clusters.n_bins)
    hit, missed = at_lowest(values, wrong, steps.starts, lowest)
    notes = (f"{missed} trajectories without a score of a labelled step: nothing of theirs is found",) if missed else ()
    found = [*detected, *estimates_of_means(hit, clusters, notes, _NO_WRONG)]
    return [*found, pair_accuracy(values, steps, pair, clusters)] if (pair >= 0).any() else found


def detection(values: Floats, wrong: Bools, bins: NDArray[np.integer], n_bins: int) -> list[Estimate]:
    """AUROC and AUPRC of wrong steps among all, the lowest value being the most suspicious.

    As `uq.Ranked` has them, with the same influences; each is a sum over steps that one pass makes.

    Args:
      values: [steps]; NaN steps are left out, and counted in the notes.
      bins: [steps] of the clusters.
    """
    known = ~np.isnan(values)
    n = int(np.count_nonzero(known))
    notes = (f"{len(values) - n} steps without a score left out",) if n < len(values) else ()
    n_wrong = int(np.count_nonzero(wrong & known))
    n_others = n - n_wrong
    if not n_wrong or not n_others:
        one_class = f"one class only: {'every' if n_wrong else 'no'} labelled step is wrong"
        return [Estimate(np.nan, np.empty(0), 0, n, notes=notes, undefined=one_class if n else _NO_SCORE)] * 2
    sums = _Sums.of(values, wrong, bins, n_bins, n_wrong, n_others)
    others = sums.rows - sums.wrong
    clusters, with_wrong, with_others = (int(np.count_nonzero(of)) for of in (sums.rows, sums.wrong, others))
    rarer, pairs = min(with_wrong, with_others), pairs_at_the_edge(with_wrong, with_others)
    area = sums.pairs / (n_wrong * n_others)
    of_area = sums.in_order / (n_wrong * n_others) - area * (sums.wrong / n_wrong + others / n_others)
    precision = sums.precisions / n_wrong
    of_precision = sums.as_hits + (sums.below - precision) * sums.wrong - (sums.below_by_row * sums.rows - sums.as_rows)
    return [
        Estimate(area, of_area, clusters, n, rarer=rarer, edge=pairs, notes=notes),
        Estimate(precision, of_precision / n_wrong, clusters, n, rarer=rarer, edge=rarer, notes=notes),
    ]


@dataclass
class _Sums:
    """What figures and influences are made of: over groups of equal values from the lowest on.

    Attributes:
      rows, wrong: [bins] steps, and the wrong ones.
      in_order: [bins] of the pairs of a wrong step and another, those in the right order, by each of their ends.
      as_hits: [bins] of wrong steps, precision less `below` of the groups before them.
      as_rows: [bins] of all steps, `below_by_row` of the groups before them.
      pairs, precisions: the sum of pairs in order, and of precision at each wrong step.
      below, below_by_row: over groups, wrong steps by rank, and the same times precision.
    """

    rows: Floats
    wrong: Floats
    in_order: Floats
    as_hits: Floats
    as_rows: Floats
    pairs: float = 0.0
    precisions: float = 0.0
    below: float = 0.0
    below_by_row: float = 0.0

    @staticmethod
    def of(
        values: Floats, wrong: Bools, bins: NDArray[np.integer], n_bins: int, n_wrong: int, n_others: int
    ) -> "_Sums":
        sums, n_hits = _Sums(*np.zeros((5, n_bins))), 0
        order = np.argsort(values, kind="stable")  # NaN last
        for start, stop in _between_ties(values, order, n_wrong + n_others):
            rows = order[start:stop]
            n_hits = sums._add(values[rows], wrong[rows], bins[rows].astype(np.int64), start, n_hits, n_others)
        return sums

    def _add(self, values: Floats, wrong: Bools, bins: Ints, before: int, n_hits: int, n_others: int) -> int:
        """Whole groups, behind so many steps and wrong ones; wrong ones down to their end."""
        ends = np.append(np.flatnonzero(np.diff(values)) + 1, len(values))
        sizes = np.diff(ends, prepend=0)
        group = np.repeat(np.arange(len(ends)), sizes)
        hits, totals = n_hits + np.cumsum(wrong)[ends - 1], (before + ends).astype(np.float64)
        gained = np.diff(hits, prepend=n_hits)
        precision, by_rank = hits / totals, gained / totals
        above = hits - gained / 2
        below = n_others - (totals - hits - (sizes - gained) / 2)
        earlier = self.below + np.cumsum(by_rank) - by_rank
        earlier_by_row = self.below_by_row + np.cumsum(by_rank * precision) - by_rank * precision
        n_bins = len(self.rows)
        of_wrong, bins_of_wrong = group[wrong], bins[wrong]
        self.rows += np.bincount(bins, minlength=n_bins)
        self.wrong += np.bincount(bins_of_wrong, minlength=n_bins)
        self.in_order += np.bincount(bins, np.where(wrong, below[group], above[group]), n_bins)
        self.as_hits += np.bincount(bins_of_wrong, (precision - earlier)[of_wrong], n_bins)
        self.as_rows += np.bincount(bins, earlier_by_row[group], n_bins)
        self.pairs += float(gained @ below)
        self.precisions += float(gained @ precision)
        self.below += float(by_rank.sum())
        self.below_by_row += float(by_rank @ precision)
        return int(hits[-1])


def _between_ties(values: Floats, order: Ints, n: int) -> Iterator[tuple[int, int]]:
    """Parts of the first n of a sorted order, of about `_CHUNK` steps, that cut no group of equal values."""
    start = 0
    while start < n:
        last = values[order[min(start + _CHUNK, n) - 1]]
        stop = int(np.searchsorted(values, last, side="right", sorter=order))
        yield start, stop
        start = stop


def at_lowest(values: Floats, wrong: Bools, starts: Ints, lowest: Sequence[int]) -> tuple[Floats, int]:
    """Precision and recall of each trajectory's k lowest steps among its wrong ones, the first steps on ties.

    A trajectory of fewer than k steps with a value has as many as it has; without any, nothing is found.

    Args:
      values: [steps]; NaN steps are never among the lowest.
      wrong: [steps].
      starts: [trajectories + 1].
      lowest: each k.

    Returns:
      [trajectories, 2 * len(lowest)], precision for each k, then recall; NaN where no step is wrong. And of how many
      of the others no step has a value.
    """
    parts, missed = [np.empty((0, 2 * len(lowest)))], 0
    first = 0
    while first < len(starts) - 1:
        last = max(int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1, first + 1)
        here = slice(starts[first], starts[last])
        found, without = _at_lowest(values[here], wrong[here], np.diff(starts[first : last + 1]), lowest)
        parts.append(found)
        missed += without
        first = last
    return np.concatenate(parts), missed


def _at_lowest(values: Floats, wrong: Bools, counts: Ints, lowest: Sequence[int]) -> tuple[Floats, int]:
    n, known = len(counts), ~np.isnan(values)
    owner = np.repeat(np.arange(n), counts)
    order = np.lexsort((values, owner))  # NaN last
    rank = np.arange(len(order)) - np.repeat(offsets(counts)[:-1], counts)
    hit = (wrong & known)[order]
    n_wrong, n_known = (np.bincount(owner, of, n) for of in (wrong, known))
    hits = [np.bincount(owner[hit & (rank < k)], minlength=n) for k in lowest]
    shares = [of / np.clip(n_known, 1, k) for of, k in zip(hits, lowest, strict=True)]
    shares += [of / np.maximum(n_wrong, 1) for of in hits]
    found = np.where((n_wrong > 0)[:, None], np.array(shares).reshape(len(shares), n).T, np.nan)
    return found, int(np.count_nonzero((n_wrong > 0) & (n_known == 0)))


def pair_accuracy(values: Floats, steps: LabelledSteps, pair: Ints, clusters: Clusters) -> Estimate:
    """How often a right action has a higher value than a wrong one for the same history, ties by half.

    Each trajectory of a pair is compared by its last labelled step. Of more than two trajectories of one pair the mean
    over all of a right and a wrong one counts.

    Args:
      pair: [trajectories] -1 of what is in none.
      clusters: of the trajectories.
    """
    taking_part = np.flatnonzero((pair >= 0) & (steps.counts > 0))
    at = steps.starts[1:][taking_part] - 1
    label, value = steps.labels[at], values[at]
    compared = (label == RIGHT) | (label == WRONG)
    scored = compared & ~np.isnan(value)
    unscored = int(np.count_nonzero(compared)) - int(np.count_nonzero(scored))
    notes = [f"{unscored} actions without a score left out"] if unscored else []
    rows, wrong, value = taking_part[scored], (label == WRONG)[scored], value[scored]
    numbers, first, of = np.unique(pair[rows], return_index=True, return_inverse=True)
    n_wrong, n_right = (np.bincount(of, which, len(numbers)) for which in (wrong, ~wrong))
    whole = (n_wrong > 0) & (n_right > 0)
    if not whole.any():
        return nothing("no pair has a right and a wrong action with a score")
    # Wrong ones down to the middle of each group of equal values, within each pair.
    order = np.lexsort((value, of))
    new = np.append(True, (np.diff(of[order]) != 0) | (np.diff(value[order]) != 0))
    group, down = np.cumsum(new) - 1, np.cumsum(wrong[order])
    ends = np.append(np.flatnonzero(new)[1:], len(order)) - 1
    through = down[ends]
    middle = (through + np.concatenate([[0], through[:-1]])) / 2 - offsets(n_wrong.astype(np.int64))[of[order][ends]]
    below = np.bincount(of[order], np.where(wrong[order], 0.0, middle[group]), len(numbers))
    outcome = below[whole] / (n_wrong * n_right)[whole]
    (estimate,) = estimates_of_means(outcome[:, None], clusters.some(rows[first][whole]), notes)
    return estimate
