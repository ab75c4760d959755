"""Votes where answers repeat: the answer wins whose trials' ballots weigh most, and what it is worth for every n.

Each trial's ballot weighs one (`vote`), or by its score's rank among the n (`weighted_vote`): n for the best, 1 for the
worst, the mean of theirs where scores tie, those without a score last. This is Borda's count, as Kang et al. 2025
(arXiv 2502.18581) use it with self-certainty: no scale of a score comes into it. A trial without an answer has no
ballot.

Where all answers differ a vote is a random trial's success, and a weighted one that of the best-scored trial.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.best_of_n import Named, Trials, named
from pa_dist.reduce.metrics.intervals import Clusters

# Every subset of so many trials is voted on, 255 at most. Of more trials all of them together alone.
MOST_TRIALS = 8
# Ballots that are counted at a time.
_AT_ONCE = 1 << 16


def votes(score: Floats | None, answer: Ints, trials: Trials, clusters: Clusters, notes: list[str]) -> Named:
    """Success of the trial that a vote elects, a macro-average over tasks.

    Args:
      score: [trials], higher is better, NaN where there is none; null: each ballot weighs one.
      answer: [trials] the same number for the same answer of one task; -1 where there is none.
      trials: the group's.
      clusters: of its tasks.
      notes: what was left out before.

    Returns:
      For every n, exactly over all subsets; for the largest alone where that is more than `MOST_TRIALS`.
    """
    metric, largest = "vote" if score is None else "weighted_vote", trials.largest
    if silent := int((answer < 0).sum()):
        notes = [*notes, f"{silent} trials without an answer do not vote"]
    if score is not None and (missing := int(np.isnan(score).sum())):
        notes = [*notes, f"{missing} trials without a score rank last"]
    if largest > MOST_TRIALS:
        notes = [*notes, f"of all {largest} trials alone: more than {MOST_TRIALS} have too many subsets"]
    elected = np.full((len(trials.sizes), largest), np.nan)
    if score is None or not np.isnan(score).all():
        order = np.arange(len(answer)) if score is None else trials.ranked(score)
        ranked = None if score is None else np.where(np.isnan(score), -np.inf, score)[order]
        ballots = Ballots(ranked, trials.success[order].astype(np.float64), *_by_task(answer[order], trials))
        for size in np.unique(trials.sizes).tolist():
            tasks = np.flatnonzero(trials.sizes == size)
            for n in [n for n in range(1, size + 1) if n == largest or largest <= MOST_TRIALS]:
                elected[tasks, n - 1] = _mean_over_subsets(ballots, trials.starts[tasks], size, n)
    found = named((metric,), elected, trials, clusters, notes, "no trial has a score")
    return found if largest <= MOST_TRIALS else found[-1:]


def _by_task(answer: Ints, trials: Trials) -> tuple[Ints, Bools]:
    """Each trial's answer numbered from 0 within its task, one of its own where it has none; and who has one."""
    given = answer >= 0
    alone = np.where(given, answer, -1 - np.arange(len(answer)))
    order = np.lexsort((alone, trials.task))
    new = np.arange(len(order)) == 0
    for of in (trials.task[order], alone[order]):
        new[1:] |= of[1:] != of[:-1]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(new) - 1
    first = np.minimum.reduceat(number, trials.starts)
    return number - first[trials.task], given


@dataclass(frozen=True)
class Ballots:
    """Trials sorted by task, the best first.

    Attributes:
      score: [trials], -inf where there is none; null where all weigh the same.
      success: [trials], 0 or 1.
      answer: [trials] numbered within the task.
      given: [trials] whether it votes.
    """

    score: Floats | None
    success: Floats
    answer: Ints
    given: Bools

    def elect(self, places: Ints) -> Floats:
        """Success of who is elected in each of many votes; where answers tie by ballots alone, the mean.

        Args:
          places: [votes, n] those who vote, in order.
        """
        count, n = places.shape
        weight = self.given[places] * (np.ones((count, n)) if self.score is None else _borda(self.score[places]))
        most = int(self.answer[places].max()) + 1
        answer = self.answer[places] + most * np.arange(count)[:, None]
        sums = np.bincount(answer.ravel(), weights=weight.ravel(), minlength=most * count)[answer]
        wins = sums == sums.max(axis=1, keepdims=True)  # halves of whole numbers: equal sums are equal
        if self.score is None:
            return np.asarray((self.success[places] * wins).sum(axis=1) / wins.sum(axis=1))
        # The first of the winners is the best-scored; so are ties decided.
        elected: Ints = places[np.arange(count), wins.argmax(axis=1)]
        return np.asarray(self.success[elected])


def _borda(score: Floats) -> Floats:
    """Weights of [votes, n] scores that descend: n to 1, the mean of these where scores tie."""
    n = score.shape[1]
    place = np.arange(n)
    falls = score[:, 1:] != score[:, :-1]
    ends = np.ones((len(score), 1), np.bool_)
    first = np.maximum.accumulate(np.where(np.hstack([ends, falls]), place, 0), axis=1)
    last = np.minimum.accumulate(np.where(np.hstack([falls, ends]), place, n)[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(n - (first + last) / 2)


def _mean_over_subsets(ballots: Ballots, starts: Ints, size: int, n: int) -> Floats:
    """Of each task with `size` trials the mean over its subsets of n, [tasks]."""
    subsets = np.array(list(combinations(range(size), n)))
    total, tasks = np.zeros(len(starts)), max(1, _AT_ONCE // n)
    for first in range(0, len(starts), tasks):
        here = starts[first : first + tasks, None, None]
        at_once = max(1, _AT_ONCE // (n * len(here)))
        for chosen in (subsets[at : at + at_once] for at in range(0, len(subsets), at_once)):
            elected = ballots.elect((here + chosen).reshape(-1, n)).reshape(len(here), -1)
            total[first : first + tasks] += elected.sum(axis=1)
    return total / len(subsets)
