"""Curves of a score against an outcome, and what of them is drawn. Ties and areas are those of `reduce.uncertainty`."""

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints

# Bins along x of which a drawn curve keeps the lowest and the highest point: finer than a line is wide.
BINS = 240
HISTOGRAM_BINS = (8, 30)
OUTLIERS = (0.01, 0.99)


def roc_curve(score: Floats, success: Bools) -> tuple[Floats, Floats]:
    """False and true positive rate as the threshold falls, from (0, 0) to (1, 1); equal scores make one slanted piece.

    Args:
      score: [rows], higher is better, none NaN.
      success: [rows], both outcomes among them.
    """
    total, hits = _running(score, success)
    misses = total - hits
    return misses / misses[-1], hits / hits[-1]


def risk_coverage_curve(score: Floats, success: Bools) -> tuple[Floats, Floats]:
    """Coverage k / rows and the expected share of failures among the k best rows, ties in random order, for each k.

    The mean of the risks is the area that `metrics` has as `aurc`. Arguments as of `roc_curve`; one outcome will do.
    """
    total, hits = _running(score, success)
    best = np.arange(1, len(score) + 1)
    return best / len(score), np.interp(best, total, total - hits) / best


def _running(score: Floats, success: Bools) -> tuple[Ints, Ints]:
    """Rows and successes from the best down to the end of each group of equal scores, 0 first."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(success[order])[ends]
    return np.append(0, ends + 1), np.append(0, hits)


def thinned(x: Floats, y: Floats) -> Ints:
    """Places of the points that draw a curve of ascending x as all would: its ends, and the lowest and highest of each
    of `BINS` bins. All of them where there are no more than that."""
    if len(x) <= 2 * BINS + 2:
        return np.arange(len(x))
    which = np.minimum((x - x[0]) / (x[-1] - x[0]) * BINS, BINS - 1).astype(np.int64)
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    by_height = np.lexsort((y, which))
    ends = np.append(starts[1:], len(x)) - 1
    return np.unique(np.concatenate([[0, len(x) - 1], by_height[starts], by_height[ends]]))


def histogram(score: Floats, success: Bools) -> tuple[Floats, Ints, Ints]:
    """Edges of bins over all rows, and the failures and successes in each.

    The outermost bins reach to the extremes, and those between share out the middle 98% of the rows.
    """
    low, high = np.quantile(score, OUTLIERS)
    n_bins = int(np.clip(np.sqrt(len(score)), *HISTOGRAM_BINS))
    edges = np.linspace(low, high, n_bins + 1) if low < high else np.array([low - 0.5, low + 0.5])
    place = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, len(edges) - 2)
    failed, succeeded = (np.bincount(place[rows], minlength=len(edges) - 1) for rows in (~success, success))
    return edges, failed, succeeded
