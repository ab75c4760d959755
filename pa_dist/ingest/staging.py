"""Between reading and writing: rows in reading order, a record batch each, and an index of their keys and byte ranges.

Tables are written in another order than files are read. With the index, one task can order a corpus by its keys alone,
and each part is gathered by reading just its rows' bytes: the work grows with the corpus, whatever its order was.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist.ingest.records import Reject
from pa_dist.ingest.sources import natural
from pa_dist.schema import REJECTS, TRAJECTORIES
from pa_dist.store.folder import STAGING, RunFolder
from pa_dist.trajectory import Trajectory

FLUSH_ROWS = 10_000
# Ranges this near each other are read as one: a request to object storage costs more than the bytes between.
GAP_BYTES = 1 << 16

INDEX = pa.schema(
    [
        ("trajectory_id", pa.large_string()),
        ("benchmark", pa.large_string()),
        ("domain", pa.large_string()),
        ("task_order", pa.large_string()),
        ("task_id", pa.large_string()),
        ("trial", pa.int32()),
        ("behavior", pa.large_string()),
        ("group", pa.int32()),  # which rows file
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("source", pa.string()),
        ("place", pa.string()),
    ]
)


class Table:
    """A Parquet file written a bounded number of rows at a time; never created if no row comes, unless `always`."""

    def __init__(self, folder: RunFolder, path: str, schema: pa.Schema, always: bool = False) -> None:
        self._folder, self._path, self._schema = folder, path, schema
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        if always:
            self._open()

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, sooner or later."""
        self._rows.append(row)
        if len(self._rows) >= FLUSH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            filesystem = self._folder.filesystem
            self._writer = pq.ParquetWriter(self._path, self._schema, filesystem=filesystem, compression="zstd")
        return self._writer

    def _flush(self) -> None:
        self._open().write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


class Rejects:
    """A file of the `rejects` table."""

    def __init__(self, folder: RunFolder, part: str, always: bool = False) -> None:
        self._table = Table(folder, folder.path("rejects", f"{part}.parquet"), REJECTS, always)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()

    def add(self, reject: Reject) -> None:
        """Write a reject."""
        row = {"source": reject.source, "place": reject.place, "stage": "ingest", "reason": reject.reason}
        self._table.add({**row, "trajectory_id": None})
        self.count += 1


class Stager:
    """Writes one group's rows, each a message of Arrow's IPC format, and their index."""

    def __init__(self, folder: RunFolder, group: int) -> None:
        self._group = group
        self._offset = 0
        self._rows = folder.filesystem.open_output_stream(rows_path(folder, group))
        self._index = Table(folder, folder.path(STAGING, f"index-{group:05d}.parquet"), INDEX, always=True)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._index.close()

    def add(self, trajectory: Trajectory, source: str) -> None:
        """Write a trajectory and its place in the index."""
        row = {name: getattr(trajectory, name) for name in TRAJECTORIES.names}
        message = pa.RecordBatch.from_pylist([row], TRAJECTORIES).serialize()
        self._rows.write(message)
        self._index.add(
            {
                **{name: row[name] for name in INDEX.names if name in row},
                "task_order": None if trajectory.task_id is None else natural(trajectory.task_id),
                "group": self._group,
                "offset": self._offset,
                "size": message.size,
                "source": source,
                "place": trajectory.place,
            }
        )
        self._offset += message.size
        self.count += 1


def rows_path(folder: RunFolder, group: int) -> str:
    """Where a group's rows are staged."""
    return folder.path(STAGING, f"rows-{group:05d}.batches")


def gather(folder: RunFolder, wanted: Sequence[tuple[int, int, int]], ids: Sequence[str | None]) -> pa.Table:
    """Rows by (group, offset, size), in the order asked for, under another id where one is given."""
    rows: list[Any] = [None] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for run in _runs([(*wanted[i], i) for i in order]):
        group, start = run[0][:2]
        with folder.filesystem.open_input_file(rows_path(folder, group)) as file:
            data = pa.py_buffer(file.read_at(run[-1][1] + run[-1][2] - start, start))
        for _, offset, size, i in run:
            rows[i] = pa.ipc.read_record_batch(data.slice(offset - start, size), TRAJECTORIES)
    table = pa.Table.from_batches(rows, TRAJECTORIES).combine_chunks()
    renamed = pc.coalesce(pa.array(ids, pa.string()), table["trajectory_id"])
    return table.set_column(0, TRAJECTORIES.field(0), renamed)


def _runs(ranges: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """Sorted ranges, joined where next to each other in a file."""
    runs: list[list[tuple[int, int, int, int]]] = []
    for item in ranges:
        if runs and runs[-1][-1][0] == item[0] and item[1] - sum(runs[-1][-1][1:3]) <= GAP_BYTES:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs
