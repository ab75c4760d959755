"""What the tasks that measure leave for those that gather: rows of `metrics`, and readings still to be compared.

Files of Arrow batches, one batch a slice of groups, so that a reader takes a slice of every file at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.choice.differences import Compared, Reading
from pa_dist.reduce.metrics.groups import GROUP, Group
from pa_dist.reduce.metrics.intervals import Estimate, Figure, Scale
from pa_dist.store.folder import REDUCING, RunFolder

Row = dict[str, Any]
METRICS, READINGS, COMPARISONS = "metrics", "readings", "comparisons"
_NOT_ASKED = "no interval: evaluate.intervals is headlines"
_CELL = ("token_agg", "step_agg", "predictor")

_TEXTS = pa.list_(pa.string())
_FLOATS = pa.list_(pa.float64())
_ESTIMATE = pa.struct(
    [
        ("beside", pa.string()),  # the other method whose rows these are; null: all of its own
        ("value", pa.float64()),  # NaN where undefined
        ("parts", _FLOATS),
        ("clusters", pa.int64()),
        ("n", pa.int64()),
        ("scale", pa.string()),
        ("rarer", pa.int64()),
        ("edge", pa.float64()),
        ("redrawn", _FLOATS),
        ("notes", _TEXTS),
        ("undefined", pa.string()),
    ]
)
_READING = pa.schema(
    [
        pa.field("scenario", pa.string()),
        *schema.GROUP,
        *(pa.field(name, pa.string()) for name in ("method", "choice", *_CELL, "metric")),
        pa.field("at", pa.float64()),
        pa.field("said", _TEXTS),
        pa.field("estimates", pa.list_(_ESTIMATE)),
    ]
)
_SCHEMAS = {METRICS: schema.METRICS, READINGS: _READING, COMPARISONS: schema.COMPARISONS}


@dataclass(frozen=True)
class MetricRow:
    """A row of `metrics`: where it belongs, and the figure."""

    scenario: str
    group: Group
    method: str
    token_agg: str | None
    step_agg: str | None
    predictor: str | None
    figure: Figure


def figures_of(
    names: Sequence[tuple[str, float | None]], estimates: Sequence[Estimate], settings: Evaluate, *, headline: bool
) -> list[Figure]:
    """Figures by metric and `at`; `headline`: whether they are of a cell chosen beforehand."""
    wanted = settings.intervals == "all" or (headline and settings.intervals == "headlines")
    said = [_NOT_ASKED] if settings.intervals == "headlines" and not headline else []
    return [of.figure(*name, *said, intervals=wanted) for name, of in zip(names, estimates, strict=True)]


def write_rows(folder: RunFolder, name: str, rows: Iterable[MetricRow | Reading], slices: Mapping[Group, int]) -> int:
    """Write what a task found; counts its rows of `metrics`.

    Args:
      name: of the task.
      rows: group after group, in the order of slices; each time they begin anew is a file of its own.
      slices: of each group.
    """
    count, at, files = 0, -1, 0
    with ExitStack() as stack:
        for slice_, some in groupby(rows, key=lambda row: slices[row.group]):
            if slice_ <= at or not files:
                begun = [stack.enter_context(writing(folder, kind, f"{name}-{files}")) for kind in (METRICS, READINGS)]
                metrics, readings = begun
                files += 1
            at = slice_
            here = list(some)
            measured = [_measured(row) for row in here if isinstance(row, MetricRow)]
            metrics.write(at, measured)
            readings.write(at, [_reading(row) for row in here if isinstance(row, Reading)])
            count += len(measured)
    return count


@dataclass
class SliceWriter:
    """A file under way: a batch a slice, from slice `at` on."""

    writer: pa.ipc.RecordBatchFileWriter
    schema: pa.Schema
    at: int

    def write(self, slice_: int, rows: Sequence[Row]) -> None:
        """Write a slice's rows; slices between it and the one before get none."""
        while self.at < slice_:
            self.writer.write_batch(pa.RecordBatch.from_pylist([], self.schema))
            self.at += 1
        self.writer.write_batch(pa.RecordBatch.from_pylist(list(rows), self.schema))
        self.at += 1


