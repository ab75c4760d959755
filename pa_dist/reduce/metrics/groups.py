"""Rows of a table by benchmark, domain and behavior, in trajectory order, and their clusters and trials."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Bools, Floats, Ints, column, is_valid
from pa_dist.reduce.metrics.best_of_n import Trials
from pa_dist.reduce.metrics.intervals import Clusters

Group = tuple[str | None, str | None, str | None]
"""Benchmark, domain and behavior."""
GROUP = [field.name for field in schema.GROUP]
LABELLED = [*(field.name for field in [*schema.KEYS, *schema.LABELS]), "first_wrong", "n_labelled_steps"]
"""The columns of `scores` that say where a trajectory belongs, and how it went."""


def by_group(table: pa.Table) -> Iterator[tuple[Group, pa.Table]]:
    """Each group and its rows, sorted by trajectory_id: figures do not depend on how rows were split.

    Groups come by their names, a missing name first.
    """
    encoded = [column(table, name).dictionary_encode("encode") for name in GROUP]
    benchmarks, domains, behaviors = (of.dictionary.to_pylist() for of in encoded)
    benchmark, domain, behavior = map(_codes, encoded)
    n_domains, n_behaviors = len(domains), len(behaviors)
    found, which = np.unique((benchmark * n_domains + domain) * n_behaviors + behavior, return_inverse=True)
    pairs = [divmod(code, n_behaviors) for code in found.tolist()]
    groups = [(benchmarks[pair // n_domains], domains[pair % n_domains], behaviors[last]) for pair, last in pairs]
    # One pass over the rows, however many groups they fall into, and no copy of all of them.
    order = pc.sort_indices(table["trajectory_id"]).to_numpy()
    order = order[np.argsort(which[order], kind="stable")]
    ends = np.cumsum(np.bincount(which, minlength=len(groups)))
    for k in sorted(range(len(groups)), key=lambda k: by_name(groups[k])):
        start = ends[k - 1] if k else 0
        yield groups[k], table.take(pa.array(order[start : ends[k]]))


def by_name(group: Group) -> tuple[tuple[bool, str], ...]:
    """What groups are ordered by: their names, a missing one first."""
    return tuple((name is not None, name or "") for name in group)


def _codes(encoded: pa.DictionaryArray) -> Ints:
    codes: Ints = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def floats(table: pa.Table, name: str) -> Floats:
    """A numeric column as float64, null as NaN."""
    values: Floats = column(table, name).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def clusters(table: pa.Table) -> Ints:
    """What varies: the task of each row, or the trajectory itself where it has none; numbered from 0."""
    tasks = pc.binary_join_element_wise("task", column(table, "task_id"), "\0")
    alone = pc.binary_join_element_wise("trajectory", column(table, "trajectory_id"), "\0")
    return _codes(pc.coalesce(tasks, alone).dictionary_encode())


@dataclass(frozen=True)
class Labels:
    """Where the rows of a group belong and how they went, sorted by trajectory_id; numbers instead of names.

    Attributes:
      cluster: [rows] from `clusters`.
      task: [rows] the same; -1 where it has none.
      trial, reward, mistake, first_wrong: [rows] trial, reward, mistake_step and the first message that is labelled
        wrong, NaN where there is none.
      n_labelled: [rows] steps that have a label.
      pair: [rows] a number for each pair of trajectories; -1 where it is in none.
    """

    cluster: Ints
    task: Ints
    trial: Floats
    reward: Floats
    mistake: Floats
    first_wrong: Floats
    n_labelled: Ints
    pair: Ints

    @staticmethod
    def of(table: pa.Table) -> "Labels":
        """Of rows of one group, sorted by trajectory_id, with the columns `LABELLED`."""
        cluster = clusters(table)
        task = np.where(is_valid(column(table, "task_id")), cluster, -1)
        names = ("trial", "reward", "mistake_step", "first_wrong")
        trial, reward, mistake, wrong = (floats(table, name) for name in names)
        pair = column(table, "pair_id").dictionary_encode().indices.fill_null(-1)
        counts = (of.to_numpy().astype(np.int64) for of in (column(table, "n_labelled_steps").fill_null(0), pair))
        return Labels(cluster, task, trial, reward, mistake, wrong, *counts)

    def __len__(self) -> int:
        return len(self.cluster)

    def some(self, rows: slice | Ints | Bools) -> "Labels":
        """Of some of the rows."""
        return Labels(*(getattr(self, of.name)[rows] for of in fields(self)))

    @property
    def any_mistake(self) -> Floats:
        """[rows] a message that is said to be wrong by either label; NaN where there is none."""
        return np.where(np.isnan(self.mistake), self.first_wrong, self.mistake)

    def clusters(self, seed: int) -> Clusters:
        """Those of these rows."""
        return Clusters.of(_numbered(self.cluster), seed)


def _numbered(codes: Ints) -> Ints:
    """Codes by their first appearance, from 0 without gaps."""
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[which.reshape(-1)]


def candidates(labels: Labels, settings: Evaluate) -> tuple[Ints, Trials]:
    """A group's trials that a task chooses among, rated or not, in the order of `trials`, which has those that figures
    are made of. No reward decides which these are, so that what is chosen stays so when labels come.

    Args:
      labels, settings: as of `trials`; a reward may be NaN.
    """
    rows, task = _in_order(labels, np.flatnonzero(labels.task >= 0))
    reward = labels.reward[rows]
    n_repeated = int((labels.task >= 0).sum()) - len(rows)
    return rows, Trials(task, reward, reward >= settings.success_threshold, n_repeated)


def trials(labels: Labels, settings: Evaluate) -> tuple[Ints, Trials, list[str]]:
    """A group's trials that can take part in best-of-N's figures, sorted by task, trial and trajectory_id.

    Several rollouts that say they are one trial of one task are no trials of their own: of each such set the first by
    trajectory_id stands for all. Rollouts without a trial number are a trial each.

    A rollout without a reward is left out. Preset `paper` counts its reward as 0.0 here, as the released code does, in
    a group where any rollout has one.

    Args:
      labels: of one group.
      settings: preset and the least reward of a success.

    Returns:
      The rows that take part, the same as arrays, and notes that count what was left out.
    """
    has_task, has_reward = labels.task >= 0, ~np.isnan(labels.reward)
    n_unrated = int((has_task & ~has_reward).sum())
    as_zero = settings.preset == "paper" and bool(has_reward.any())
    unrated = (n_unrated, "trials without a reward", "count as 0.0 (preset paper)" if as_zero else "left out")
    rated = np.flatnonzero(has_task if as_zero else has_task & has_reward)
    rows, task = _in_order(labels, rated)
    n_repeated = len(rated) - len(rows)
    reward = np.nan_to_num(labels.reward[rows])
    said = [
        (int((~has_task).sum()), "trajectories without a task", "left out"),
        unrated,
        (n_repeated, "rollouts that repeat a task and trial", "left out: the first by trajectory_id stands for them"),
    ]
    notes = [f"{count} {what} {done}" for count, what, done in said if count]
    return rows, Trials(task, reward, reward >= settings.success_threshold, n_repeated), notes


def _in_order(labels: Labels, rows: Ints) -> tuple[Ints, Ints]:
    """Rows by task and trial, of those that repeat both the first alone; and their tasks, numbered."""
    task, trial = _numbered(labels.task[rows]), labels.trial[rows]
    order = np.lexsort((np.where(np.isnan(trial), np.inf, trial), task))
    order = order[~_repeats(task[order], trial[order])]
    return rows[order], task[order]


def _repeats(task: Ints, trial: Floats) -> Bools:
    """Which entries, sorted by both, have the task and trial of the one before. No trial is like none."""
    again = np.zeros(len(task), np.bool_)
    again[1:] = (task[1:] == task[:-1]) & (trial[1:] == trial[:-1])
    return again
