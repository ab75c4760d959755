"""How often intervals hold the truth: corpora drawn from a world whose figures are known, evaluated as runs are.

A task has a difficulty, which moves the success of its trials and, less, their scores: trials of one task are alike. A
score is a success and noise, a step is blamed rightly with a chance that tasks share, and of a task's trials the
highest score is picked. Truths are those of a corpus so large that they do not vary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.choice.cross_fitting import Pairs, read_auroc, redraws
from pa_dist.reduce.metrics.alarms import alarm_estimates, thresholds
from pa_dist.reduce.metrics.best_of_n import Trials, best_of_n
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, estimates_of_means
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty

SHARES = {"50:50": 0.5, "95:5": 0.95}
CROSS_FITTED = "cross-fitted AUROC"
_CELLS = 12
_TRUTH = 100_000


@dataclass(frozen=True)
class World:
    """Some tasks' trials.

    Attributes:
      task: [rows].
      success: [rows].
      score: [rows].
      cells: [cells, rows] scores of one method's cells, of which the first is a little better.
      right: [rows] whether the right step is blamed.
    """

    task: Ints
    success: Bools
    score: Floats
    cells: Floats
    right: Floats

    @staticmethod
    def drawn(n_tasks: int, trials: int, succeeding: float, rng: np.random.Generator) -> "World":
        """A new one."""
        task = np.repeat(np.arange(n_tasks), trials)
        n, difficulty = len(task), rng.normal(size=n_tasks)[task]
        threshold = float(ndtri(succeeding)) * np.sqrt(1.49)
        success = 0.7 * difficulty + rng.normal(size=n) < threshold
        score = success - 0.3 * difficulty + rng.normal(size=n)
        quality = 0.8 * success - 0.2 * difficulty + 0.8 * rng.normal(size=n)
        cells = quality + 0.6 * rng.normal(size=(_CELLS, n))
        cells[0] += 0.15 * success
        luck = 0.5 * rng.normal(size=n_tasks)[task] + rng.normal(size=n)
        right = (luck > float(ndtri(succeeding)) * np.sqrt(1.25)).astype(np.float64)
        return World(task, success, score, cells, right)

    def some(self, rows: Ints) -> "World":
        """Of some rows, as many in the place of each task."""
        return World(self.task, self.success[rows], self.score[rows], self.cells[:, rows], self.right[rows])

    @property
    def clusters(self) -> Clusters:
        """Its tasks."""
        return Clusters.of(self.task, 0)

    def estimates(self) -> dict[str, Estimate]:
        """Its figures, but for the cross-fitted one."""
        outcomes = Outcomes(self.success.astype(np.float64), self.success, self.clusters)
        uq = dict(zip(METRICS, uncertainty(self.score, outcomes), strict=True))
        tried = Trials(self.task, self.success.astype(np.float64), self.success)
        picked = best_of_n(self.score, tried, Clusters.of(tried.clusters, 0), [])
        (blamed,) = estimates_of_means(self.right[:, None], self.clusters)
        threshold = thresholds(self.score, self.success, self.clusters.folds, 0.1)
        _, caught = alarm_estimates(self.score, threshold, self.success, self.clusters, 0.1, [])
        return {
            "AUROC": uq["auroc", None],
            "AUPRC": uq["auprc", None],
            "Spearman": uq["spearman", None],
            "AURC": uq["aurc", None],
            "risk at 50%": uq["risk", 0.5],
            "step accuracy": blamed,
            "caught at 10%": caught,
            "best-of-n success": next(of for metric, n, of in picked if (metric, n) == ("success", tried.largest)),
        }

    def cross_fitted(self, like: Estimate, true: Floats) -> tuple[Estimate, float]:
        """The AUROC of cells chosen on other tasks, and what it is of.

        Args:
          like: an AUROC of these rows.
          true: [cells] what the AUROC of each cell would be.
        """
        pairs = Pairs.of(self.cells, self.success, self.clusters)
        choice, _ = pairs.choose()
        value, parts = read_auroc(self.cells, self.success, choice, self.clusters)
        redrawn = pairs.redrawn(redraws(self.clusters.n_bins, 200, 0)) if len(parts) else np.empty(0)
        return replace(like, value=value, parts=parts, redrawn=redrawn), float(true[choice].mean())


def measure(repeats: int, sizes: Sequence[int], trials: int, resamples: int) -> None:
    """Print for each figure, share of successes and number of tasks how often intervals hold the truth, how often there
    is one, and how wide they are."""
    head = f"{'figure':<20} {'':>6} {'tasks':>6} {'held':>7} {'given':>7} {'width':>7}"
    print(head + (f" {'bootstrap':>10}" if resamples else ""))
    for name, succeeding in SHARES.items():
        truth, of_cells = _truth(trials, succeeding)
        for n_tasks in sizes:
            found: dict[str, list[tuple[Estimate, float]]] = {}
            held: dict[str, list[bool]] = {}
            for seed in range(repeats):
                rng = np.random.default_rng([seed, n_tasks])
                world = World.drawn(n_tasks, trials, succeeding, rng)
                estimates = world.estimates()
                for figure, estimate in estimates.items():
                    found.setdefault(figure, []).append((estimate, truth[figure]))
                found.setdefault(CROSS_FITTED, []).append(world.cross_fitted(estimates["AUROC"], of_cells))
                if resamples:
                    for figure, (low, high) in _bootstrap(world, resamples, rng).items():
                        held.setdefault(figure, []).append(bool(low <= truth[figure] <= high))
            for figure, of in found.items():
                _print(f"{figure:<20} {name:>6} {n_tasks:>6,}", of, held.get(figure))


def _truth(trials: int, succeeding: float) -> tuple[dict[str, float], Floats]:
    """The figures of all, and the AUROC of each cell."""
    world = World.drawn(_TRUTH, trials, succeeding, np.random.default_rng(0))
    outcomes = Outcomes(world.success.astype(np.float64), world.success, world.clusters)
    of_cells = np.array([uncertainty(cell, outcomes)[0].value for cell in world.cells])
    return {name: estimate.value for name, estimate in world.estimates().items()}, of_cells


def _bootstrap(world: World, resamples: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Percentile intervals of the figures: tasks drawn with replacement, figures taken anew."""
    n_tasks = int(world.task.max()) + 1
    trials = len(world.task) // n_tasks
    values: dict[str, list[float]] = {}
    for _ in range(resamples):
        rows = (trials * rng.integers(0, n_tasks, n_tasks)[:, None] + np.arange(trials)).ravel()
        for name, estimate in world.some(rows).estimates().items():
            values.setdefault(name, []).append(estimate.value)
    known = {name: np.array(of)[np.isfinite(of)] for name, of in values.items()}
    return {name: np.quantile(of, [0.025, 0.975]) if len(of) else np.full(2, np.nan) for name, of in known.items()}


def _print(what: str, found: Sequence[tuple[Estimate, float]], held: Sequence[bool] | None) -> None:
    # Of a figure that chooses, the truth is what its choices are worth on the whole.
    truth = float(np.mean([true for _, true in found]))
    intervals = [of.interval() for of, _ in found if np.isfinite(of.value) and not of.lacking]
    if not intervals:
        print(f"{what} {'-':>7} {'0%':>7}")
        return
    share, width = np.mean([low <= truth <= high for low, high in intervals]), np.mean(np.diff(intervals))
    beside = "" if held is None else f" {np.mean(held):>10.1%}"
    print(f"{what} {share:>7.1%} {len(intervals) / len(found):>7.0%} {width:>7.3f}{beside}", flush=True)
