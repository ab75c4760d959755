"""Figures and their 95% intervals, from what each cluster (a task, a question) adds to them.

A figure of weighted rows has a derivative at each row's weight: the row's influence. Its sum over a cluster says how
far the figure moves when that cluster is drawn once more, and the sum of those squares is the figure's variance (the
infinitesimal jackknife: Efron 1982). That takes one pass where a bootstrap takes a thousand, and the same numbers of
two figures give the variance of their difference.

An interval is made on the scale of the figure, with Student's t of as many clusters as decide it:

- shares (AUROC, accuracies, risks; whatever lies between 0 and 1): Wilson's score interval of the number of independent
  rows that would have this variance (Korn and Graubard 1998; Dean and Pagano 2015). It has a width at 0 and 1 too.
- correlations: Fisher's z.
- others: the figure and t standard errors on both sides.

`jobs/benchmarks/coverage.py` shows how often they hold the truth, beside the bootstrap's percentiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from scipy.special import stdtr, stdtrit

from pa_dist.ragged import Bools, Floats, Ints

LEVEL = 0.95
FOLDS = 5
# Clusters beyond this number share bins, in which they are drawn together: the width of an interval is then known to
# about 1%, and what is held of a figure is bounded. A whole number of folds, so that a bin is of one.
MOST_BINS = 4095
# Below so many clusters no interval holds the truth as often as it says.
MIN_CLUSTERS = 10
# And so many must hold the rarer outcome, where a figure compares successes with failures.
MIN_OF_OUTCOME = 5
TOO_FEW = "fewer than ten tasks: no interval"
TOO_FEW_OF_OUTCOME = "fewer than five tasks with a success, or with a failure: no interval"
ALL_ALIKE = "no task differs from another: no interval"


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
class Clusters:
    """The clusters of some rows, dealt into bins in an order that the seed decides.

    Attributes:
      bins: [rows] the bin of each row's cluster. Up to `MOST_BINS` clusters have one each.
      n_bins: how many bins there are.
      n_clusters: how many clusters there are.
      seed: of the order.
    """

    bins: Ints
    n_bins: int
    n_clusters: int
    seed: int

    @staticmethod
    def of(numbers: Ints, seed: int) -> "Clusters":
        """Of rows whose clusters are numbered from 0 without gaps, [rows]."""
        n_clusters = int(numbers.max()) + 1 if len(numbers) else 0
        dealt = np.random.default_rng([seed, FOLDS]).permutation(n_clusters)
        return Clusters((dealt % MOST_BINS)[numbers], min(n_clusters, MOST_BINS), n_clusters, seed)

    @property
    def folds(self) -> Ints:
        """[rows] the fold of each row's cluster: dealt out evenly."""
        return self.bins % FOLDS

    def some(self, kept: Bools | Ints) -> "Clusters":
        """Of some of the rows."""
        return replace(self, bins=self.bins[kept])

    def sums(self, values: Floats) -> Floats:
        """[bins] of values [rows], or [bins, k] of [rows, k]."""
        if values.ndim == 1:
            return np.asarray(np.bincount(self.bins, weights=values, minlength=self.n_bins), np.float64)
        return np.stack([self.sums(column) for column in values.T], axis=1)

    def counted(self, chosen: Bools | None = None) -> int:
        """Bins that some rows are of."""
        bins = self.bins if chosen is None else self.bins[chosen]
        return int(np.count_nonzero(np.bincount(bins, minlength=self.n_bins)))


class Scale(StrEnum):
    """What a figure can be, which decides its interval."""

    SHARE = "share"
    CORRELATION = "correlation"
    FREE = "free"


