"""Trajectories and labels as Python has them, as files that ingest reads: what a file of the same would give.

Tables (pandas, polars, Arrow, Hugging Face datasets) become Parquet, conversations and rows of labels JSON lines.
"""

import dataclasses
import datetime
import decimal
import enum
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist.errors import ConfigError, first_line
from pa_dist.ingest.formats.chat import PAIR
from pa_dist.ingest.formats.parquet import COLUMNS
from pa_dist.store.folder import RunFolder
from pa_dist.store.lease import held

# Where they lie in the run folder: a later call finds what did not change.
FOLDER = "inputs"
_BATCH_ROWS = 1000


def section(given: Any, folder: RunFolder) -> dict[str, Any]:
    """The config's section `trajectories` for what was given, which is written below the run folder if need be.

    Raises:
      ConfigError: it is none of what can be read.
    """
    given = _one_split(given)
    if type(given).__name__ == "Series" and hasattr(given, "index") and set(COLUMNS) & set(map(str, given.index)):
        given = given.to_dict()  # a row of a pandas frame
    if isinstance(given, str | os.PathLike):
        return {"format": "auto", "paths": [given]}
    if isinstance(given, Mapping):
        if given.keys() & set(COLUMNS):
            return _conversations([given], folder)
        if given.keys() & {"format", "paths"}:
            return dict(given)
        keys = ", ".join(map(str, given))[:200]
        raise ConfigError(f"trajectories: a mapping has messages, or paths and their format; this one has {keys}")
    if (table := _table(given)) is None:
        return _listed(given, folder)
    try:
        return {"format": "parquet", "paths": [_parquet(table, folder, "trajectories")]}
    except (pa.ArrowException, TypeError, ValueError) as error:
        if rows := _rows(given):  # of mixed types, which a column cannot have
            return _conversations(rows, folder)
        raise ConfigError(f"trajectories: a table that cannot be Parquet: {first_line(error)}") from None


def labels(given: Any, folder: RunFolder) -> str:
    """Where the labels that were given are: a path, or a table or rows, which are written below the run folder.

    Raises:
      ConfigError: they are none of these.
    """
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    given = [given] if isinstance(given, Mapping) else given
    if (table := _table(given)) is None:
        return _label_rows(given, folder)
    try:
        return _parquet(table, folder, "labels")
    except (pa.ArrowException, TypeError, ValueError) as error:
        if rows := _rows(given):
            return _label_rows(rows, folder)
        raise ConfigError(f"labels: a table that cannot be Parquet: {first_line(error)}") from None


def _label_rows(given: Any, folder: RunFolder) -> str:
    def write(out: BinaryIO) -> None:
        try:
            rows = iter(given)
        except TypeError:
            raise ConfigError(f"labels: {_kind(given)} is no path, table or list of rows") from None
        for index, row in enumerate(rows):
            plain = _mapping(row)
            if not isinstance(plain, Mapping):
                raise ConfigError(f"labels: row {index} is no mapping but {_kind(plain)}")
            out.write(_json(plain, f"labels: row {index}"))

    return _written(write, "jsonl", folder)


def _one_split(given: Any) -> Any:
    """A Hugging Face dataset of one split instead of a mapping of that; of several, nobody knows which."""
    if not isinstance(given, Mapping) or not given or not all(hasattr(value, "features") for value in given.values()):
        return given
    if len(given) > 1:
        names = ", ".join(map(str, given))
        raise ConfigError(f"trajectories: {_kind(given)} of {names}; give one, such as data[{next(iter(given))!r}]")
    return next(iter(given.values()))


def _table(given: Any) -> Callable[[], Iterator[pa.Table]] | None:
    """What gives a table as smaller ones, by what it can do: nothing is imported for it. None: it is no table."""
    if isinstance(given, pa.Table):
        return lambda: iter([given])
    if hasattr(given, "with_format") and hasattr(given, "num_rows"):  # of datasets, not the kind that only iterates
        return lambda: iter(given.with_format("arrow").iter(_BATCH_ROWS))
    if hasattr(given, "iter_batches") and hasattr(given, "iter_rows") and hasattr(given, "map_batches"):  # ray.data
        return lambda: iter(given.iter_batches(batch_format="pyarrow"))
    if hasattr(given, "collect") and hasattr(given, "collect_schema"):  # polars, before it computed anything
        return lambda: iter([given.collect().to_arrow()])
    if hasattr(given, "to_dicts") and hasattr(given, "to_arrow"):  # polars
        return lambda: iter([given.to_arrow()])
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # pandas
        return lambda: iter([pa.Table.from_pandas(given, preserve_index=False)])
    if hasattr(given, "__arrow_c_stream__") and not hasattr(given, "to_list"):  # as a column of a frame has
        return lambda: iter([pa.RecordBatchReader.from_stream(given).read_all()])
    return None


