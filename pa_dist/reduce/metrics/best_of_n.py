"""Best-of-N: what picking the best-scored of n trials is worth, for every n, exactly over all subsets of n trials."""

from dataclasses import dataclass, replace

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, Scale, estimates_of_means

METRICS = ("success", "reward", "weighted_vote", "mean", "oracle", "vote", "tokens")
"""Of a cell, and of what needs no score, in the order of tables."""


def selection_probabilities(n_trials: int) -> Floats:
    """P[n - 1, k]: the chance that the trial of rank k (from 0) is the best of a random subset of n trials.

    C(N-1-k, n-1) / C(N, n): the rest of the subset lies below it. As a running product of (N-k-n+1) / (N-k) it neither
    overflows nor cancels, however large N.
    """
    n = np.arange(1, n_trials + 1)[:, None]
    k = np.arange(1, n_trials)[None, :]
    factors = np.maximum(n_trials - k - n + 1, 0) / (n_trials - k)
    return np.cumprod(np.concatenate([n / n_trials, factors], axis=1), axis=1)


@dataclass(frozen=True)
class Trials:
    """A group's trials, sorted by task and, within one, in the order that breaks ties.

    Attributes:
      task: [trials] numbered from 0 without gaps, ascending.
      reward: [trials].
      success: [trials].
      repeated: rollouts of a task and trial that another one stands for.
    """

    task: Ints
    reward: Floats
    success: Bools
    repeated: int = 0

    @property
    def sizes(self) -> Ints:
        """Trials of each task."""
        sizes: Ints = np.bincount(self.task)
        return sizes

    @property
    def largest(self) -> int:
        """The most trials of a task."""
        return int(self.sizes.max(initial=0))

    @property
    def at_least(self) -> list[int]:
        """Number of tasks with at least n trials, for n from 1 to the largest N."""
        n = np.arange(1, self.largest + 1)
        return [int(count) for count in (self.sizes[:, None] >= n).sum(axis=0)]

    def ranked(self, score: Floats) -> Ints:
        """Positions of the trials, task after task, best first; NaN last, ties as they stand."""
        return np.lexsort((np.where(np.isnan(score), np.inf, -score), self.task))

    @property
    def starts(self) -> Ints:
        """Position of each task's first trial."""
        starts: Ints = np.cumsum(self.sizes) - self.sizes
        return starts

    def picked(self, score: Floats) -> Ints:
        """Position of each task's selection among all its trials."""
        return self.ranked(score)[self.starts]

    @property
    def clusters(self) -> Ints:
        """What varies: tasks, numbered."""
        return np.arange(len(self.sizes))

    def expected(self, ranked: Ints, outcome: Floats) -> Floats:
        """Expected outcome of the first-ranked of n trials, [tasks, N]; NaN where a task has fewer than n."""
        sizes, starts = self.sizes, self.starts
        ordered = outcome[ranked]
        result = np.full((len(sizes), self.largest), np.nan)
        for size in np.unique(sizes):
            tasks = np.flatnonzero(sizes == size)
            by_rank = ordered[starts[tasks][:, None] + np.arange(size)]
            result[tasks, :size] = by_rank @ selection_probabilities(int(size)).T
        return result


Named = list[tuple[str, float, Estimate]]
"""Metric, n, and the figure."""


def best_of_n(score: Floats, trials: Trials, clusters: Clusters, notes: list[str]) -> Named:
    """Success and mean reward of the selection, a macro-average over tasks, for every n from 1 to N.

    Args:
      score: [trials], higher is better; NaN ranks last.
      trials: the group's trials.
      clusters: of its tasks.
      notes: what was left out before.
    """
    missing = int(np.isnan(score).sum())
    if missing == len(score):
        none = np.full((len(trials.sizes), 2 * trials.largest), np.nan)
        return named(("success", "reward"), none, trials, clusters, notes, "no trial has a score")
    notes = [*notes, f"{missing} trials without a score rank last"] if missing else notes
    ranked = trials.ranked(score)
    outcomes = np.hstack([trials.expected(ranked, of) for of in (trials.success.astype(np.float64), trials.reward)])
    return named(("success", "reward"), outcomes, trials, clusters, notes)


def baselines(trials: Trials, clusters: Clusters, notes: list[str]) -> Named:
    """What needs no score: `mean`, the mean success of a random trial, and `oracle`, pass@n, for every n."""
    success = trials.success.astype(np.float64)
    # A score that knows the outcome picks a success whenever the subset has one: 1 - C(N-c, n) / C(N, n).
    oracle = trials.expected(trials.ranked(success), success)
    mean = np.where(np.isnan(oracle), np.nan, oracle[:, :1])
    return named(("mean", "oracle"), np.hstack([mean, oracle]), trials, clusters, notes)


def tokens_spent(tokens: Floats, trials: Trials, clusters: Clusters, notes: list[str]) -> Named:
    """`tokens`: what n random trials of a task are expected to take, a macro-average over tasks, for every n.

    Args:
      tokens: [trials] that each one's agent wrote.
      trials, clusters, notes: as of `baselines`.
    """
    n = np.arange(1, trials.largest + 1)
    means = np.bincount(trials.task, weights=tokens) / trials.sizes
    spent = np.where(n <= trials.sizes[:, None], means[:, None] * n, np.nan)
    found = named(("tokens",), spent, trials, clusters, notes)
    return [(metric, at, replace(of, scale=Scale.FREE)) for metric, at, of in found]


def named(
    metrics: tuple[str, ...],
    outcomes: Floats,
    trials: Trials,
    clusters: Clusters,
    notes: list[str],
    undefined: str = "",
) -> Named:
    """Means of outcomes over tasks.

    Args:
      metrics: their names.
      outcomes: [tasks, metrics times n] for every n from 1 to the largest; NaN where a task has fewer than n.
      undefined: why there is none.
    """
    estimates = estimates_of_means(outcomes, clusters, notes, undefined)
    names = [(metric, float(n)) for metric in metrics for n in range(1, trials.largest + 1)]
    # Tasks with fewer trials do not count, with a score or without.
    sizes = trials.at_least * len(metrics)
    return [(*name, replace(of, n=n)) for name, of, n in zip(names, estimates, sizes, strict=True)]
