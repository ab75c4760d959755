"""What the choice among a method's cells is worth on data that took no part in it.

The best of thirty cells in hindsight flatters, the more the smaller the data. Here clusters (tasks, questions) are
dealt into folds, and what is read with a cell never helped to choose it:

- a mean over tasks or trajectories (best-of-N, FA) reads each fold with the cell that is best on the other folds;
- AUROC is a share of pairs of a success and a failure, and a pair can only be compared within one cell: scores of
  different cells have different scales. So each pair is read with the cell that is best on the folds of neither
  trajectory. All pairs count, and where every choice falls on one cell the result is that cell's AUROC.

Of equally good cells the first is chosen, in the order of `methods.cells`: the one chosen beforehand leads it.

The variance given what was chosen is too small where cells hardly differ and the choice wavers: folds help to choose
what the others are read with. So the choice is repeated in resamples of clusters, to first order in how often each is
drawn (`intervals.Estimate.variance`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import FOLDS, Clusters
from pa_dist.reduce.metrics.uq import Ties


@lru_cache(2)
def redraws(n_bins: int, resamples: int, seed: int) -> Floats:
    """How much more often than once each bin of clusters is drawn, [resamples, bins]; the same for all methods."""
    drawn = np.random.default_rng(seed).integers(0, max(n_bins, 1), (resamples, n_bins))
    drawn += np.arange(resamples)[:, None] * n_bins
    counts = np.bincount(drawn.ravel(), minlength=resamples * n_bins).reshape(resamples, n_bins)
    return np.asarray(counts - 1.0, np.float64)


def _first_best(values: Floats) -> Ints:
    """The place of the largest value along the last axis, the first on ties; -1 where all are NaN."""
    best = np.where(np.isnan(values), -np.inf, values).argmax(axis=-1)
    return np.asarray(np.where(np.isnan(values).all(axis=-1), -1, best), np.int64)


def ratio(total: Floats, count: Floats) -> Floats:
    """`total / count`, NaN where nothing counts."""
    shares = np.full(np.broadcast_shapes(total.shape, count.shape), np.nan)
    np.divide(total, count, out=shares, where=count > 0)
    return shares


@dataclass(frozen=True)
class Sums:
    """Outcomes of each cell by bin of clusters.

    Attributes:
      right: [bins, cells] the sum of outcomes.
      rows: [bins, cells] how many count.
    """

    right: Floats
    rows: Floats

    @staticmethod
    def of(outcomes: Floats, clusters: Clusters) -> "Sums":
        """Of [rows, cells], 0 or 1; NaN where a row does not count."""
        counted = ~np.isnan(outcomes)
        return Sums(clusters.sums(np.where(counted, outcomes, 0.0)), clusters.sums(counted.astype(np.float64)))

    def choose(self) -> tuple[Ints, int]:
        """The cell with the highest mean: for each fold the best of the others, [FOLDS], -1 where nothing counts in
        them; and the best in hindsight."""
        right, rows = self._by_fold(np.ones((1, len(self.right))))
        return _choice(right, rows)[0], int(_first_best(ratio(right.sum(axis=1), rows.sum(axis=1)))[0])

    def redrawn(self, weights: Floats) -> Floats:
        """Deviations of the mean that is read where each resample chooses anew, [resamples].

        Args:
          weights: [resamples, bins] as `redraws`.
        """
        right, rows = self._by_fold(1 + weights)
        cell = _choice(right, rows)[..., None]
        read = [np.take_along_axis(of, np.maximum(cell, 0), -1)[..., 0].sum(axis=1) for of in (right, rows)]
        return _deviations(np.where((cell < 0).any(axis=(1, 2)), np.nan, ratio(*read)))

    def _by_fold(self, weights: Floats) -> tuple[Floats, Floats]:
        """Both sums, [resamples, FOLDS, cells]."""
        by_fold = [
            np.stack([weights[:, fold::FOLDS] @ of[fold::FOLDS] for fold in range(FOLDS)], axis=1)
            for of in (self.right, self.rows)
        ]
        return by_fold[0], by_fold[1]


def _choice(right: Floats, rows: Floats) -> Ints:
    """[resamples, FOLDS] of sums [resamples, FOLDS, cells]."""
    # Outcomes are 0 or 1, so the differences are exact and ties are ties.
    others = ratio(right.sum(axis=1, keepdims=True) - right, rows.sum(axis=1, keepdims=True) - rows)
    return _first_best(others)


def read_means(outcomes: Floats, fold: Ints, choice: Ints) -> Floats:
    """Each row's outcome in its fold's cell, [rows]; all NaN where a fold that counts has none."""
    read: Floats = np.where(choice[fold] < 0, np.nan, outcomes[np.arange(len(fold)), choice[fold]])
    undefined = (choice[fold] < 0) & ~np.isnan(outcomes).all(axis=1)
    return np.full(len(fold), np.nan) if undefined.any() else read


def _deviations(values: Floats) -> Floats:
    known = np.isfinite(values)
    mean = values[known].mean() if known.any() else 0.0
    deviations: Floats = values - mean
    return deviations


@dataclass(frozen=True)
class Pairs:
    """Pairs of a success and a failure in each cell, by the folds of both.

    Attributes:
      concordant: [cells, FOLDS, FOLDS] pairs with the success (first axis) above the failure (second), ties by half.
      of_successes: [cells, bins, FOLDS] those of the successes of each bin, by the fold of the failure.
      of_failures: [cells, bins, FOLDS] those of its failures, by the fold of the success.
      won, lost: [bins] successes and failures.
    """

    concordant: Floats
    of_successes: Floats
    of_failures: Floats
    won: Floats
    lost: Floats

    @staticmethod
    def of(scores: Floats, success: Bools, clusters: Clusters) -> "Pairs":
        """Count them.

        Args:
          scores: [cells, rows] without NaN, higher is better.
          success: [rows].
          clusters: of the rows.
        """
        cells, shape = len(scores), (len(scores), clusters.n_bins, FOLDS)
        concordant, of_successes, of_failures = np.empty((cells, FOLDS, FOLDS)), np.empty(shape), np.empty(shape)
        for k, score in enumerate(scores):
            ties = Ties.of(score)
            bins, won = clusters.bins[ties.order], success[ties.order]
            for fold in range(FOLDS):
                here = bins % FOLDS == fold
                above = _middle(ties, (here & won).astype(np.float64))
                lost = (here & ~won).astype(np.float64)
                below = lost.sum() - _middle(ties, lost)
                of_successes[k, :, fold] = np.bincount(bins[won], below[won], clusters.n_bins)
                of_failures[k, :, fold] = np.bincount(bins[~won], above[~won], clusters.n_bins)
            for fold in range(FOLDS):
                concordant[k, fold] = of_successes[k, fold::FOLDS].sum(axis=0)
        by_bin = [clusters.sums(of.astype(np.float64)) for of in (success, ~success)]
        return Pairs(concordant, of_successes, of_failures, *by_bin)

    def choose(self) -> tuple[Ints, int]:
        """The cell with the highest AUROC.

        Returns:
          For each two folds the best cell of the others, [FOLDS, FOLDS], -1 where those hold one class only; and the
          best in hindsight.
        """
        ones = np.ones((1, len(self.won)))
        possible = self._possible(ones)
        best = _first_best(ratio(self.concordant.sum(axis=(1, 2)), possible.sum(axis=(1, 2))[0]))
        return _choice_of_pairs(self.concordant[None], possible)[0], int(best)

    def redrawn(self, weights: Floats) -> Floats:
        """Deviations of the AUROC that is read where each resample chooses anew, [resamples].

        Pairs are counted to first order in the weights.

        Args:
          weights: [resamples, bins] as `redraws`.
        """
        counts = np.repeat(self.concordant[None], len(weights), axis=0)
        for fold in range(FOLDS):
            of = slice(fold, None, FOLDS)
            counts[:, :, fold, :] += np.einsum("rb,cbf->rcf", weights[:, of], self.of_successes[:, of], optimize=True)
            counts[:, :, :, fold] += np.einsum("rb,cbf->rcf", weights[:, of], self.of_failures[:, of], optimize=True)
        choice = _choice_of_pairs(counts, self._possible(1 + weights))
        read = np.take_along_axis(counts, np.maximum(choice, 0)[:, None], 1)[:, 0].sum(axis=(1, 2))
        won, lost = self.won.sum(), self.lost.sum()
        possible = won * lost + (weights @ self.won) * lost + (weights @ self.lost) * won
        return _deviations(np.where((choice < 0).any(axis=(1, 2)), np.nan, ratio(read, possible)))

    def _possible(self, weights: Floats) -> Floats:
        """[resamples, FOLDS, FOLDS] all pairs."""
        won, lost = (
            np.stack([weights[:, fold::FOLDS] @ of[fold::FOLDS] for fold in range(FOLDS)], axis=1)
            for of in (self.won, self.lost)
        )
        return won[:, :, None] * lost[:, None, :]


def _middle(ties: Ties, ordered: Floats) -> Floats:
    """[rows] the running sum down to the middle of each row's group."""
    sums = ties.running(ordered)
    middle: Floats = ((sums[1:] + sums[:-1]) / 2)[ties.group]
    return middle


