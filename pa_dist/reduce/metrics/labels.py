"""The labels of all groups in one order, found once: tasks that measure read numbers, and sort no names again."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.metrics.groups import Labels
from pa_dist.store.folder import REDUCING, RunFolder

_FILE = (REDUCING, "labels", "labels.arrow")
_COUNTED = ("cluster", "task", "n_labelled", "pair")
_SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64()),
        *(pa.field(of.name, pa.int64() if of.name in _COUNTED else pa.float64()) for of in fields(Labels)),
    ]
)


def keep_labels(folder: RunFolder, parts: Sequence[tuple[Ints, Labels]]) -> None:
    """Write the labels of groups, one after the other.

    Args:
      parts: of each group the places of its rows in `scores`, and their labels.
    """
    folder.filesystem.create_dir(folder.path(*_FILE[:-1]), recursive=True)
    with (
        folder.replacing(*_FILE) as path,
        folder.filesystem.open_output_stream(path) as out,
        pa.ipc.new_file(out, _SCHEMA) as writer,
    ):
        for place, labels in parts:
            columns = [place, *(getattr(labels, of.name) for of in fields(labels))]
            writer.write_table(pa.table([pa.array(of) for of in columns], schema=_SCHEMA))


def kept_labels(folder: RunFolder) -> tuple[Ints, Labels]:
    """The places of all rows in `scores`, and their labels, group after group."""
    with folder.filesystem.open_input_file(folder.path(*_FILE)) as file:
        table = pa.ipc.open_file(file).read_all()
    place, *labels = (table[name].to_numpy() for name in table.column_names)
    return place, Labels(*labels)


def read_scores(folder: RunFolder, names: Sequence[str], place: Ints, kind: str = "scores") -> Floats:
    """Columns of `scores`, or of a table with the same rows, [columns, rows] in the order of `place`; NaN for null."""
    at = np.empty(len(place), np.int64)  # where each row of the table goes
    at[place] = np.arange(len(place))
    found = np.empty((len(names), len(place)))
    start = 0
    for path in folder.parts(kind):  # what a file says of hundreds of columns is forgotten with it
        table = folder.read_table(path, names)
        rows = at[start : start + len(table)]
        for k, name in enumerate(names):
            found[k, rows] = table[name].to_numpy()
        start += len(table)
    return found


def read_blame(
    folder: RunFolder, method: str, token_agg: str, predictors: Sequence[str], rows: Ints, *, labelled: bool
) -> dict[str, pa.Table]:
    """What a cell's predictors blame: step, agent_correct and unreachable of `attributions`.

    Args:
      rows: which of the table's trajectories, in the order that is wanted, among those that take part in failure
        attribution: it holds them as `scores` does.
      labelled: only labelled trajectories take part; else all of them do.
    """
    wanted = (pc.field("method") == method) & (pc.field("token_agg") == token_agg)
    if labelled:
        wanted &= pc.field("labelled")
    columns = ["predictor", "step", "agent_correct", "unreachable"]
    table = folder.columns("attributions", columns, wanted)
    of = {name: table.filter(pc.equal(table["predictor"], name)).drop_columns("predictor") for name in predictors}
    return {name: found.take(pa.array(rows)) for name, found in of.items()}


def blamed_places(place: Ints, taking_part: Bools) -> Ints:
    """Of rows that take part in failure attribution, their places among those of `attributions` that do.

    Args:
      place: of all rows in `scores`.
      taking_part: which of them do.
    """
    in_table = np.zeros(len(place), np.int64)
    in_table[place] = taking_part
    places: Ints = (np.cumsum(in_table) - 1)[place][taking_part]
    return places
