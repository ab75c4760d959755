"""UQ: how well a trajectory's score tells success from failure. Point values are scikit-learn's and scipy's.

Rows are sorted once. Each metric is a function of running sums at the ends of groups of tied scores, and so is its
influence: its derivative at the weight of each row, which `intervals` makes an interval of. The influences of a metric
sum to 0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, Scale

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))
METRICS: tuple[tuple[str, float | None], ...] = (
    ("auroc", None),
    ("auprc", None),
    ("spearman", None),
    ("aurc", None),
    *(("risk", coverage) for coverage in COVERAGES),
)


@dataclass(frozen=True)
class Ties:
    """Rows in descending order of a value, and where each group of equal values ends (the first entry is 0)."""

    order: Ints
    ends: Ints

    @staticmethod
    def of(values: Floats) -> "Ties":
        """Of scores [n]."""
        order = np.argsort(-values, kind="stable")
        last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
        return Ties(order, np.concatenate([[0], last + 1]))

    @cached_property
    def sizes(self) -> Floats:
        """[groups] how many rows each has."""
        sizes: Floats = np.diff(self.ends.astype(np.float64))
        return sizes

    @cached_property
    def group(self) -> Ints:
        """[rows] the group of each row, in `order`."""
        return np.repeat(np.arange(len(self.ends) - 1), np.diff(self.ends))

    def running(self, ordered: Floats) -> Floats:
        """Running sum of [..., rows] (in `order`) at the ends of the groups: [..., groups + 1], the first column 0."""
        sums = np.zeros((*ordered.shape[:-1], ordered.shape[-1] + 1))
        np.cumsum(ordered, axis=-1, out=sums[..., 1:])
        return sums if len(self.ends) == sums.shape[-1] else sums[..., self.ends]


@dataclass(frozen=True)
class Outcomes:
    """How the trajectories of a group went: what all scores of them are held against.

    Attributes:
      reward: [rows], what Spearman is taken against.
      success: [rows], the label of all other metrics.
      clusters: of the rows.
    """

    reward: Floats
    success: Bools
    clusters: Clusters

    def __len__(self) -> int:
        return len(self.reward)

    def some(self, kept: Bools) -> "Outcomes":
        """Of some of the rows."""
        return self if kept.all() else Outcomes(self.reward[kept], self.success[kept], self.clusters.some(kept))

    @cached_property
    def by_reward(self) -> tuple[Ties, Ints, Floats]:
        """Rows by reward; the group of each row; the centred mid-rank of each group."""
        ties = Ties.of(self.reward)
        group = np.empty(len(self), np.int64)
        group[ties.order] = ties.group
        return ties, group, _mid_ranks(ties.ends)

    @cached_property
    def harmonic(self) -> tuple[Floats, Floats]:
        """The harmonic numbers up to as many as there are rows, and their derivatives."""
        k = np.arange(1, len(self) + 1)
        numbers, slopes = np.zeros(len(k) + 1), np.full(len(k) + 1, np.pi**2 / 6)
        np.cumsum(1 / k, out=numbers[1:])
        slopes[1:] -= np.cumsum(1 / k**2)
        return numbers, slopes

    @cached_property
    def rows_of_bins(self) -> Ints:
        """[bins] how many rows each has."""
        return np.bincount(self.clusters.bins, minlength=self.clusters.n_bins).astype(np.int64)

    @cached_property
    def n_clusters(self) -> tuple[int, int, int]:
        """All that there are, those with a success, and those with a failure."""
        return self.clusters.counted(), self.clusters.counted(self.success), self.clusters.counted(~self.success)


def uncertainty(score: Floats, outcomes: Outcomes, count: int = len(METRICS)) -> list[Estimate]:
    """AUROC, AUPRC, Spearman, area under the risk-coverage curve, and selective risk at each coverage, as `METRICS`.

    Args:
      score: [rows], higher is better; NaN rows are left out and counted in the notes.
      count: how many of the metrics, the first ones, are wanted.
    """
    known = ~np.isnan(score)
    n_known = int(np.count_nonzero(known))
    notes = (f"{len(score) - n_known} trajectories without a score left out",) if n_known < len(score) else ()
    if not n_known:
        return [Estimate(np.nan, np.empty(0), 0, 0, notes=notes, undefined="no trajectory has a score")] * count
    kept = outcomes.some(known)
    return list(islice(_measured(score if n_known == len(score) else score[known], kept, notes), count))


def why_undefined(success: Bools) -> str:
    """Why a metric of rows with scores has no value."""
    if not len(success):
        return "no trajectory has a score"
    if success.all() or not success.any():
        return f"one class only: every trajectory {'succeeded' if success.all() else 'failed'}"
    return "all scores are equal"


def _measured(score: Floats, outcomes: Outcomes, notes: tuple[str, ...]) -> Iterator[Estimate]:
    ranked = Ranked.of(score, outcomes)
    n_clusters, won, lost = outcomes.n_clusters
    rarer, why = min(won, lost), why_undefined(outcomes.success)

    def made(value: float, influence: Floats, **settings: Any) -> Estimate:
        if np.isnan(value):
            return Estimate(np.nan, np.empty(0), n_clusters, len(score), notes=notes, undefined=why)
        parts = ranked.sums(influence)
        return Estimate(float(value), parts, n_clusters, len(score), notes=notes, undefined=why, **settings)

    yield made(*ranked.auroc(), rarer=rarer, edge=pairs_at_the_edge(won, lost))
    yield made(*ranked.auprc(), rarer=rarer, edge=rarer)
    yield made(*ranked.spearman(), scale=Scale.CORRELATION)
    yield made(*ranked.aurc(), rarer=rarer or None)
    for value, parts, n_bins in ranked.risks():
        yield Estimate(value, parts, n_clusters, len(score), edge=n_bins, notes=notes)


def pairs_at_the_edge(won: int, lost: int) -> float:
    """How many independent rows an AUROC of 0 or 1 is worth, of clusters with either outcome: as many pairs as in
    Hanley and McNeil's variance near 1."""
    return 2 * won * lost / ((won + lost) / 2 + 1)