def _rows(given: Any) -> list[Any]:
    """A frame's rows, with null for pandas' nan."""
    if hasattr(given, "to_dicts"):
        return list(given.to_dicts())
    if not (hasattr(given, "to_dict") and hasattr(given, "columns")):
        return []
    return [{key: _null_for_nan(value) for key, value in row.items()} for row in given.to_dict("records")]


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _parquet(table: Callable[[], Iterator[pa.Table]], folder: RunFolder, what: str) -> str:
    def write(out: BinaryIO) -> None:
        parts = (part for part in table() if len(part))
        first = next(parts, None)
        if first is None:
            raise ConfigError(f"{what}: a table without rows")
        if what == "trajectories":
            _require_messages(first.column_names)
        with pq.ParquetWriter(out, first.schema, compression="zstd") as writer:
            for part in itertools.chain([first], parts):
                writer.write_table(part.cast(first.schema))

    return _written(write, "parquet", folder)


def _require_messages(names: list[Any]) -> None:
    if not set(COLUMNS) & set(names) and not set(PAIR) <= set(names):
        there = ", ".join(map(str, names))[:200]
        raise ConfigError(f"trajectories: no column {' or '.join(COLUMNS)} among {there}")


def _listed(given: Any, folder: RunFolder) -> dict[str, Any]:
    """Of paths, of conversations, or of the messages of one."""
    if isinstance(given, bytes | bytearray) or hasattr(given, "readline"):
        raise ConfigError(f"trajectories: {_kind(given)} is neither a path nor trajectories")
    try:
        rows = iter(given)
        first = next(rows, None)
    except TypeError:
        raise ConfigError(f"trajectories: {_kind(given)} is no path, conversation or table") from None
    if first is None:
        raise ConfigError("trajectories: nothing in it")
    rows = itertools.chain([first], rows)
    if isinstance(first, str | os.PathLike):
        paths = list(rows)
        strange = [_kind(path) for path in paths if not isinstance(path, str | os.PathLike)]
        if strange:
            raise ConfigError(f"trajectories: paths with {strange[0]} among them")
        return {"format": "auto", "paths": paths}
    if _is_message(first):
        return _conversations([{"messages": list(rows)}], folder)
    return _conversations(rows, folder)


def _is_message(row: Any) -> bool:
    keys = _mapping(row).keys() if isinstance(_mapping(row), Mapping) else set()
    return "role" in keys and not set(COLUMNS) & set(keys)


def _conversations(rows: Iterable[Any], folder: RunFolder) -> dict[str, Any]:
    def write(out: BinaryIO) -> None:
        for index, row in enumerate(rows):
            out.write(_line(row, f"trajectories: row {index}"))

    return {"format": "chat", "paths": [_written(write, "jsonl", folder)]}


def _line(row: Any, where: str) -> bytes:
    """A conversation's line of JSON."""
    row = _mapping(row)
    if isinstance(row, list | tuple):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} is no mapping but {_kind(row)}")
    row = dict(row)
    column = next((name for name in COLUMNS if name in row), "messages")
    row["messages"] = _parsed(row.pop(column, None))
    if isinstance(row["messages"], list) and row["messages"] and isinstance(row["messages"][0], list):
        raise ConfigError(f"{where}: its messages are lists; several conversations are several rows")
    return _json(row, where)


def _json(row: Mapping[Any, Any], where: str) -> bytes:
    for key, value in row.items():
        try:
            json.dumps(value, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{where}, {key}: {first_line(error)}") from None
    return json.dumps({str(key): value for key, value in row.items()}, default=_plain).encode() + b"\n"


def _mapping(value: Any) -> Any:
    """An object of fields (pydantic, a dataclass) as a mapping, an array as a list; all else as it is."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.tolist() if hasattr(value, "tolist") else value


def _parsed(messages: Any) -> Any:
    """Messages, also where they came as JSON text."""
    if not isinstance(messages, str):
        return _mapping(messages)
    try:
        return json.loads(messages)
    except (ValueError, RecursionError):  # what it is instead, the check of messages says
        return messages


def _plain(value: Any) -> Any:
    """What JSON knows of a value that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__name__ in ("NaTType", "NAType"):  # of pandas
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID | PurePath | datetime.timedelta) or getattr(
        getattr(value, "dtype", None), "kind", ""
    ) in ("M", "m"):
        return str(value)
    plain = _mapping(value)
    if plain is value:
        raise TypeError(f"{_kind(value)} is no JSON")
    return plain


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"


def _written(write: Callable[[BinaryIO], None], suffix: str, folder: RunFolder) -> str:
    """Where the rows are, written once: a file that did not change is not read again."""
    with tempfile.TemporaryFile() as file:
        write(file)
        file.seek(0)
        name = f"{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.{suffix}"
        with held(folder):
            if folder.filesystem.get_file_info(folder.path(FOLDER, name)).type is pafs.FileType.NotFound:
                folder.filesystem.create_dir(folder.path(FOLDER), recursive=True)
                file.seek(0)
                with folder.replacing(FOLDER, name) as path, folder.filesystem.open_output_stream(path) as out:
                    shutil.copyfileobj(file, out)
    return folder.below(FOLDER, name)
