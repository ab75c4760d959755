"""Whether a score says more than how long a trajectory is."""

import math

import numpy as np

from pa_dist.ragged import Floats
from pa_dist.reduce.metrics.intervals import Estimate, Scale, nothing
from pa_dist.reduce.metrics.uq import Outcomes, Ranked

METRIC = "spearman_given_steps"
_ALIKE = "rewards, scores or numbers of steps are all equal, or one decides another"


def beyond_length(score: Floats, n_steps: Floats, outcomes: Outcomes) -> Estimate:
    """Partial rank correlation of score and reward, given the number of steps: (a - b c) / sqrt((1 - b^2) (1 - c^2))
    with a of score and reward, b of score and steps, c of reward and steps. Its derivatives make its influences.

    Args:
      score: [rows], NaN where there is none.
      n_steps: [rows].
    """
    known = ~np.isnan(score) & ~np.isnan(n_steps)
    kept, score, n_steps = outcomes.some(known), score[known], n_steps[known]
    n_lacking = int(np.count_nonzero(~known))
    notes = (f"{n_lacking} trajectories without a score left out",) if n_lacking else ()
    if not len(kept):
        return nothing("no trajectory has a score")
    by_length = Outcomes(n_steps, kept.success, kept.clusters)
    pairs = (score, kept), (score, by_length), (n_steps, kept)
    (a, of_a), (b, of_b), (c, of_c) = (_spearman(*pair) for pair in pairs)
    rest = (1 - b * b) * (1 - c * c)
    if not rest > 1e-12:
        return Estimate(math.nan, np.empty(0), kept.n_clusters[0], len(kept), notes=notes, undefined=_ALIKE)
    value = (a - b * c) / math.sqrt(rest)
    parts = of_a / math.sqrt(rest)
    parts += of_b * (value * b / (1 - b * b) - c / math.sqrt(rest))
    parts += of_c * (value * c / (1 - c * c) - b / math.sqrt(rest))
    return Estimate(value, parts, kept.n_clusters[0], len(kept), Scale.CORRELATION, notes=notes)


def _spearman(of: Floats, outcomes: Outcomes) -> tuple[float, Floats]:
    ranked = Ranked.of(of, outcomes)
    value, influence = ranked.spearman()
    return value, np.empty(0) if math.isnan(value) else ranked.sums(influence)
