"""Rows of some trajectories out of tables that may be large: all files' ids are read, and the rest of a few."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.run import RunFolder

_ID = "trajectory_id"


def holding(folder: RunFolder, table_name: str, groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each group of trajectories, the files of a table that hold rows of it."""
    wanted = pa.array([i for ids in groups for i in ids], pa.string())
    group = pa.array([number for number, ids in enumerate(groups) for _ in ids], pa.int64())
    found: list[list[str]] = [[] for _ in groups]
    for path in folder.parts(table_name):
        ids = folder.files([path]).to_table(columns=[_ID])[_ID]
        for number in pc.unique(group.take(pc.index_in(ids, value_set=wanted).drop_null())).to_pylist():
            found[number].append(path)
    return found


def rows(folder: RunFolder, files: Sequence[str], ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Some trajectories' rows of some files of a table, in the files' order."""
    dataset = folder.files(files)
    return dataset.to_table(columns=list(columns), filter=pc.field(_ID).isin(pa.array(ids, pa.string())))


def places(table: pa.Table) -> dict[str, list[int]]:
    """The row numbers of each trajectory of a table, in order."""
    found: dict[str, list[int]] = {}
    for number, key in enumerate(table[_ID].to_pylist()):
        found.setdefault(key, []).append(number)
    return found


def grouped(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The rows of each trajectory of a table, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row[_ID], []).append(row)
    return found
