"""What reward models say of a block of `logprobs`: joined by trajectory, and by the message of each step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.errors import ConfigError
from pa_dist.ragged import Floats, Ints, column, lengths
from pa_dist.reduce.block.methods import RewardMethod, methods
from pa_dist.store.folder import RunFolder

_READ = ["trajectory_id", "score", "step", "step_score"]


def check_names(reward_models: Iterable[str]) -> None:
    """Refuse a reward model by the name of a method. Raises `ConfigError`."""
    taken = {"baseline", *(method.name for method in methods("published"))}
    for name in reward_models:
        if name in taken:
            raise ConfigError(f"reward_models.{name}: a method has this name; take another")


@dataclass(frozen=True)
class Judged:
    """A reward model, and rows of its table in any order."""

    method: RewardMethod
    table: pa.Table


def read_judged(folder: RunFolder, method: RewardMethod, files: Sequence[str], ids: pa.ChunkedArray) -> Judged:
    """A reward model's rows of some trajectories, from the files that hold them."""
    rows = folder.files(files, schema.REWARDS)
    return Judged(method, rows.to_table(columns=_READ, filter=pc.field("trajectory_id").isin(ids.combine_chunks())))


def of_trajectories(block: pa.Table, judged: Judged) -> Floats:
    """The score of each trajectory of a block, NaN where it has none."""
    at = pc.index_in(column(block, "trajectory_id"), value_set=column(judged.table, "trajectory_id"))
    scores: Floats = column(judged.table, "score").take(at).to_numpy(zero_copy_only=False)
    return scores


def of_steps(block: pa.Table, n_steps: Ints, step: pa.Array, judged: Judged) -> Floats:
    """The score of each step of a block, NaN where it was never judged.

    Args:
      n_steps: of each trajectory.
      step: the message index of each step.
    """
    row = pc.index_in(column(judged.table, "trajectory_id"), value_set=column(block, "trajectory_id"))
    theirs = judged.table.filter(row.is_valid())
    lists = column(theirs, "step")
    rows = np.repeat(row.drop_null().to_numpy(zero_copy_only=False), lengths(lists))
    known = _key(rows, lists.flatten())
    scores = column(theirs, "step_score").flatten().to_numpy(zero_copy_only=False)
    order = np.argsort(known)
    wanted = _key(np.repeat(np.arange(len(block)), n_steps), step)
    if not len(known):
        return np.full(len(wanted), np.nan)
    place = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    found: Floats = np.where(known[place] == wanted, scores[place], np.nan)
    return found


def _key(rows: Ints, step: pa.Array) -> Ints:
    """One number for a trajectory and a message of it."""
    key: Ints = rows.astype(np.int64) << 32 | step.to_numpy(zero_copy_only=False).astype(np.int64)
    return key
