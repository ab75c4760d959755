"""What the choice among a method's cells is worth on data that took no part in it.

The best of thirty cells in hindsight flatters, the more the smaller the data. Here clusters (tasks, questions) are
dealt into folds, and what is read with a cell never helped to choose it:

- a mean over tasks or trajectories (best-of-N, FA) reads each fold with the cell that is best on the other folds;
- AUROC is a share of pairs of a success and a failure, and a pair can only be compared within one cell: scores of
  different cells have different scales. So each pair is read with the cell that is best on the folds of neither
  trajectory. All pairs count, and where every choice falls on one cell the result is that cell's AUROC.

Of equally good cells the first is chosen, in the order of `methods.cells`: the one chosen beforehand leads it. The
choice is not repeated in resamples: an interval is one of the figure given what was chosen, as is usual for
cross-validated AUROC (LeDell, Petersen, van der Laan 2015, Electronic Journal of Statistics 9). Where one cell is
chosen throughout it is as good as that cell's own; where cells hardly differ and the choice wavers it is too narrow: on
pure noise (15 cells, 80 trajectories) 86% of such intervals held the truth, and 95% of one cell's. Rows say what was
chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import Resampling, ratio
from pa_dist.reduce.metrics.uq import Ties, concordant

FOLDS = 5


def folds(n_clusters: int, seed: int) -> Ints:
    """The fold of each cluster: dealt out evenly, in an order that the seed decides."""
    dealt: Ints = np.random.default_rng([seed, FOLDS]).permutation(n_clusters) % FOLDS
    return dealt


def _first_best(values: Floats) -> Ints:
    """The place of the largest value along the last axis, the first on ties; -1 where all are NaN."""
    best: Ints = np.where(np.isnan(values), -np.inf, values).argmax(axis=-1)
    return np.where(np.isnan(values).all(axis=-1), -1, best)


def choose_by_mean(outcomes: Floats, fold: Ints) -> tuple[Ints, int]:
    """The cell with the highest mean.

    Args:
      outcomes: [rows, cells]; NaN where a row does not count.
      fold: of each row.

    Returns:
      For each fold the best cell of the others, [FOLDS], -1 where nothing counts in them; and the best in hindsight.
    """
    counted = ~np.isnan(outcomes)
    sums, sizes = (
        np.stack([values[fold == k].sum(axis=0) for k in range(FOLDS)])
        for values in (np.where(counted, outcomes, 0.0), counted.astype(np.float64))
    )
    # Outcomes are 0 or 1, so the differences are exact and ties are ties.
    others = ratio(sums.sum(axis=0) - sums, sizes.sum(axis=0) - sizes)
    return _first_best(others), int(_first_best(ratio(sums.sum(axis=0), sizes.sum(axis=0))))


def read_means(outcomes: Floats, fold: Ints, choice: Ints) -> Floats:
    """Each row's outcome in its fold's cell, [rows]; all NaN where a fold that counts has none."""
    read: Floats = np.where(choice[fold] < 0, np.nan, outcomes[np.arange(len(fold)), choice[fold]])
    undefined = (choice[fold] < 0) & ~np.isnan(outcomes).all(axis=1)
    return np.full(len(fold), np.nan) if undefined.any() else read


@dataclass(frozen=True)
class Pairs:
    """Pairs of a success and a failure in each cell, by the folds of both.

    Attributes:
      concordant: [cells, FOLDS, FOLDS] pairs with the success (first axis) above the failure (second), ties by half.
      possible: [cells, FOLDS, FOLDS] all pairs.
    """

    concordant: Floats
    possible: Floats

    @staticmethod
    def of(scores: Floats, success: Bools, fold: Ints) -> "Pairs":
        """Count them.

        Args:
          scores: [cells, rows] without NaN, higher is better.
          success: [rows].
          fold: of each row.
        """
        won, lost = (
            np.stack([(fold == k) & of for k in range(FOLDS)]).astype(np.float64) for of in (success, ~success)
        )
        counted = []
        for score in scores:
            ties = Ties.of(score)
            hits, misses = (ties.running(of_fold[:, ties.order]) for of_fold in (won, lost))
            counted.append((hits[:, 1:] + hits[:, :-1]) / 2 @ np.diff(misses, axis=1).T)
        possible = np.outer(won.sum(axis=1), lost.sum(axis=1))
        return Pairs(np.stack(counted), np.broadcast_to(possible, (len(scores), FOLDS, FOLDS)))

    def choose(self) -> tuple[Ints, int]:
        """The cell with the highest AUROC.

        Returns:
          For each two folds the best cell of the others, [FOLDS, FOLDS], -1 where those hold one class only; and the
          best in hindsight.
        """
        choice = np.empty((FOLDS, FOLDS), np.int64)
        for a in range(FOLDS):
            for b in range(a, FOLDS):
                kept = np.setdiff1d(np.arange(FOLDS), [a, b])
                others = np.ix_(np.arange(len(self.possible)), kept, kept)
                choice[a, b] = choice[b, a] = _first_best(_share(self.concordant[others], self.possible[others]))
        return choice, int(_first_best(_share(self.concordant, self.possible)))


def _share(concordant: Floats, possible: Floats) -> Floats:
    return ratio(concordant.sum(axis=(1, 2)), possible.sum(axis=(1, 2)))


def read_auroc(
    scores: Floats, success: Bools, fold: Ints, choice: Ints, clusters: Ints, resampling: Resampling
) -> tuple[float, Floats]:
    """AUROC of pairs, each read with the cell chosen for its two folds.

    Args:
      scores: [cells, rows] without NaN, higher is better.
      success, fold, clusters: [rows].
      choice: [FOLDS, FOLDS], symmetric.
      resampling: may draw clusters that none of these rows is in.

    Returns:
      The value and that of each resample, [resamples]. NaN where there are no pairs, or pairs without a choice.
    """
    won = [np.bincount(clusters, weights=of, minlength=resampling.n_clusters) for of in (success, ~success)]
    by_fold = [np.bincount(fold, weights=of, minlength=FOLDS) for of in (success, ~success)]
    if (np.outer(*by_fold)[choice < 0] > 0).any():
        return np.nan, np.empty(0)
    pieces = [
        (Ties.of(scores[cell, rows]), success[rows], clusters[rows]) for cell, rows in _pieces(choice, success, fold)
    ]

    def area(drawn: Floats) -> Floats:
        """[r] of [r, clusters]."""
        pairs = np.zeros(len(drawn))
        for ties, succeeded, of_cluster in pieces:
            weights = drawn[:, of_cluster[ties.order]]
            hits = ties.running(weights * succeeded[ties.order])
            pairs += concordant(hits, ties.running(weights) - hits)
        return ratio(pairs, (drawn @ won[0]) * (drawn @ won[1]))

    resampled = [area(drawn) for drawn in resampling.counts()]
    value = area(np.ones((1, resampling.n_clusters)))[0]
    return float(value), np.concatenate(resampled) if resampled else np.empty(0)


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
