"""The last act of scoring: every trajectory once, in `logprobs` or in `rejects`, whatever happened on the way.

Ray's checkpoint writes the ids of a file, then the file, then commits the ids. It cannot know of workers that outlive a
killed driver for some seconds and write what the next one writes as well; that is seen here, from the tables alone.
"""

from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.errors import RunFolderError
from pa_dist.mapper import Mapper
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.store.folder import RunFolder

_ID = "trajectory_id"
_PENDING = ".pending.parquet"


class Settled(NamedTuple):
    """Rows of the two tables, and how many trajectories are in neither."""

    rows: int
    rejects: int
    lost: int = 0


def committed(folder: RunFolder, target: Target = LOGPROBS) -> list[str]:
    """Files of ids that are done."""
    return [path for path in folder.parts(target.checkpoint) if not path.endswith(_PENDING)]


def n_left(folder: RunFolder, target: Target = LOGPROBS) -> int:
    """Trajectories that are not done yet."""
    return folder.count("trajectories") - len(pc.unique(_ids(folder, committed(folder, target))))


def mend(folder: RunFolder, target: Target = LOGPROBS) -> None:
    """Before a run goes on: clear away what a killed process left half done, and Ray's checkpoint does not expect."""
    for table_name in (target.checkpoint, "rejects"):
        folder.clear_hidden(table_name)
    done = set(committed(folder, target))
    for path in folder.parts(target.checkpoint):
        # In object storage a rename is a copy, then a delete. Of ids that are both, Ray would delete the rows.
        if path.endswith(_PENDING) and path.removesuffix(_PENDING) + ".parquet" in done:
            folder.filesystem.delete_file(path)


def settle(folder: RunFolder, target: Target = LOGPROBS) -> Settled:
    """Make the tables hold each row once: drop files never committed, and rows that another file holds as well.

    What is in neither table is made undone, so that it is scored when the run goes on.
    """
    stems = {PurePosixPath(path).stem for path in committed(folder, target)}
    kept = []
    for path in folder.parts(target.table):
        if PurePosixPath(path).stem.rpartition("-")[0] in stems:
            kept.append(path)
        else:
            folder.filesystem.delete_file(path)
    scored = _once(folder, target, kept)
    rejects = _one_file_of_rejects(folder, target, scored)
    if not folder.parts(target.table):
        folder.write(target.table, "part-00000", target.schema.empty_table())

    known = pa.chunked_array([*scored.chunks, *rejects.chunks], pa.string())
    expected = _ids(folder, folder.parts("trajectories"))
    missing = expected.filter(pc.invert(pc.is_in(expected, value_set=known)))
    if len(missing):
        for path in committed(folder, target):
            if pc.any(pc.is_in(_ids(folder, [path]), value_set=missing)).as_py():
                folder.filesystem.delete_file(path)
    return Settled(len(scored), len(rejects), len(missing))


def settle_again(folder: RunFolder, target: Target = LOGPROBS) -> Settled:
    """Rid the tables of rows that a worker of a killed run wrote after they were settled, its checkpoint being gone."""
    scored = _once(folder, target, folder.parts(target.table))
    return Settled(len(scored), len(_one_file_of_rejects(folder, target, scored)))


def settle_late(folder: RunFolder, target: Target, map_tasks: Mapper) -> None:
    """Mend a table that does not hold the trajectories which its stage left in it.

    Raises:
      RunFolderError: rows are missing.
    """
    record = folder.manifest["stages"][target.stage]
    left = Settled(record["rows"], record["rejects"])
    if (folder.count(target.table), folder.count("rejects", target.rejects)) == left[:2]:
        return
    # Perhaps a worker that outlived a killed run wrote what another one had written.
    (there,) = map_tasks(partial(settle_again, target=target), [folder])
    if sum(there) != sum(left):
        raise RunFolderError(
            f"{folder}: {target.table} and rejects hold {sum(there)} trajectories and scoring left {sum(left)}; "
            "--fresh starts over"
        )
    folder.finish(target.stage, rows=there.rows, rejects=there.rejects)


def _once(folder: RunFolder, target: Target, parts: list[str]) -> pa.ChunkedArray:
    """The ids of files of the table, after these were rid of rows that an earlier one holds."""
    ids = _ids(folder, parts)
    counts = pc.value_counts(ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    seen: set[str] = set()
    for path in parts if len(twice) else []:
        held = _ids(folder, [path])
        again = set(held.filter(pc.is_in(held, value_set=twice)).to_pylist())
        if again & seen:
            table = folder.read_table(path, schema=target.schema)
            other = pc.invert(pc.is_in(table[_ID], value_set=pa.array(again & seen, pa.string())))
            folder.write(target.table, PurePosixPath(path).stem, table.filter(other), **target.encoding)
        seen |= again
    return ids if not seen else pa.chunked_array([ids.unique()])


def _one_file_of_rejects(folder: RunFolder, target: Target, scored: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make this stage's rejects one file, each row once, and none that a later try scored; their ids."""
    parts = folder.parts("rejects", target.rejects)
    tables = [folder.read_table(part, schema=schema.REJECTS) for part in parts]
    table = pa.concat_tables([schema.REJECTS.empty_table(), *tables])
    # Their place is their id, also where the id is null because the trajectory stays in the run.
    table = table.filter(pc.invert(pc.is_in(table["place"], value_set=scored)))
    places = pa.table({"place": table["place"], "at": pa.array(np.arange(len(table)))})
    # On threads Arrow 26 now and then raises that one of them is out of range.
    first = places.group_by("place", use_threads=False).aggregate([("at", "min")]).sort_by("place")
    table = table.take(first["at_min"])
    name = f"{target.rejects}00000"
    if len(table):
        folder.write("rejects", name, table)
    for path in parts:
        if len(table) == 0 or PurePosixPath(path).stem != name:
            folder.filesystem.delete_file(path)
    return table["place"]


def _ids(folder: RunFolder, parts: list[str]) -> pa.ChunkedArray:
    """The ids in some files, many of them read at a time."""
    column = pa.schema([pa.field(_ID, pa.string())])
    tables = [dataset.to_table() for dataset in folder.datasets(parts, column)]
    return pa.concat_tables([column.empty_table(), *tables])[_ID]
