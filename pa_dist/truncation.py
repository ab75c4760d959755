"""What of a run was cut for being longer than `score.max_length`: counted once from `logprobs`, and said wherever the
run's figures are.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.mapper import Mapper
from pa_dist.ragged import Bools, column, is_valid, lengths
from pa_dist.store.folder import RunFolder

_FLAGS, _TOKENS = "truncated", ("token_ids", "token_ids_reference")


def count_cut(folder: RunFolder, map_tasks: Mapper) -> dict[str, int]:
    """Trajectories in which a step lost tokens, such steps, those that lost all of them, and how many steps there are.

    Tokens are read of the files alone in which something was cut.
    """
    counts = np.array([[0, 0, 0, 0], *map_tasks(partial(_count, folder), folder.shares("logprobs"))])
    return dict(zip(("trajectories", "steps", "whole_steps", "of_steps"), counts.sum(axis=0).tolist(), strict=True))


def _count(folder: RunFolder, paths: Sequence[str]) -> list[int]:
    total = np.zeros(4, np.int64)
    for path in paths:
        (dataset,) = folder.datasets([path], schema.LOGPROBS)
        flags = dataset.to_table(columns=[_FLAGS])
        if not pc.any(column(flags, _FLAGS).flatten()).as_py():
            total[3] += lengths(column(flags, _FLAGS)).sum()
            continue
        for batch in dataset.to_batches(columns=[_FLAGS, *_TOKENS]):
            total += _of_rows(pa.Table.from_batches([batch]))
    found: list[int] = total.tolist()
    return found


def _of_rows(table: pa.Table) -> list[int]:
    flags = column(table, _FLAGS)
    n_steps = lengths(flags)
    cut = flags.flatten().fill_null(False).to_numpy(zero_copy_only=False)
    empty = _none_left(column(table, _TOKENS[0]))
    apart = column(table, _TOKENS[1])
    # What one of two tokenizers left nothing of has no advantage either.
    empty[np.repeat(is_valid(apart), n_steps)] |= _none_left(apart)
    row = np.repeat(np.arange(len(table)), n_steps)
    return [len(np.unique(row[cut])), int(cut.sum()), int((cut & empty).sum()), len(cut)]


def _none_left(lists: pa.ListArray) -> Bools:
    """Of each step, whether no token is left."""
    none: Bools = lengths(lists.flatten()) == 0
    return none


def in_short(record: Mapping[str, Any]) -> str:
    """The same counts, of steps alone, to stand in brackets; nothing where nothing was cut."""
    cut = record.get("truncated")
    return f" ({cut['steps']:,} truncated, {cut['whole_steps']:,} of them wholly)" if cut and cut["steps"] else ""


def in_full(record: Mapping[str, Any]) -> str:
    """The counts of a stage `score` in words; nothing where nothing was cut.

    Args:
      record: of the manifest.
    """
    cut = record.get("truncated")
    if not cut or not cut["steps"]:
        return ""
    limit = record.get("settings", {}).get("score", {}).get("max_length")
    at = "" if limit is None else f" at max_length {limit:,}"
    partly, wholly = cut["steps"] - cut["whole_steps"], cut["whole_steps"]
    return (
        f"truncation{at}: {cut['steps']:,} of {cut['of_steps']:,} steps, in {cut['trajectories']:,} of "
        f"{record['rows']:,} trajectories, lost tokens: {wholly:,} all of them, which are not scored, {partly:,} some"
    )