@dataclass(frozen=True)
class Estimate:
    """A figure with what each bin of clusters adds to it.

    Attributes:
      value: NaN where it is undefined; `undefined` says why.
      parts: [bins] the influence of each bin, of which the sum is 0; none where nothing is known of its variance.
      clusters: how many it was computed from.
      n: rows it was computed from.
      scale: what it can be.
      rarer: clusters that hold the rarer outcome, where it compares outcomes; else they decide nothing.
      edge: independent rows that a share of 0 or 1 is worth; null: as many as there are clusters.
      redrawn: [resamples] its deviations where the choice of a cell was repeated as well.
      notes: what is to be said of it.
    """

    value: float
    parts: Floats
    clusters: int
    n: int
    scale: Scale = Scale.SHARE
    rarer: int | None = None
    edge: float | None = None
    redrawn: Floats = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()
    undefined: str = ""

    @property
    def deciding(self) -> int:
        """Clusters that its variance is estimated from."""
        return self.clusters if self.rarer is None else min(self.rarer, self.clusters)

    @property
    def lacking(self) -> str | None:
        """Why there is no interval; null where there is one."""
        if self.clusters < MIN_CLUSTERS or not len(self.parts):
            return TOO_FEW
        if self.rarer is not None and self.rarer < MIN_OF_OUTCOME:
            return TOO_FEW_OF_OUTCOME
        if self.scale is not Scale.SHARE and not self.variance > 0:
            return ALL_ALIKE
        return None

    @property
    def variance(self) -> float:
        """Of the figure.

        Given what was chosen it is too small. Where each resample chooses anew it is about right, and too large where
        cells differ by noise alone: resamples have noise of their own.
        """
        anew = covariance(self, self, None)
        return max(anew, _within(self, self)) if len(self.redrawn) else anew

    def interval(self) -> tuple[float, float]:
        """The 95% interval, where nothing is `lacking`."""
        t, variance = quantile(self.deciding - 1), self.variance
        if self.scale is Scale.SHARE:
            return wilson(self.value, self._independent(variance), t)
        if self.scale is Scale.CORRELATION and abs(self.value) < 1:
            reach = t * math.sqrt(variance) / (1 - self.value**2)
            return math.tanh(math.atanh(self.value) - reach), math.tanh(math.atanh(self.value) + reach)
        reach = t * math.sqrt(variance)
        return self.value - reach, self.value + reach

    def _independent(self, variance: float) -> float:
        """Independent rows that would have this variance."""
        most = self.value * (1 - self.value)
        if most > 1e-12:
            return max(most / variance if variance > 0 else self.n, 1)
        return max(self.clusters if self.edge is None else self.edge, 1)

    def figure(self, metric: str, at: float | None, *said: str, intervals: bool = True) -> Figure:
        """The value with its interval, and what is to be said of both."""
        notes = [*self.notes, *said]
        known = math.isfinite(self.value)
        low = high = None
        if not known:
            notes.append(self.undefined or "undefined on these rows")
        elif intervals and self.lacking:
            notes.append(self.lacking)
        elif intervals:
            low, high = self.interval()
        return Figure(metric, at, self.value if known else None, low, high, self.n, "; ".join(notes) or None)


def nothing(reason: str) -> Estimate:
    """Of what cannot be estimated."""
    return Estimate(math.nan, np.empty(0), 0, 0, undefined=reason)


def unlabelled(names: Sequence[tuple[str, float | None]], note: str) -> list[Figure]:
    """Null figures of rows that lack what the metric needs."""
    return [Figure(metric, at, None, None, None, 0, note) for metric, at in names]


def quantile(degrees: int) -> float:
    """Of Student's t, the level's."""
    return float(stdtrit(max(degrees, 1), (1 + LEVEL) / 2))


