"""UQ: how well a trajectory's score tells success from failure. Point values are scikit-learn's and scipy's.

A resample is a vector of integer weights, one per row; every metric is computed on weights, for all resamples of a
chunk at once, on rows sorted once. A weighted value equals the metric on rows repeated as often as their weight.
"""

from dataclasses import dataclass

import numpy as np

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.intervals import Figure, Resampling, distinct, figures

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))
METRICS: tuple[tuple[str, float | None], ...] = (
    ("auroc", None),
    ("auprc", None),
    ("spearman", None),
    ("aurc", None),
    *(("risk", coverage) for coverage in COVERAGES),
)


def uncertainty(score: Floats, reward: Floats, success: Bools, resampling: Resampling) -> list[Figure]:
    """AUROC, AUPRC, Spearman, area under the risk-coverage curve, and selective risk at each coverage.

    Args:
      score: [rows], higher is better; NaN rows are left out and counted in the note.
      reward: [rows], what Spearman is taken against.
      success: [rows], the label of all other metrics.
      resampling: of these rows' clusters.
    """
    known = np.flatnonzero(~np.isnan(score))
    notes = [f"{len(score) - len(known)} trajectories without a score left out"] if len(known) < len(score) else []
    clusters, counts = resampling.clusters[known], [len(known)] * len(METRICS)
    values, resampled = measured(score[known], reward[known], success[known], clusters, resampling)
    of_clusters = [distinct(clusters)] * len(METRICS)
    why = why_undefined(success[known])
    return figures(METRICS, values, resampled, of_clusters, counts, resampling.resamples, notes, why)


def measured(
    score: Floats, reward: Floats, success: Bools, clusters: Ints, resampling: Resampling
) -> tuple[Floats, Floats]:
    """Every metric of rows that have a score, [len(METRICS)], and of their resamples, [resamples, len(METRICS)].

    Args:
      clusters: of these rows; `resampling` may draw clusters that none of them is in.
    """
    if not len(score):
        return np.full(len(METRICS), np.nan), np.empty((0, len(METRICS)))
    ranking = _Ranking.of(score, reward, success)
    values = _measure(ranking, np.ones((1, len(score))), np.arange(len(score)))[0]
    chunks = [_measure(ranking, drawn, clusters) for drawn in resampling.counts()]
    return values, np.concatenate(chunks) if chunks else np.empty((0, len(METRICS)))


def why_undefined(success: Bools) -> str:
    """Why a metric of rows with scores has no value."""
    if not len(success):
        return "no trajectory has a score"
    if success.all() or not success.any():
        return f"one class only: every trajectory {'succeeded' if success.all() else 'failed'}"
    return "all scores are equal"


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

    def running(self, ordered: Floats) -> Floats:
        """Running sum of [r, rows] (in `order`) at the ends of the groups: [r, groups + 1], the first column 0."""
        sums = np.zeros((ordered.shape[0], ordered.shape[1] + 1))
        np.cumsum(ordered, axis=1, out=sums[:, 1:])
        return sums if len(self.ends) == sums.shape[1] else sums[:, self.ends]


@dataclass(frozen=True)
class _Ranking:
    """What does not change between resamples."""

    by_score: Ties
    by_reward: Ties
    success: Floats  # in the order of scores
    reward_group: Ints  # of each row in the order of scores

    @staticmethod
    def of(score: Floats, reward: Floats, success: Bools) -> "_Ranking":
        by_score, by_reward = Ties.of(score), Ties.of(reward)
        group = np.empty(len(score), np.int64)
        group[by_reward.order] = np.repeat(np.arange(len(by_reward.ends) - 1), np.diff(by_reward.ends))
        return _Ranking(by_score, by_reward, success[by_score.order].astype(np.float64), group[by_score.order])


