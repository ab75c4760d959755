"""Rows of a file of labels: CSV, JSON lines, a JSON list of objects or Parquet, told by what it holds."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pa_dist.errors import first_line
from pa_dist.ingest import records
from pa_dist.ingest.containers import not_text
from pa_dist.ingest.formats.parquet import MAGIC, parsed, plain
from pa_dist.ingest.json_stream import RECORD_BYTES, Broken, Element, Scanner, lines
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.sources import Guarded, Source, Unreadable

NAMING = ("trajectory_id", "id", "task_id")
"""Columns of which a row needs one."""
KEYS = (*NAMING, "trial", "benchmark", "domain", "behavior")
LABELS = ("reward", "success", "mistake_step", "mistake_agent", "step_labels")
# Of CSV, what may be a number, a truth or a list; all else is text.
_TYPED = frozenset(["trial", "reward", "success", "mistake_step", "step_labels"])
_ROWS = 4096
# A file without line ends is no table.
_LINE_CHARS = 1 << 24
# Of text that is no UTF-8 or no table, and of Parquet whatever its types raise.
_FAULTS = (Unreadable, csv.Error, pa.ArrowException, OSError, ValueError, KeyError, TypeError)

Row = dict[str, Any]
_Rows = Iterator[tuple[str, Row | Unusable]]


def rows(source: Source) -> _Rows:
    """The place of each row, and what it holds, of Parquet as much as is a key or a label; or why it cannot be used.
    What is wrong with a file ends it."""
    place = "file"
    try:
        for place, row in _reader(source):
            yield place, row
    except Broken as error:
        yield error.place, Unusable(error.reason)
    except (Unusable, *_FAULTS) as error:
        yield f"after {place}" if place != "file" else place, Unusable(f"cannot be read: {first_line(error)}")


def names(source: Source) -> list[str]:
    """The columns of a file; of JSON, the keys of its first rows.

    Raises:
      Unusable: it has no row that can be read; says why.
    """
    try:
        if _is_parquet(source):
            with source.open_seekable() as file:
                return list(pq.ParquetFile(file).schema_arrow.names)
        found: dict[str, None] = {}
        for _, row in islice(_reader(source), _ROWS):
            if isinstance(row, Unusable):
                if not found:
                    raise row
            else:
                found |= dict.fromkeys(row)
    except Broken as error:
        raise Unusable(f"{error.place}: {error.reason}") from None
    except _FAULTS as error:
        raise Unusable(first_line(error)) from None
    if not found:
        raise Unusable("no rows")
    return list(found)


def _is_parquet(source: Source) -> bool:
    with source.open() as file:
        return file.read(len(MAGIC)) == MAGIC


def _reader(source: Source) -> _Rows:
    """Raises what is wrong with the file."""
    if _is_parquet(source):
        yield from _of_parquet(source)
        return
    if fault := not_text(source):
        raise Unusable(fault)
    with source.open() as file:
        first = Scanner(file).peek()
    with source.open() as file:
        if first == b"[":
            yield from (_of_json("item", element) for element in Scanner(file).array())
        elif first == b"{":
            yield from (_of_json("line", element) for element in lines(file))
        else:
            yield from _of_csv(file)


def _row(build: Callable[[], Any]) -> Row | Unusable:
    """A row, or why it cannot be used."""
    try:
        row = build()
        if not isinstance(row, dict):
            raise Unusable(f"not a JSON object but {records.value_shown(row)}")
    except Unusable as error:
        return error
    except RecursionError:
        return Unusable("nested too deeply")
    return row


def _of_json(what: str, element: Element) -> tuple[str, Row | Unusable]:
    place, raw = f"{what} {element.index}", element.raw
    return place, Unusable(f"longer than {RECORD_BYTES >> 20} MiB") if raw is None else _row(
        partial(records.parse, raw)
    )


def _of_csv(file: Guarded) -> _Rows:
    text = io.TextIOWrapper(io.BufferedReader(_Raw(file)), "utf-8-sig", newline="")
    given = iter(partial(text.readline, _LINE_CHARS), "")
    head = next(given, "")
    delimiter = max(",;\t", key=head.count)
    columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if repeated := {name for name in columns if columns.count(name) > 1 and name in (*KEYS, *LABELS)}:
        raise Unusable(f"two columns {min(repeated)}")
    for number, cells in enumerate(csv.reader(given, delimiter=delimiter), 1):
        if len(cells) > len(columns):
            yield f"row {number}", Unusable(f"{len(cells)} cells in a row, for {len(columns)} columns")
        elif cells:
            yield f"row {number}", _row(partial(_cells, dict(zip(columns, cells, strict=False))))


def _cells(texts: dict[str, str]) -> Row:
    return {name: _cell(name, text.strip()) for name, text in texts.items()}


def _cell(name: str, text: str) -> Any:
    """Null where it is empty."""
    return parsed(text) if name in _TYPED and text else text or None


def _of_parquet(source: Source) -> _Rows:
    with source.open_seekable() as file:
        table = pq.ParquetFile(file)
        wanted = [name for name in table.schema_arrow.names if name in (*KEYS, *LABELS)]
        number = 0
        for batch in table.iter_batches(_ROWS, columns=wanted):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                yield f"row {number}", _row(partial(_plain, row))
                number += 1


def _plain(row: Row) -> Any:
    """By way of JSON, as ingest reads rows: decimals, dates and bytes are then what they are there."""
    return json.loads(json.dumps(row | {"step_labels": parsed(row.get("step_labels"))}, default=plain))


class _Raw(io.RawIOBase):
    """A file that only reads, for what takes files of Python's."""

    def __init__(self, file: Guarded) -> None:
        self._file = file

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As a file does. Raises `Unreadable`."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
