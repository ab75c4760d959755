"""The last act of scoring: every trajectory once, in `logprobs` or in `rejects`, whatever happened on the way.

Ray's checkpoint writes the ids of a file, then the file, then commits the ids. It cannot know of workers that outlive a
killed driver for some seconds and write what the next one writes as well; that is seen here, from the tables alone.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.run import CHECKPOINT, RunFolder

_ID = "trajectory_id"
_PENDING = ".pending.parquet"


class Settled(NamedTuple):
    """Rows of the two tables, and how many trajectories are in neither."""

    rows: int
    rejects: int
    lost: int = 0


def committed(folder: RunFolder) -> list[str]:
    """Files of ids that are done."""
    return [path for path in folder.parts(CHECKPOINT) if not path.endswith(_PENDING)]


def n_left(folder: RunFolder) -> int:
    """Trajectories that are not done yet."""
    return folder.count("trajectories") - len(pc.unique(_ids(folder, committed(folder))))


def mend(folder: RunFolder) -> None:
    """Before a run goes on: clear away what a killed process left half done, and Ray's checkpoint does not expect."""
    for table_name in (CHECKPOINT, "rejects"):
        folder.clear_hidden(table_name)
    done = set(committed(folder))
    for path in folder.parts(CHECKPOINT):
        # In object storage a rename is a copy, then a delete. Of ids that are both, Ray would delete the rows.
        if path.endswith(_PENDING) and path.removesuffix(_PENDING) + ".parquet" in done:
            folder.filesystem.delete_file(path)


def settle(folder: RunFolder) -> Settled:
    """Make the tables hold each row once: drop files never committed, and rows that another file holds as well.

    What is in neither table is made undone, so that it is scored when the run goes on.
    """
    stems = {PurePosixPath(path).stem for path in committed(folder)}
    kept = []
    for path in folder.parts("logprobs"):
        if PurePosixPath(path).stem.rpartition("-")[0] in stems:
            kept.append(path)
        else:
            folder.filesystem.delete_file(path)
    scored = _once(folder, kept)
    rejects = _one_file_of_rejects(folder, scored)
    if not folder.parts("logprobs"):
        folder.write("logprobs", "part-00000", schema.LOGPROBS.empty_table())

    known = pa.chunked_array([*scored.chunks, *rejects.chunks], pa.string())
    expected = _ids(folder, folder.parts("trajectories"))
    missing = expected.filter(pc.invert(pc.is_in(expected, value_set=known)))
    if len(missing):
        for path in committed(folder):
            if pc.any(pc.is_in(_ids(folder, [path]), value_set=missing)).as_py():
                folder.filesystem.delete_file(path)
    return Settled(len(scored), len(rejects), len(missing))


def settle_again(folder: RunFolder) -> Settled:
    """Rid the tables of rows that a worker of a killed run wrote after they were settled, its checkpoint being gone."""
    scored = _once(folder, folder.parts("logprobs"))
    return Settled(len(scored), len(_one_file_of_rejects(folder, scored)))


def _once(folder: RunFolder, parts: list[str]) -> pa.ChunkedArray:
    """The ids of files of `logprobs`, after these were rid of rows that an earlier one holds."""
    ids = _ids(folder, parts)
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    seen: set[str] = set()
    for path in parts if len(twice) else []:
        held = _ids(folder, [path])
        again = set(held.filter(pc.is_in(held, value_set=twice)).to_pylist())
        if again & seen:
            table = pq.read_table(path, filesystem=folder.filesystem, schema=schema.LOGPROBS)
            other = pc.invert(pc.is_in(table[_ID], value_set=pa.array(again & seen, pa.string())))
            folder.write("logprobs", PurePosixPath(path).stem, table.filter(other), **schema.LOGPROBS_ENCODING)
        seen |= again
    return ids if not seen else pa.chunked_array([ids.unique()])


def _one_file_of_rejects(folder: RunFolder, scored: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make this stage's rejects one file, each row once, and none that a later try scored; their ids."""
    parts = folder.parts("rejects", "score-")
    tables = [pq.read_table(part, filesystem=folder.filesystem, schema=schema.REJECTS) for part in parts]
    table = pa.concat_tables([schema.REJECTS.empty_table(), *tables])
    table = table.filter(pc.invert(pc.is_in(table[_ID], value_set=scored)))
    places = pa.table({_ID: table[_ID], "at": pa.array(np.arange(len(table)))})
    first = places.group_by(_ID, use_threads=False).aggregate([("at", "min")]).sort_by(_ID)
    table = table.take(first["at_min"])
    if len(table):
        folder.write("rejects", "score-00000", table)
    for path in parts:
        if len(table) == 0 or PurePosixPath(path).stem != "score-00000":
            folder.filesystem.delete_file(path)
    return table[_ID]


def _ids(folder: RunFolder, parts: list[str]) -> pa.ChunkedArray:
    """The ids in some files, many of them read at a time."""
    column = pa.schema([pa.field(_ID, pa.string())])
    tables = [dataset.to_table() for dataset in folder.datasets(parts, column)]
    return pa.concat_tables([column.empty_table(), *tables])[_ID]