def wilson(share: float, n: float, t: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of n, with a quantile t."""
    share = min(max(share, 0.0), 1.0)
    centre = (share + t * t / (2 * n)) / (1 + t * t / n)
    reach = t / (1 + t * t / n) * math.sqrt(share * (1 - share) / n + t * t / (4 * n * n))
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))


def covariance(first: Estimate, second: Estimate, weights: Floats | None) -> float:
    """Of two figures of the same clusters.

    Args:
      weights: [resamples, bins] how much more often than once each bin was drawn where a choice was repeated; needed
        where that was so of one of the two alone.
    """
    if not len(first.redrawn) and not len(second.redrawn):
        return _within(first, second)
    one, other = (of.redrawn if weights is None or len(of.redrawn) else weights @ of.parts for of in (first, second))
    known = np.isfinite(one) & np.isfinite(other)
    return float(np.cov(one[known], other[known])[0, 1]) if np.count_nonzero(known) > 1 else _within(first, second)


def _within(first: Estimate, second: Estimate) -> float:
    """The same, given what was chosen."""
    k, m = max(first.deciding, 2), max(second.deciding, 2)
    return float(first.parts @ second.parts) * math.sqrt(k / (k - 1) * m / (m - 1))


@dataclass(frozen=True)
class Difference:
    """Of two figures: the first minus the second. `lacking` says why there is no interval."""

    value: float
    low: float
    high: float
    p_value: float | None
    n: int
    notes: tuple[str, ...]
    lacking: str | None
    undefined: str

    def figure(self, metric: str, at: float | None, *, intervals: bool = True) -> Figure:
        """As an estimate's."""
        known, notes = math.isfinite(self.value), list(self.notes)
        if not known:
            notes.append(self.undefined or "undefined on these rows")
        elif intervals and self.lacking:
            notes.append(self.lacking)
        shown = known and intervals and not self.lacking
        low, high = (self.low, self.high) if shown else (None, None)
        return Figure(metric, at, self.value if known else None, low, high, self.n, "; ".join(notes) or None)


def difference(first: Estimate, second: Estimate, weights: Floats | None = None) -> Difference:
    """The first minus the second, of the same clusters.

    The interval is made of those of both (MOVER: Zou and Donner 2008), so that it has a width where shares are 0 or 1;
    the p-value is two-sided and inverts it.

    Args:
      weights: as `covariance`.
    """
    value, n = first.value - second.value, min(first.n, second.n)
    notes = tuple(dict.fromkeys((*first.notes, *second.notes)))
    undefined = first.undefined if math.isnan(first.value) else second.undefined
    lacking = first.lacking or second.lacking
    if math.isnan(value) or lacking:
        return Difference(value, math.nan, math.nan, None, n, notes, lacking, undefined)
    both = math.sqrt(max(first.variance * second.variance, 0.0))
    r = float(np.clip(covariance(first, second, weights) / both, -1, 1)) if both > 0 else 0.0
    (low, high), (other_low, other_high) = first.interval(), second.interval()
    below = _together(first.value - low, other_high - second.value, r)
    above = _together(high - first.value, second.value - other_low, r)
    nearer = below if value > 0 else above
    same = value == 0 and r > 1 - 1e-9 and math.isclose(first.variance, second.variance)
    if nearer < 1e-12 or same:
        return Difference(value, value, value, None, n, notes, ALL_ALIKE, undefined)
    degrees = min(first.deciding, second.deciding) - 1
    p_value = 2 * float(stdtr(max(degrees, 1), -abs(value) * quantile(degrees) / nearer))
    return Difference(value, value - below, value + above, min(p_value, 1.0), n, notes, None, undefined)


def _together(one: float, other: float, r: float) -> float:
    """The reach of a difference whose sides reach so far, and vary together."""
    return math.sqrt(max(one * one + other * other - 2 * r * one * other, 0.0))


def estimates_of_means(
    values: Floats, clusters: Clusters, notes: Sequence[str] = (), undefined: Sequence[str] | str = ""
) -> list[Estimate]:
    """Means of columns over rows.

    Args:
      values: [rows, k]; NaN where a row does not count.
      clusters: of the rows.
      notes: said of all k.
      undefined: why there is none, of all or of each.
    """
    why = [undefined] * values.shape[1] if isinstance(undefined, str) else undefined
    return [_mean(column, clusters, tuple(notes), said) for column, said in zip(values.T, why, strict=True)]


def _mean(values: Floats, clusters: Clusters, notes: tuple[str, ...], undefined: str) -> Estimate:
    counted = ~np.isnan(values)
    n = int(np.count_nonzero(counted))
    if not n:
        return replace(nothing(undefined), notes=notes)
    known, clusters = (values, clusters) if n == len(values) else (values[counted], clusters.some(counted))
    mean = known.mean()
    share = known.min() >= 0 and known.max() <= 1
    parts = clusters.sums(known - mean) / n
    scale = Scale.SHARE if share else Scale.FREE
    return Estimate(float(mean), parts, clusters.counted(), n, scale, notes=notes)
