"""Labels that came later in the place of a run's own, wherever rows with labels are read."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.ragged import column, is_valid
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import locate, rows

TABLE = "labels"


class LaterLabels:
    """The table `labels`, which `evaluate.labels` fills."""

    def __init__(self, folder: RunFolder, files: Sequence[str] | None = None) -> None:
        """`files`: those of the table that may be needed; by default all."""
        self._folder = folder
        self._where = locate(folder, TABLE if files is None else files)

    def __bool__(self) -> bool:
        return bool(self._where.paths)

    def onto(self, table: pa.Table) -> pa.Table:
        """Rows of `trajectories` or `logprobs` with the labels that hold; columns that are not there stay away."""
        ids = column(table, "trajectory_id")
        files = self._where.holding(ids.to_pylist())
        names = [name for name in schema.JOINED.names[1:] if name in table.column_names]
        if not files or not names:
            return table
        later = rows(self._folder, files, ids.to_pylist(), ["trajectory_id", *names])
        at = pc.index_in(ids, value_set=column(later, "trajectory_id"))
        places = np.arange(len(table))
        places[is_valid(at)] = len(table) + at.drop_null().to_numpy(zero_copy_only=False)
        for name in names:
            field = table.schema.field(name)
            both = pa.concat_arrays([column(table, name), column(later, name).cast(field.type)])
            table = table.set_column(table.schema.get_field_index(name), field, both.take(pa.array(places)))
        return table