def _choice_of_pairs(concordant: Floats, possible: Floats) -> Ints:
    """[resamples, FOLDS, FOLDS] of counts [resamples, cells, FOLDS, FOLDS] and [resamples, FOLDS, FOLDS]."""
    choice = np.empty((len(concordant), FOLDS, FOLDS), np.int64)
    for a in range(FOLDS):
        for b in range(a, FOLDS):
            kept = np.setdiff1d(np.arange(FOLDS), [a, b])
            right, all_pairs = (of[..., kept, :][..., kept].sum(axis=(-2, -1)) for of in (concordant, possible))
            choice[:, a, b] = choice[:, b, a] = _first_best(ratio(right, all_pairs[:, None]))
    return choice


def read_auroc(scores: Floats, success: Bools, choice: Ints, clusters: Clusters) -> tuple[float, Floats]:
    """AUROC of pairs, each read with the cell chosen for its two folds.

    Args:
      scores: [cells, rows] without NaN, higher is better.
      success: [rows].
      choice: [FOLDS, FOLDS], symmetric.
      clusters: of the rows.

    Returns:
      The value, and what each bin adds to it, [bins]. NaN where there are no pairs, or pairs without a choice.
    """
    fold = clusters.folds
    by_fold = [np.bincount(fold, weights=of, minlength=FOLDS) for of in (success, ~success)]
    won, lost = (of.sum() for of in by_fold)
    if not won * lost or (np.outer(*by_fold)[choice < 0] > 0).any():
        return np.nan, np.empty(0)
    pairs, parts = 0.0, np.zeros(clusters.n_bins)
    for cell, rows in _pieces(choice, success, fold):
        ties = Ties.of(scores[cell, rows])
        ordered = rows[ties.order]
        succeeded = success[ordered]
        failed = (~succeeded).astype(np.float64)
        in_order = np.where(
            succeeded, failed.sum() - _middle(ties, failed), _middle(ties, succeeded.astype(np.float64))
        )
        pairs += float(in_order[succeeded].sum())
        parts += np.bincount(clusters.bins[ordered], weights=in_order, minlength=clusters.n_bins)
    value = pairs / (won * lost)
    of_bins = clusters.sums(success.astype(np.float64)) / won + clusters.sums((~success).astype(np.float64)) / lost
    return value, parts / (won * lost) - value * of_bins


def _pieces(choice: Ints, success: Bools, fold: Ints) -> Iterator[tuple[int, Ints]]:
    """Cells, each with the rows all of whose pairs it reads: failures of some folds, and successes of the folds that
    share the cell with them."""
    failures: dict[tuple[int, tuple[bool, ...]], list[int]] = {}
    for b in range(FOLDS):
        for cell in np.unique(choice[:, b]).tolist():
            failures.setdefault((cell, tuple((choice[:, b] == cell).tolist())), []).append(b)
    for (cell, with_successes), of in failures.items():
        rows = np.flatnonzero(np.where(success, np.array(with_successes)[fold], np.isin(fold, of)))
        if cell >= 0 and len(rows):
            yield cell, rows
