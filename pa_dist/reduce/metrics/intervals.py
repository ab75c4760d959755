"""Figures with their seeded bootstrap intervals: whole clusters (tasks, questions) are drawn with replacement."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pa_dist.ragged import Floats, Ints

QUANTILES = (0.025, 0.975)
# Below so many clusters a percentile interval holds the truth much less often than it says, and a p-value finds what
# is not there: of two tasks a quarter of all resamples draws one of them twice.
MIN_CLUSTERS = 10
TOO_FEW = "fewer than ten tasks: no interval"
# Cells of one chunk of resamples: the dozen arrays of this size that are alive at once stay in a core's cache.
_CHUNK = 30_000


@dataclass(frozen=True)
class Figure:
    """A metric's value, its 95% interval, what it was computed from, and why anything of it is missing."""

    metric: str
    at: float | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    note: str | None


@dataclass(frozen=True)
class Resampling:
    """Bootstrap resamples of clusters; the same for every column that is given the same clusters and seed.

    Attributes:
      clusters: [rows] the cluster of each row, numbered from 0 without gaps.
      resamples: how many; 0 leaves intervals out.
      seed: of numpy's default generator.
    """

    clusters: Ints
    resamples: int
    seed: int
    n_clusters: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_clusters", int(self.clusters.max()) + 1 if len(self.clusters) else 0)

    @property
    def possible(self) -> bool:
        """Whether there are clusters enough for resampling to say anything."""
        return self.resamples > 0 and self.n_clusters >= MIN_CLUSTERS

    def counts(self) -> Iterator[Floats]:
        """How often each cluster is drawn, [some resamples, clusters] at a time."""
        generator = np.random.default_rng(self.seed)
        size = self.n_clusters
        step = max(1, _CHUNK // max(len(self.clusters), 1))
        for start in range(0, self.resamples if self.possible else 0, step):
            some = min(step, self.resamples - start)
            # Draws come row after row, so they do not depend on the size of a chunk.
            drawn = generator.integers(0, size, (some, size)) + np.arange(some)[:, None] * size
            yield np.bincount(drawn.ravel(), minlength=some * size).reshape(some, size).astype(np.float64)


class Means(NamedTuple):
    """Column means, [k], those of resamples, [resamples, k], and how many clusters each is of, [k]."""

    values: Floats
    resampled: Floats
    clusters: Ints


def cluster_means(values: Floats, resampling: Resampling) -> Means:
    """Column means over rows, and over the rows of each resample.

    Args:
      values: [rows, k]; NaN where a row does not count.
      resampling: its clusters have one entry a row.

    Returns:
      NaN where no row counts.
    """
    order = np.argsort(resampling.clusters, kind="stable")
    starts = np.searchsorted(resampling.clusters[order], np.arange(resampling.n_clusters))
    counted = ~np.isnan(values[order])
    sums = np.add.reduceat(np.where(counted, values[order], 0.0), starts, axis=0)
    sizes = np.add.reduceat(counted.astype(np.float64), starts, axis=0)
    chunks = [ratio(drawn @ sums, drawn @ sizes) for drawn in resampling.counts()]
    resampled = np.concatenate(chunks) if chunks else np.empty((0, values.shape[1]))
    return Means(ratio(sums.sum(axis=0), sizes.sum(axis=0)), resampled, np.count_nonzero(sizes, axis=0))


def distinct(clusters: Ints) -> int:
    """How many clusters some rows are of."""
    return len(np.unique(clusters))


def ratio(total: Floats, count: Floats) -> Floats:
    """`total / count`, NaN where nothing counts."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def quantiles(resampled: Floats) -> tuple[Floats, Floats, Ints]:
    """The 2.5% and 97.5% quantiles of each column, and how many entries of it are NaN and left out.

    Linear interpolation, as `np.quantile`. A column of NaN alone gives NaN.
    """
    ordered = np.sort(resampled, axis=0)  # NaN sorts last
    known = np.count_nonzero(~np.isnan(ordered), axis=0)
    low, high = (_quantile(ordered, known, q) for q in QUANTILES)
    return low, high, len(ordered) - known


def _quantile(ordered: Floats, known: Ints, q: float) -> Floats:
    if not len(ordered):
        return np.full(ordered.shape[1], np.nan)
    place = q * np.maximum(known - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(known - 1, 0))
    columns = np.arange(ordered.shape[1])
    lower, upper = ordered[below, columns], ordered[above, columns]
    result: Floats = lower + (upper - lower) * (place - below)
    return result


def figures(
    names: Sequence[tuple[str, float | None]],
    values: Floats,
    resampled: Floats,
    clusters: Sequence[int] | Ints,
    counts: Sequence[int],
    resamples: int,
    notes: Sequence[str] = (),
    undefined: str = "undefined on these rows",
) -> list[Figure]:
    """Put values and intervals together.

    Args:
      names: k pairs of metric and `at`.
      values: [k], NaN where undefined.
      resampled: [resamples, k], or no row where there are too few clusters.
      clusters: of how many each is; of fewer than `MIN_CLUSTERS` there is no interval.
      counts: k times what the figure was computed from.
      resamples: how many were asked for.
      notes: said of all k.
      undefined: said of the null ones.
    """
    low, high, left_out = quantiles(resampled)
    return [
        Figure(metric, at, _known(values[k]), *_interval(values[k], low[k], high[k], enough), counts[k], note)
        for k, (metric, at) in enumerate(names)
        for enough in [bool(clusters[k] >= MIN_CLUSTERS)]
        for note in [_note(values[k], int(left_out[k]), enough, resamples, notes, undefined)]
    ]


def _interval(value: float, low: float, high: float, enough: bool) -> tuple[float | None, float | None]:
    return (_known(low), _known(high)) if enough and not math.isnan(value) else (None, None)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _note(
    value: float, left_out: int, enough: bool, resamples: int, notes: Sequence[str], undefined: str
) -> str | None:
    said = list(notes)
    if math.isnan(value):
        said.append(undefined)
    elif resamples and not enough:
        said.append(TOO_FEW)
    elif left_out:
        said.append(f"{left_out} of {resamples} resamples left out: undefined on them")
    return "; ".join(said) or None


def unlabelled(names: Sequence[tuple[str, float | None]], note: str) -> list[Figure]:
    """Null figures of rows that lack what the metric needs."""
    return [Figure(metric, at, None, None, None, 0, note) for metric, at in names]
