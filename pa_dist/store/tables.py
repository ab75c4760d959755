"""Parquet tables in a folder: a reader sees a whole file or none, and no part of a path is a column."""

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist.store.location import Location

FILES_AT_ONCE = 16
# Of tasks that look at every file of a table.
FILES_A_TASK, MOST_TASKS = 64, 64


class Tables(Location):
    """A folder of tables: `NAME/*.parquet` each, or a single file."""

    def write(self, table_name: str, part: str, table: pa.Table, **encoding: Any) -> None:
        """Write one Parquet file `table_name/part.parquet`, replacing it in one step: readers see all of it or none."""
        self.filesystem.create_dir(self.path(table_name), recursive=True)
        with self.replacing(table_name, f"{part}.parquet") as path:
            pq.write_table(table, path, filesystem=self.filesystem, **{"compression": "zstd", **encoding})

    @contextmanager
    def replacing(self, *parts: str) -> Iterator[str]:
        """Where to write a file that then takes its place in one step."""
        *above, name = parts
        if self.filesystem.type_name in ("s3", "gcs", "abfs"):
            yield self.path(*parts)  # an object appears when its upload ends, and moving one would copy it
            return
        hidden = self.path(*above, f".{name}.{uuid.uuid4().hex}")
        try:
            yield hidden
            self.filesystem.move(hidden, self.path(*parts))
        except BaseException:
            if self.filesystem.get_file_info(hidden).type is not pafs.FileType.NotFound:
                self.filesystem.delete_file(hidden)
            raise

    def parts(self, table_name: str, prefix: str = "") -> list[str]:
        """Paths of a table's files whose names start with `prefix`, in name order."""
        return sorted(
            f.path for f in self.listed(table_name) if f.base_name.startswith(prefix) and f.extension == "parquet"
        )

    def shares(self, table_name: str) -> list[list[str]]:
        """The same shared out among tasks: `FILES_A_TASK` each, or as many as make `MOST_TASKS` of them."""
        paths = self.parts(table_name)
        size = max(FILES_A_TASK, -(-len(paths) // MOST_TASKS))
        return [paths[start : start + size] for start in range(0, len(paths), size)]

    def clear(self, table_name: str, prefix: str = "") -> None:
        """Delete a table's files whose names start with `prefix`."""
        for path in self.parts(table_name, prefix):
            self.filesystem.delete_file(path)
        self.clear_hidden(table_name, prefix)

    def clear_hidden(self, table_name: str, prefix: str = "") -> None:
        """Delete files that a killed process never put in place."""
        for file in self.listed(table_name):
            if file.base_name.startswith(f".{prefix}"):
                self.filesystem.delete_file(file.path)

    def dataset(self, table_name: str, schema: pa.Schema | None = None) -> pads.Dataset:
        """A table as a pyarrow dataset, read by `schema` where one is given."""
        return self.files(self.parts(table_name), schema)

    def files(self, paths: Sequence[str], schema: pa.Schema | None = None) -> pads.Dataset:
        """Files of one table as a dataset. Here, in `read_table` and in `score.stream` alone is Parquet opened by its
        path, and no folder of a path is a column: `domain=all` is a name like any other."""
        return pads.dataset(list(paths), filesystem=self.filesystem, format="parquet", schema=schema, partitioning=None)

    def read_table(self, path: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
        """One file, or some of its columns."""
        named = None if columns is None else list(columns)
        return pq.read_table(path, filesystem=self.filesystem, columns=named, schema=schema, partitioning=None)

    def columns(self, table_name: str, names: Sequence[str], filter: pads.Expression | None = None) -> pa.Table:
        """Some columns of a table, some files at a time: one dataset of them all would keep what each file says of each
        of its hundreds of columns."""
        datasets = self.datasets(self.parts(table_name))
        return pa.concat_tables([dataset.to_table(columns=list(names), filter=filter) for dataset in datasets])

    def batches(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A table of one file, or some of its columns, some rows at a time: of many groups there are many."""
        with pq.ParquetFile(self.path(name), filesystem=self.filesystem) as file:
            for batch in file.iter_batches(columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([batch])

    def count(self, table_name: str, prefix: str = "") -> int:
        """Rows of a table, read from its files' footers, many at a time."""
        return self.count_rows(self.parts(table_name, prefix))

    def count_rows(self, paths: list[str]) -> int:
        """Rows of some of its files."""
        return sum(dataset.count_rows() for dataset in self.datasets(paths))

    def datasets(self, paths: list[str], schema: pa.Schema | None = None) -> Iterator[pads.Dataset]:
        """Files as datasets of a bounded number: one holds the footers of all files that it has looked at."""
        for start in range(0, len(paths), FILES_AT_ONCE):
            yield self.files(paths[start : start + FILES_AT_ONCE], schema)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the folder, in one step."""
        self.filesystem.create_dir(self.path(), recursive=True)
        with self.replacing(name) as path, self.filesystem.open_output_stream(path) as out:
            out.write((json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def discard(self, name: str) -> None:
        """Delete a file of the folder, if there is one."""
        if self.filesystem.get_file_info(self.path(name)).type is not pafs.FileType.NotFound:
            self.filesystem.delete_file(self.path(name))

    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
