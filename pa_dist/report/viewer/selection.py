"""Which trajectories the viewer holds, in which order, and what its list says of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.config import Evaluate
from pa_dist.ragged import Ints, column
from pa_dist.reduce.metrics.groups import GROUP, Group
from pa_dist.report.wording import UNNAMED
from pa_dist.schema import NONE
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import locate

# Trajectories that one task writes, and holds at a time.
_GROUP_ROWS = 256
_KEYS = (*GROUP, "task_id")
_LABELS = ("trial", "reward", "mistake_step", "n_steps", "n_scored_steps")
# What the list can show beside a column a method: progress advantage by some other aggregations.
_MORE_SCORES = (
    "progress_advantage__mean__min",
    "progress_advantage__mean__bottom10",
    "progress_advantage__mean__last",
    "progress_advantage__sum__sum",
)
OUTCOMES = {True: "success", False: "failure", None: "unknown"}
CHOSEN_BY = "progress_advantage__mean__mean"


@dataclass(frozen=True)
class Share:
    """Consecutive trajectories that one task writes."""

    first: int
    """The place of the first one among all."""
    ids: list[str]
    files: dict[str, list[str]]
    """Of each table, those that hold them."""


@dataclass(frozen=True)
class Choice:
    """What a viewer holds."""

    table: pa.Table
    """Keys, labels, scores and `chosen`, a row a trajectory; as many as were asked for at most."""
    groups: list[Share]
    n_total: int
    n_tasks_left_out: int


def choose(folder: RunFolder, settings: Evaluate, limit: int) -> Choice:
    """Choose whole tasks by the seed until the limit, and put their trials side by side."""
    available = folder.dataset("scores").schema.names
    columns = ["trajectory_id", *_KEYS, *_LABELS, *score_columns(available)]
    table = folder.columns("scores", columns)
    table = table.sort_by([(name, "ascending") for name in (*_KEYS, "trial", "trajectory_id")])
    n_total, tasks = len(table), task_numbers(table)
    kept = _whole_tasks(tasks, limit, settings.seed)
    n_tasks_left_out = len(np.unique(tasks)) - len(np.unique(tasks[kept]))
    table = table.take(pa.array(kept))
    ids = table["trajectory_id"].to_pylist()
    table = table.append_column("chosen", _chosen(folder, table["trajectory_id"]))
    outcome = pa.array([outcome_of(row, settings.success_threshold) for row in table.select(_LABELS).to_pylist()])
    table = table.append_column("success", outcome.cast(pa.bool_()))
    groups = [ids[start : start + _GROUP_ROWS] for start in range(0, len(ids), _GROUP_ROWS)]
    where = {name: locate(folder, name) for name in ("trajectories", "logprobs", "steps", "labels")}
    parts = [
        Share(number * _GROUP_ROWS, group, {name: index.holding(group) for name, index in where.items()})
        for number, group in enumerate(groups)
    ]
    return Choice(table, parts, n_total, n_tasks_left_out)


def score_columns(available: Sequence[str]) -> list[str]:
    """Of the columns of `scores`, those that the list can show: token mean and step mean, or its own, and a few."""
    found = []
    for name in available:
        method, _, aggs = name.partition("__")
        if not aggs:
            continue
        token_agg, step_agg = aggs.split("__")
        own = method.startswith("deepconf") and token_agg == "mean"
        if own or name in _MORE_SCORES or {token_agg, step_agg} <= {"mean", NONE}:
            found.append(name)
    return sorted(found, key=lambda name: name != CHOSEN_BY)


def task_numbers(table: pa.Table) -> Ints:
    """The task of each row of a table sorted by its keys, counted from 0; a trajectory without one is its own, and
    each behavior's rollouts of a task are tasks of their own, as they are where best-of-N chooses."""
    before, after = table.slice(0, max(len(table) - 1, 0)), table.slice(1)
    changes = np.zeros(len(table), np.int64)
    for name in _KEYS:
        # Null where either is: two tasks, unless it is only a part of the group that nobody named.
        same = pc.equal(column(before, name), column(after, name))
        if name != "task_id":
            both = pc.and_(pc.is_null(column(before, name)), pc.is_null(column(after, name)))
            same = pc.or_(pc.fill_null(same, False), both)
        changes[1:] |= ~pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    return np.cumsum(changes)


def _whole_tasks(tasks: Ints, limit: int, seed: int) -> Ints:
    """Rows of as many tasks, drawn at random, as come to the limit; of a first one that is larger, its first rows."""
    if len(tasks) <= limit:
        return np.arange(len(tasks))
    sizes = np.bincount(tasks)
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    fitting = drawn[np.cumsum(sizes[drawn]) <= limit]
    if not len(fitting):
        return np.flatnonzero(tasks == drawn[0])[:limit]
    return np.flatnonzero(np.isin(tasks, fitting))


def _chosen(folder: RunFolder, ids: pa.ChunkedArray) -> pa.Array:
    """Whether each trajectory is the one of its task that best-of-N by progress advantage takes."""
    method, token_agg, step_agg = CHOSEN_BY.split("__")
    cell = (pc.field("method") == method) & (pc.field("token_agg") == token_agg) & (pc.field("step_agg") == step_agg)
    picked = folder.dataset("selections").to_table(columns=["trajectory_id"], filter=cell)["trajectory_id"]
    return pc.is_in(ids, value_set=picked.combine_chunks())


def outcome_of(row: Mapping[str, Any], threshold: float) -> bool | None:
    """Whether a trajectory succeeded; None without a reward: a labelled mistake may have been made good."""
    return None if row["reward"] is None else bool(row["reward"] >= threshold)


def read_choice(choice: Choice) -> dict[str, Any]:
    """A choice as the page's index holds it: a list a column, scores with six digits."""
    table = choice.table
    names = [name for name in table.column_names if name.count("__") == 2]
    groups: dict[Group, int] = {}
    of_rows = zip(*(table[name].to_pylist() for name in GROUP), strict=True)
    columns = {name: table[name].to_pylist() for name in ("behavior", *_LABELS, "success", "chosen")}
    return {
        "id": table["trajectory_id"].to_pylist(),
        "group": [groups.setdefault(group, len(groups)) for group in of_rows],
        "groups": named_apart(groups),
        "task": table["task_id"].to_pylist(),
        **columns,
        "scores": {name: [_short(value) for value in table[name].to_pylist()] for name in names},
        "total": choice.n_total,
        "tasks_left_out": choice.n_tasks_left_out,
    }


def named_apart(groups: Iterable[Group]) -> list[list[str | None]]:
    """Benchmark and domain of each group, and its behavior where another one shares these."""
    groups = list(groups)
    shared = Counter(group[:2] for group in groups)
    return [[*group[:2], *([group[2] or UNNAMED] if shared[group[:2]] > 1 else [])] for group in groups]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