@contextmanager
def writing(folder: RunFolder, kind: str, name: str, first: int = 0) -> Iterator[SliceWriter]:
    """A file of slices from the first one on; it takes its place in one step."""
    folder.filesystem.create_dir(folder.path(REDUCING, kind), recursive=True)
    with (
        folder.replacing(REDUCING, kind, f"{first:08d}-{name}.arrow") as path,
        folder.filesystem.open_output_stream(path) as out,
        pa.ipc.new_file(out, _SCHEMAS[kind]) as writer,
    ):
        yield SliceWriter(writer, _SCHEMAS[kind], first)


class SliceReader:
    """All files of a kind, opened when they are needed."""

    def __init__(self, folder: RunFolder, kind: str) -> None:
        listed = folder.listed(REDUCING, kind)
        found = sorted((info.base_name, info.path) for info in listed if info.base_name[:1].isdigit())
        self._files = [(int(name.partition("-")[0]), path) for name, path in found]
        self._filesystem, self._schema = folder.filesystem, _SCHEMAS[kind]
        self._open: dict[str, pa.ipc.RecordBatchFileReader] = {}

    def read(self, slice_: int) -> pa.Table:
        """A slice's rows of all files, in the order of their names."""
        batches = []
        for first, path in self._files:
            if first > slice_:
                continue
            if path not in self._open:
                self._open[path] = pa.ipc.open_file(self._filesystem.open_input_file(path))
            file = self._open[path]
            if slice_ - first < file.num_record_batches:
                batches.append(file.get_batch(slice_ - first))
        return pa.Table.from_batches(batches, self._schema)


def _measured(row: MetricRow) -> Row:
    record = {**vars(row), **vars(row.figure), **dict(zip(GROUP, row.group, strict=True))}
    return {name: record[name] for name in schema.METRICS.names}


def compared(row: Compared) -> Row:
    """A row of `comparisons`."""
    reading = row.reading
    record = {**vars(reading), **_named(reading), **vars(row.figure), **vars(row)}
    return {name: record[name] for name in schema.COMPARISONS.names}


def _named(reading: Reading) -> Row:
    return dict(zip((*GROUP, *_CELL), (*reading.group, *reading.cell), strict=True))


def _reading(row: Reading) -> Row:
    # What a method has on all its rows it has beside most others too: once is enough.
    others = {name: of for name, of in row.beside.items() if of is not row.estimate}
    estimates = [{**vars(of), "beside": name} for name, of in [(None, row.estimate), *others.items()]]
    record = {**vars(row), **_named(row), "estimates": estimates}
    return {name: record[name] for name in _READING.names}


def readings(table: pa.Table) -> list[Reading]:
    """Readings as they were written."""
    table = table.combine_chunks()
    lists = table["estimates"].combine_chunks() if len(table) else pa.array([], _READING.field("estimates").type)
    estimates = _estimates(lists.flatten())
    found, at = [], 0
    for row, count in zip(
        table.drop_columns(["estimates"]).to_pylist(), lists.value_lengths().to_pylist(), strict=True
    ):
        of = {beside: estimate for beside, estimate in estimates[at : at + count] if beside}
        own = next(estimate for beside, estimate in estimates[at : at + count] if not beside)
        at += count
        group: Group = (row["benchmark"], row["domain"], row["behavior"])
        cell = (row["token_agg"], row["step_agg"], row["predictor"])
        where = row["scenario"], group, row["method"], row["choice"], cell, row["metric"], row["at"]
        found.append(Reading(*where, own, tuple(row["said"]), of))
    return found


def _estimates(flat: pa.StructArray) -> list[tuple[str | None, Estimate]]:
    """Each with the method that it is beside."""
    arrays = {}
    for name in ("parts", "redrawn"):
        lists = flat.field(name)
        ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))
        arrays[name] = np.split(lists.flatten().to_numpy(), ends[:-1]) if len(flat) else []
    others = {of.name: flat.field(of.name).to_pylist() for of in _ESTIMATE if of.name not in arrays}
    found = []
    for k, beside in enumerate(others.pop("beside")):
        of = {name: values[k] for name, values in {**others, **arrays}.items()}
        found.append((beside, Estimate(**{**of, "scale": Scale(of["scale"]), "notes": tuple(of["notes"])})))
    return found
