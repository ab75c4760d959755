"""The table `selections`: each task's pick among all its trials, by each column of `scores`."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.ragged import Floats, Ints
from pa_dist.reduce.block.methods import Cell
from pa_dist.reduce.metrics.best_of_n import Trials
from pa_dist.reduce.metrics.groups import Group, Labels
from pa_dist.store.folder import RunFolder

_TABLE = "selections"
# Rows that wait for others before they are written.
_ROWS = 1 << 16


class Selections:
    """A file of picks under way."""

    def __init__(self, folder: RunFolder, writer: pq.ParquetWriter) -> None:
        self._names = folder.columns("scores", ["trajectory_id", "task_id"])
        self._writer = writer
        self._waiting: list[pa.Table] = []

    def add(self, group: Group, cell: Cell, labels: Labels, place: Ints, tried: Trials, score: Floats) -> None:
        """A column's picks; none where it is empty.

        Args:
          labels, place: of the trials, and where `scores` has them.
          score: [trials], higher is better; NaN for null.
        """
        if np.isnan(score).all():
            return
        picked = tried.picked(score)
        named = self._names.take(pa.array(place[picked]))
        names = (*group, None, cell.method, cell.token_agg, cell.step_agg)
        arrays = [pa.repeat(pa.scalar(name, pa.string()), len(picked)) for name in names]
        arrays[len(group)] = named["task_id"]
        trial = pa.array(labels.trial[picked], from_pandas=True).cast(pa.int32())
        as_stored = cell.orientation * score
        numbers = [pa.array(of[picked], from_pandas=True) for of in (as_stored, labels.reward)]
        arrays += [pa.array(tried.sizes, pa.int32()), named["trajectory_id"], trial, *numbers]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=schema.SELECTIONS))
        if sum(map(len, self._waiting)) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []


@contextmanager
def selecting(folder: RunFolder, part: str) -> Iterator[Selections]:
    """A file of `selections`; it takes its place in one step."""
    folder.filesystem.create_dir(folder.path(_TABLE), recursive=True)
    with (
        folder.replacing(_TABLE, f"{part}.parquet") as path,
        pq.ParquetWriter(path, schema.SELECTIONS, filesystem=folder.filesystem, compression="zstd") as writer,
    ):
        selections = Selections(folder, writer)
        yield selections
        selections.flush()
