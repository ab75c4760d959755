"""From the staged keys to the table's order: duplicates out, sorted, limited, cut into parts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist.ingest.identity import identify
from pa_dist.ingest.records import Reject
from pa_dist.ingest.staging import FLUSH_ROWS, INDEX, Rejects
from pa_dist.store.folder import STAGING, RunFolder

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]

PLAN = "plan.parquet"
PART_ROWS = 4096
PART_BYTES = 64 << 20

# Task ids in natural order ("2" before "10"); `task_id` after it tells "2" from "02". What has none comes last. Ties of
# all labels go by id, which does not depend on how the corpus is split into files.
SORT = [(name, "ascending") for name in ("benchmark", "domain", "task_order", "task_id", "trial", "trajectory_id")]


@dataclass(frozen=True)
class Ordered:
    """How the staged rows were dealt out."""

    n_parts: int
    n_duplicates: int
    n_left_out: int
    told_apart: dict[str, int]


def order(folder: RunFolder, limit: int | None, n_groups: int) -> Ordered:
    """Decide which staged rows are kept, in which order, under which id; write the plan, and the duplicates' rejects.

    Args:
      limit: how many rows to keep, from the first one in the table's order.
      n_groups: how many index files were staged.
    """
    keys = _index(folder, n_groups, [name for name in INDEX.names if name not in ("source", "place")])
    found = identify(keys)
    first = found.first
    repeated = np.flatnonzero(first != np.arange(len(first)))
    _reject(folder, n_groups, keys["trajectory_id"], repeated, first[repeated])
    ids = pc.coalesce(found.renamed, keys["trajectory_id"])
    keys = keys.append_column("renamed", found.renamed).set_column(0, "trajectory_id", ids)
    unique = keys.filter(pa.array(first == np.arange(len(first))))
    kept = unique.sort_by(SORT).slice(0, limit).select(["group", "offset", "size", "renamed"])
    return Ordered(_write_plan(folder, kept), len(repeated), unique.num_rows - kept.num_rows, found.told_apart)


def planned(folder: RunFolder, part: int) -> tuple[list[tuple[int, int, int]], list[str | None]]:
    """(group, offset, size) of each row of a part, in order, and its id where it is not the one that was staged."""
    with folder.filesystem.open_input_file(folder.path(STAGING, PLAN)) as file:
        rows = pq.ParquetFile(file).read_row_group(part)
    places = zip(*(rows[name].to_pylist() for name in ("group", "offset", "size")), strict=True)
    return list(places), rows["renamed"].to_pylist()


def _index(folder: RunFolder, n_groups: int, columns: list[str]) -> pa.Table:
    """Columns of all staged rows, in reading order."""
    paths = [folder.path(STAGING, f"index-{group:05d}.parquet") for group in range(n_groups)]
    return pa.concat_tables([folder.read_table(path, columns) for path in paths])


def _reject(folder: RunFolder, n_groups: int, ids: pa.ChunkedArray, repeated: Rows, first: Rows) -> None:
    """Rows whose id an earlier row has, with where that one is."""
    with Rejects(folder, "ingest-duplicates", always=True) as rejects:
        if not len(repeated):
            return
        places = _index(folder, n_groups, ["source", "place"])
        for start in range(0, len(repeated), FLUSH_ROWS):
            here = slice(start, start + FLUSH_ROWS)
            names = ids.take(pa.array(repeated[here])).to_pylist()
            again = places.take(pa.array(repeated[here])).to_pylist()
            earlier = places.take(pa.array(first[here])).to_pylist()
            for name, row, other in zip(names, again, earlier, strict=True):
                reason = f"duplicate id {name!r}: first in {other['source']}, {other['place']}"
                rejects.add(Reject(row["source"], row["place"], reason))


def _write_plan(folder: RunFolder, kept: pa.Table) -> int:
    """One row group a part, so that a task reads its own alone; how many parts. An empty table is one part."""
    starts = list(_cut(kept["size"].to_numpy()))
    path = folder.path(STAGING, PLAN)
    with pq.ParquetWriter(path, kept.schema, filesystem=folder.filesystem) as writer:
        for start, stop in starts:
            writer.write_table(kept.slice(start, stop - start), row_group_size=max(stop - start, 1))
    return len(starts)


def _cut(sizes: Rows) -> Iterator[tuple[int, int]]:
    """Bounds of parts of at most `PART_ROWS` rows and `PART_BYTES` bytes; a row larger than that is one alone."""
    ends = np.cumsum(sizes)
    start = 0
    while True:
        before = ends[start - 1] if start else 0
        fit = int(np.searchsorted(ends, before + PART_BYTES, side="right"))
        stop = min(max(fit, start + 1), start + PART_ROWS, len(sizes))
        yield start, stop
        if stop >= len(sizes):
            return
        start = stop