def _measure(ranking: _Ranking, drawn: Floats, clusters: Ints) -> Floats:
    """Every metric of each resample, [r, len(METRICS)]; `drawn` is [r, clusters]."""
    weights = drawn[:, clusters[ranking.by_score.order]]
    total = ranking.by_score.running(weights)
    hits = ranking.by_score.running(weights * ranking.success)
    misses = total - hits
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [
                _auroc(hits, misses),
                _auprc(hits, total),
                _spearman(ranking, total, weights, drawn[:, clusters[ranking.by_reward.order]]),
                _aurc(misses, total),
                *_risks(misses, total),
            ],
            axis=1,
        )


def _auroc(hits: Floats, misses: Floats) -> Floats:
    """Trapezoids under the ROC curve; groups of ties are its slanted pieces."""
    area: Floats = concordant(hits, misses) / (hits[:, -1] * misses[:, -1])
    return area


def concordant(hits: Floats, misses: Floats) -> Floats:
    """Pairs of a success and a failure in the right order, [r], ties by half; both running sums as of `Ties`."""
    pairs: Floats = np.einsum("rg,rg->r", np.diff(misses, axis=1), hits[:, 1:] + hits[:, :-1])
    return pairs / 2


def _auprc(hits: Floats, total: Floats) -> Floats:
    """Average precision as scikit-learn has it: precision at each distinct score, weighted by the gain in recall."""
    precision = hits[:, 1:] / np.maximum(total[:, 1:], 1)
    gained: Floats = np.einsum("rg,rg->r", np.diff(hits, axis=1), precision)
    # With positives alone it would be 1 whatever the scores say.
    one_class = (hits[:, -1] == 0) | (hits[:, -1] == total[:, -1])
    return np.where(one_class, np.nan, gained / hits[:, -1])


def _spearman(ranking: _Ranking, total: Floats, weights: Floats, reward_weights: Floats) -> Floats:
    """Pearson correlation of mid-ranks. Both ranks count from the top, which leaves it as it is."""
    score_rank, score_spread = _ranks(total)
    reward_rank, reward_spread = _ranks(ranking.by_reward.running(reward_weights))
    weighted = ranking.by_score.running(weights * reward_rank[:, ranking.reward_group])
    shared = np.einsum("rg,rg->r", score_rank, np.diff(weighted, axis=1))
    # Equal ranks everywhere have no spread; 0/0 then says undefined.
    correlation: Floats = shared / np.sqrt(score_spread * reward_spread)
    return correlation


def _ranks(total: Floats) -> tuple[Floats, Floats]:
    """Mid-rank of each group less the mean rank, [r, groups], and the sum of its squares over rows, [r]."""
    size = np.diff(total, axis=1)
    centred = total[:, :-1] + (size - total[:, -1:]) / 2
    return centred, np.einsum("rg,rg,rg->r", size, centred, centred)


def _aurc(misses: Floats, total: Floats) -> Floats:
    """Mean over k of the expected risk of the k best rows, ties in random order.

    In a group of m rows with e misses, after K rows with E: sum over j = 1..m of (E + j e/m) / (K + j), which is
    e + (E - K e/m) (H(K + m) - H(K)) with the harmonic numbers H.
    """
    missed, size = np.diff(misses, axis=1), np.diff(total, axis=1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total[:, -1].max()) + 1))])
    gap = np.diff(harmonic[total.astype(np.int64)], axis=1)
    before = misses[:, :-1] - total[:, :-1] * missed / np.maximum(size, 1)
    area: Floats = (misses[:, -1] + np.einsum("rg,rg->r", gap, before)) / total[:, -1]
    return area


def _risks(misses: Floats, total: Floats) -> Floats:
    """Expected risk of the ceil(coverage * rows) best rows, [coverages, r]."""
    everything = total[:, -1:].astype(np.int64)
    best = (np.arange(1, 11) * everything + 9) // 10
    # One interpolation for all resamples: each one's curve is shifted past the one before it.
    shift = np.arange(len(total))[:, None] * (everything.max() + 1)
    missed = np.interp((best + shift).ravel(), (total + shift).ravel(), misses.ravel())
    risks: Floats = (missed.reshape(best.shape) / best).T
    return risks
