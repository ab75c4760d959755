"""Parquet files, such as the Hub's datasets (`hf://datasets/OWNER/NAME/**/*.parquet`): a conversation a row.

One column holds the messages, or two a pair of conversations, as structs or as JSON text; the other columns are read as
the keys of a chat log are.
Structs have, as Parquet does, a null for each key that only other rows have: in messages and tools these are left out.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from pa_dist.ingest import records
from pa_dist.ingest.arrow_sizes import total
from pa_dist.ingest.formats import agentprocessbench, chat
from pa_dist.ingest.json_stream import RECORD_BYTES
from pa_dist.ingest.padding import unpadded
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source, Unreadable
from pa_dist.trajectory import Trajectory

MAGIC = b"PAR1"
COLUMNS = ("messages", "conversations", "conversation", "trajectory", "traj", "history")
"""Where messages are looked for, in this order."""
_BATCH_ROWS = 64
_AS_TEXT = frozenset(["messages", *chat.PAIR, "step_labels"])
"""What may be JSON text."""
_UUID_BYTES = 16


def read(
    source: Source, limit: int = RECORD_BYTES, messages_column: str | None = None
) -> Iterator[Trajectory | Reject]:
    """Rows of one file.

    Args:
      limit: the bytes of the largest row that is read.
      messages_column: its name; by default the first of `COLUMNS` that the file has.
    """
    with source.open_seekable() as file:
        try:
            schema = pq.ParquetFile(file).schema_arrow
            table = _open(file, limit)
            names = schema.names
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        column = messages_column or next((name for name in COLUMNS if name in names), "")
        pair = not column and set(chat.PAIR) <= set(names)
        if not pair and column not in names:
            wanted = messages_column or " or ".join(COLUMNS)
            yield Reject(source.name, "file", f"no column {wanted} among {', '.join(names)[:200]}")
            return
        structs = {"tools", *((*chat.PAIR, "prompt") if pair else ())} & set(names)
        types = {name: schema.field(name).type for name in structs}
        types |= {} if pair else {"messages": schema.field(column).type}
        build = partial(_trajectories, types=types)
        for index, row in enumerate(_rows(table, schema, limit)):
            place = f"row {index}"
            try:
                if isinstance(row, Unusable):
                    raise row
                row |= {} if pair else {"messages": row.pop(column)}
                row |= {key: parsed(row[key]) for key in _AS_TEXT & row.keys()}
                raw = json.dumps(row, default=plain).encode()
            except (Unusable, TypeError) as error:
                yield Reject(source.name, place, str(error))
            except RecursionError:
                yield Reject(source.name, place, "nested too deeply")
            else:
                yield from records.all_usable(Origin(source, place, raw, limit), build)


def _open(file: Any, limit: int) -> pq.ParquetFile:
    """The file, set to be read with little memory.

    A text that a file holds once may be in a million of its rows: read as a dictionary, it is held once here as well,
    until a row's size is known. Columns that are large in the file already gain nothing by that.
    """
    table = pq.ParquetFile(file)
    about, schema = table.metadata, table.schema_arrow
    own = [name for name, type in zip(schema.names, schema.types, strict=True) if "dictionary<" in str(type)]
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    leaves = [about.schema.column(i) for i in range(about.num_columns)]
    texts = [
        leaf.path
        for i, leaf in enumerate(leaves)
        if leaf.physical_type == "BYTE_ARRAY"
        and all(group.column(i).total_uncompressed_size <= limit for group in groups)
        and leaf.logical_type.type in ("STRING", "NONE")
        and not any(leaf.path == name or leaf.path.startswith(f"{name}.") for name in own)
    ]
    large = any(group.total_byte_size > limit for group in groups)
    slowly = {"buffer_size": 1 << 20, "pre_buffer": False} if large else {}
    return pq.ParquetFile(file, metadata=about, read_dictionary=texts, **slowly)


def _rows(table: pq.ParquetFile, schema: pa.Schema, limit: int) -> Iterator[dict[str, Any] | Unusable]:
    """Rows, or why one of them cannot be used."""
    for batch in _batches(table, limit):
        of_row = total(batch.columns, len(batch))
        if of_row.sum() <= limit:
            try:
                rows = _python(batch, schema)
            except Unusable:  # of one of them
                pass
            else:
                yield from rows
                continue
        for i, size in enumerate(of_row.tolist()):
            try:
                if size > limit:
                    raise Unusable(records.too_long(limit))
                (row,) = _python(batch.slice(i, 1), schema)
                yield row
            except Unusable as error:
                yield error


def _batches(table: pq.ParquetFile, limit: int) -> Iterator[pa.RecordBatch]:
    """A few rows at a time, as many as a file says are of the limit's size together."""
    try:
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            mean = max(about.total_byte_size // max(about.num_rows, 1), 1)
            yield from table.iter_batches(max(min(limit // mean, _BATCH_ROWS), 1), row_groups=[group])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _python(batch: pa.RecordBatch, schema: pa.Schema) -> list[dict[str, Any]]:
    """Rows as Python has them. Raises `Unusable`, naming the column at fault."""
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        try:
            columns.append(_values(column, field.type))
        except Exception as error:  # each type has errors of its own; nothing but converting happens here
            line = (str(error).splitlines() or [""])[0]
            raise Unusable(f"column {field.name[:40]!r} cannot be read: {type(error).__name__}: {line[:200]}") from None
    return [dict(zip(schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array, kind: pa.DataType) -> list[Any]:
    if column.type != kind:
        with suppress(pa.ArrowNotImplementedError):  # dictionaries are as good, and slower
            column = column.cast(kind)
    values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        values = [None if value is None else UUID(bytes=value) for value in values]
    return values


def _trajectories(record: dict[str, Any], origin: Origin, types: dict[str, pa.DataType]) -> Sequence[Trajectory]:
    written = {**record, **{key: unpadded(record[key], type) for key, type in types.items()}}
    if written.keys() >= agentprocessbench.KEYS:
        return [agentprocessbench.trajectory(written, origin)]
    return chat.trajectories(written, origin)


def plain(value: Any) -> Any:
    """What JSON has no word for: decimals are numbers, bytes mostly text of a column that was not said to be text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


def parsed(value: Any) -> Any:
    """What a text is as JSON; a text that is none, and all else, as it is."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value)
    except ValueError:  # what it is instead of a list, the check of messages says
        return value