@dataclass(frozen=True)
class Ranked:
    """Rows by descending score. What is said of rows is in that order; of groups, in the order of `ties`.

    Attributes:
      hits, misses: [groups + 1] successes and failures down to the end of each group.
      success: [rows].
    """

    ties: Ties
    hits: Floats
    misses: Floats
    success: Bools
    outcomes: Outcomes

    @staticmethod
    def of(score: Floats, outcomes: Outcomes) -> "Ranked":
        """Of scores [rows] without NaN."""
        ties = Ties.of(score)
        success = outcomes.success[ties.order]
        hits = ties.running(success.astype(np.float64))
        return Ranked(ties, hits, ties.ends - hits, success, outcomes)

    def sums(self, influence: Floats) -> Floats:
        """[bins] of influences [rows]."""
        return self._clusters.sums(influence)

    @cached_property
    def _clusters(self) -> Clusters:
        return self.outcomes.clusters.some(self.ties.order)

    @property
    def _bins(self) -> Ints:
        return self._clusters.bins

    @cached_property
    def _missed(self) -> Floats:
        """[rows] 1 where a row is a failure."""
        missed: Floats = (~self.success).astype(np.float64)
        return missed

    def _on_both(self, successes: Floats, failures: Floats) -> Floats:
        """[rows] of what groups have for their successes, and for their failures."""
        return np.where(self.success, successes[self.ties.group], failures[self.ties.group])

    def auroc(self) -> tuple[float, Floats]:
        """The share of pairs of a success and a failure that are in the right order, ties by half."""
        won, lost = self.hits[-1], self.misses[-1]
        if not won or not lost:
            return np.nan, np.empty(0)
        above, below = (self.hits[1:] + self.hits[:-1]) / 2, lost - (self.misses[1:] + self.misses[:-1]) / 2
        area = float(np.diff(self.misses) @ above) / (won * lost)
        return area, self._on_both(below / (won * lost) - area / won, above / (won * lost) - area / lost)

    def auprc(self) -> tuple[float, Floats]:
        """Average precision as scikit-learn has it: precision at each distinct score, by the gain in recall."""
        won, total = self.hits[-1], self.ties.ends[1:].astype(np.float64)
        if not won or won == total[-1]:  # with positives alone it would be 1 whatever the scores say
            return np.nan, np.empty(0)
        precision, gained = self.hits[1:] / total, np.diff(self.hits)
        value = float(gained @ precision) / won
        # One more row is in the hits and the total of its own group and of all below.
        as_hit, as_row = _from_here(gained / total), _from_here(gained * precision / total)
        return value, self._on_both((precision + as_hit - as_row - value) / won, -as_row / won)

    def spearman(self) -> tuple[float, Floats]:
        """Pearson correlation of mid-ranks. Both ranks count from the top, which leaves it as it is."""
        by_reward, reward_group, reward_ranks = self.outcomes.by_reward
        group, x = self.ties.group, _mid_ranks(self.ties.ends)
        reward_group = reward_group[self.ties.order]
        y = reward_ranks[reward_group]
        x_sizes, y_sizes = self.ties.sizes, by_reward.sizes
        spread_x, spread_y = float(x_sizes @ x**2), float(y_sizes @ reward_ranks**2)
        both = math.sqrt(spread_x * spread_y)
        if not both > 0:
            return np.nan, np.empty(0)
        y_in_x: Floats = np.bincount(group, weights=y).astype(np.float64)
        x_in_y: Floats = np.bincount(reward_group, weights=x[group]).astype(np.float64)
        value = float(x @ y_in_x) / both
        # One more row also moves the ranks of all below it, and by half those of its own group.
        of_x = _below(y_in_x) / both - value * (x**2 / 2 + _below(x_sizes * x)) / spread_x
        of_y = _below(x_in_y) / both - value * (reward_ranks**2 / 2 + _below(y_sizes * reward_ranks)) / spread_y
        return value, x[group] * y / both + of_x[group] + of_y[reward_group]

    def aurc(self) -> tuple[float, Floats]:
        """Mean over k of the expected risk of the k best rows, ties in random order.

        In a group of m rows with e misses, after K rows with E: sum over j = 1..m of (E + j e/m) / (K + j), which is
        e + (E - K e/m) (H(K + m) - H(K)) with the harmonic numbers H.
        """
        numbers, slopes = self.outcomes.harmonic
        ends, n = self.ties.ends, self.ties.ends[-1]
        before, size, missed = ends[:-1], np.diff(ends), np.diff(self.misses)
        gap, rate = np.diff(numbers[ends]), missed / size
        level = self.misses[:-1] - before * rate
        value = float(self.misses[-1] + gap @ level) / n
        # One more row moves the limits of all sums below it, and of its own group's the upper one.
        by_row = _from_here(np.diff(slopes[ends]) * level - gap * rate, inclusive=False)
        by_row += slopes[ends[1:]] * level + gap * before * rate / size - value
        by_miss = 1 + _from_here(gap, inclusive=False) - gap * before / size
        influence = self._on_both(by_row, by_row + by_miss) / n
        # Of fewer rows the sum over k has coarser steps, so that influences do not quite sum to 0.
        return value, influence - influence.mean()

    def risks(self) -> Iterator[tuple[float, Floats, int]]:
        """Expected risk of the ceil(coverage * rows) best rows for each coverage; its parts, [bins]; and how many bins
        these rows are of."""
        ends, n, n_bins = self.ties.ends, int(self.ties.ends[-1]), self.outcomes.clusters.n_bins
        best = (np.arange(1, len(COVERAGES) + 1) * n + 9) // 10
        values = np.interp(best, ends, self.misses) / best
        last = np.searchsorted(ends, best, side="right") - 1  # groups that are whole among the best
        # Rows and misses of each bin, between the ends of one whole part and the next.
        limits = np.concatenate([[0], ends[last], [n]])
        piece = np.repeat(np.arange(len(limits) - 1), np.diff(limits))
        place = self._bins * (len(limits) - 1) + piece
        shape = (n_bins, len(limits) - 1)
        rows, missed = (
            np.cumsum(np.bincount(place, weights=of, minlength=n_bins * shape[1]).reshape(shape), axis=1)
            for of in (None, self._missed)
        )
        for k, value in enumerate(values):
            rows_k, missed_k = rows[:, k].astype(np.float64), missed[:, k].copy()
            if best[k] > ends[last[k]]:  # some of a group of ties
                tied = slice(ends[last[k]], ends[last[k] + 1])
                share = (best[k] - tied.start) / (tied.stop - tied.start)
                rows_k += share * np.bincount(self._bins[tied], minlength=n_bins)
                missed_k += share * np.bincount(self._bins[tied], weights=self._missed[tied], minlength=n_bins)
            rate, coverage = self._rate_at(int(best[k])), best[k] / n
            # One more row pushes out a share of the last one, and makes the best be more by a share of a row.
            all_rows = self.outcomes.rows_of_bins
            parts = (missed_k - rate * rows_k + coverage * (rate - value) * all_rows) / best[k]
            yield float(value), parts, int(np.count_nonzero(rows_k))

    def _rate_at(self, k: int) -> float:
        """How often rows about the k-th fail: a single row says nothing of it."""
        n = len(self.success)
        reach = int(np.ceil(n ** (2 / 3) / 2))
        return float(self._missed[max(0, k - reach) : min(n, k + reach)].mean())


def _mid_ranks(ends: Ints) -> Floats:
    """Mid-rank of each group less the mean rank, [groups], from the ends of all."""
    ranks: Floats = (ends[1:] + ends[:-1] - ends[-1]) / 2
    return ranks


def _from_here(of_groups: Floats, *, inclusive: bool = True) -> Floats:
    """[groups] the sum over each group and all below it, or those below alone."""
    sums: Floats = np.cumsum(of_groups[::-1])[::-1]
    return sums if inclusive else sums - of_groups


def _below(of_groups: Floats) -> Floats:
    """[groups] the sum over all groups below each one and half its own."""
    return _from_here(of_groups) - of_groups / 2
