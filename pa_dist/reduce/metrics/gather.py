"""The last tasks of a reduction: readings to `comparisons`, and what all tasks left to `metrics` and `comparisons` as
one Parquet file each, a slice of groups at a time.

Beside it stands the same as JSON, a list of records, unless there are more than anyone would read as text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.choice.differences import CHOICES, compare
from pa_dist.reduce.metrics import beyond_length
from pa_dist.reduce.metrics.best_of_n import METRICS as BON_METRICS
from pa_dist.reduce.metrics.fa import BASELINES, FIRST_ERROR
from pa_dist.reduce.metrics.fa import METRICS as FA_METRICS
from pa_dist.reduce.metrics.groups import GROUP, by_name
from pa_dist.reduce.metrics.labelled_steps import METRICS as STEP_METRICS
from pa_dist.reduce.metrics.prefix import METRICS as PREFIX_METRICS
from pa_dist.reduce.metrics.slices import COMPARISONS, METRICS, READINGS, Row, SliceReader, compared, readings, writing
from pa_dist.reduce.metrics.survey import SCENARIOS
from pa_dist.store.folder import RunFolder

_UQ_METRICS = ("auroc", "auprc", "spearman", beyond_length.METRIC, "aurc", "risk", "majority")
_FA_METRICS = (*FA_METRICS, FIRST_ERROR[0][0], *STEP_METRICS)
_METRIC_ORDER = (*_UQ_METRICS, *PREFIX_METRICS, *BON_METRICS, *_FA_METRICS)
# Rows of a Parquet file's row group, and what is held of them.
_GROUP_ROWS = 1 << 16
# Of a JSON file, about 40 MB.
JSON_ROWS = 100_000

Names = Mapping[str | None, int]
"""Places of the names that order rows."""


def names_in_order(methods: Sequence[str]) -> dict[str | None, int]:
    """The places of all names, methods as in reports."""
    ordered = [*SCENARIOS, "baseline", *methods]
    ordered += [schema.NONE, *schema.TOKEN_AGGS, *schema.STEP_AGGS, *schema.REWARD_PREDICTORS, *BASELINES]
    ordered += ["mean", *CHOICES]
    return {name: place for place, name in enumerate(dict.fromkeys([None, *ordered]))}


def compare_slices(folder: RunFolder, settings: Evaluate, slices: range) -> int:
    """Compare the readings of some slices' groups; counts rows of `comparisons`."""
    count, source = 0, SliceReader(folder, READINGS)
    with writing(folder, COMPARISONS, "compared", slices.start) as out:
        for slice_ in slices:
            found = sorted(readings(source.read(slice_)), key=lambda reading: by_name(reading.group))
            of_groups = [list(of) for _, of in groupby(found, key=lambda reading: reading.group)]
            rows = [compared(row) for of in of_groups for row in compare(of, settings)]
            out.write(slice_, rows)
            count += len(rows)
    return count


def gather(folder: RunFolder, names: Names, n_slices: int, kind: str) -> int:
    """Write a table from the slices of all tasks, in order, and its JSON; counts its rows."""
    order = {METRICS: _order, COMPARISONS: _order_compared}[kind]
    of = {METRICS: schema.METRICS, COMPARISONS: schema.COMPARISONS}[kind]
    count, few = 0, list[Row]()
    folder.discard(f"{kind}.json")  # an earlier evaluation's
    with (
        folder.replacing(f"{kind}.parquet") as path,
        pq.ParquetWriter(path, of, filesystem=folder.filesystem, compression="zstd") as writer,
    ):
        for rows in _row_groups(_in_order(SliceReader(folder, kind), names, n_slices, order)):
            writer.write_table(pa.Table.from_pylist(rows, of))
            count += len(rows)
            few = [*few, *rows] if count <= JSON_ROWS else []
        if not count:
            writer.write_table(of.empty_table())
    if count <= JSON_ROWS:
        folder.write_json(f"{kind}.json", few)
    return count


def _in_order(
    source: SliceReader, names: Names, n_slices: int, order: Callable[[Names, Row], tuple[Any, ...]]
) -> Iterator[list[Row]]:
    """The rows of each scenario and slice."""
    for scenario in SCENARIOS:
        for slice_ in range(n_slices):
            table = source.read(slice_)
            rows: list[Row] = table.filter(pc.equal(table["scenario"], scenario)).to_pylist()
            yield sorted(rows, key=lambda row: order(names, row))


def _row_groups(slices: Iterator[list[Row]]) -> Iterator[list[Row]]:
    held: list[Row] = []
    for rows in slices:
        held += rows
        while len(held) >= _GROUP_ROWS:
            yield held[:_GROUP_ROWS]
            held = held[_GROUP_ROWS:]
    if held:
        yield held


def _order(names: Names, row: Row) -> tuple[Any, ...]:
    cell = [names[row[name]] for name in ("method", "token_agg", "step_agg", "predictor")]
    return _group(row), cell, _METRIC_ORDER.index(row["metric"]), row["at"] or 0


def _order_compared(names: Names, row: Row) -> tuple[Any, ...]:
    """As `_order`, each group's own figures before the differences."""
    cell = [names[row[name]] for name in ("against", "choice", "method", "token_agg", "step_agg", "predictor")]
    return _group(row), row["against"] is not None, _METRIC_ORDER.index(row["metric"]), cell, row["at"] or 0


def _group(row: Row) -> tuple[tuple[bool, str], ...]:
    benchmark, domain, behavior = (row[name] for name in GROUP)
    return by_name((benchmark, domain, behavior))
