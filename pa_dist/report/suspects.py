"""The trajectories and steps most worth a look, as `top` and the page of a run without labels list them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pa_dist.report.viewer.selection import CHOSEN_BY
from pa_dist.report.viewer.trajectory import blamed, suspicious
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import grouped, locate, rows

_LABELS = ("trajectory_id", "reward")
Row = dict[str, Any]


def lowest_scores(folder: RunFolder, n: int, threshold: float, *, failures: bool, by: str = CHOSEN_BY) -> list[Row]:
    """The rows of the lowest scores, lowest first; no more of them than that are held.

    Args:
      failures: leave out trajectories that are known to have succeeded.
    """
    wanted = pc.field(by).is_valid()
    if failures:
        wanted &= not_succeeded(threshold)
    return lowest(folder.dataset("scores"), [*_LABELS, by], wanted, by, n)


def lowest(dataset: pads.Dataset, columns: Sequence[str], wanted: pc.Expression, by: str, n: int) -> list[Row]:
    """The rows of a table that are lowest in one column, lowest first; no more of them than that are held."""
    held: pa.Table | None = None
    for batch in dataset.scanner(columns=list(columns), filter=wanted).to_batches():
        both = (
            pa.Table.from_batches([batch]) if held is None else pa.concat_tables([held, pa.Table.from_batches([batch])])
        )
        held = both.sort_by([(by, "ascending"), ("trajectory_id", "ascending")]).slice(0, n)
    return [] if held is None else held.to_pylist()


def not_succeeded(threshold: float) -> pc.Expression:
    """Which trajectories are not known to have succeeded."""
    return pc.field("reward").is_null() | (pc.field("reward") < threshold)


def suspect(steps: Sequence[Row], value: str) -> Row | None:
    """The step that the viewer and `show` name too; None where no advantage is below zero.

    Args:
      steps: a trajectory's rows of `steps`, with a column `value` of advantages.
    """
    place = suspicious(blamed([step[value] for step in steps]))
    return None if place is None else steps[place]


def by_id(folder: RunFolder, table_name: str, ids: Sequence[str], columns: Sequence[str]) -> dict[str, list[Row]]:
    """Rows of some trajectories, by id."""
    wanted = sorted(set(ids))
    files = locate(folder, table_name).holding(wanted)
    return grouped(rows(folder, files, wanted, ["trajectory_id", *columns])) if files else {}


def beginnings(folder: RunFolder, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """What the messages of some steps say, by trajectory and message."""
    messages = {
        key: row["messages"]
        for key, (row,) in by_id(folder, "trajectories", [key for key, _ in wanted], ["messages"]).items()
    }
    found = {}
    for key, step in wanted:
        message = messages[key][step]
        calls = [f"{call['name'] or ''}({call['arguments'] or ''})" for call in message["tool_calls"] or []]
        found[key, step] = " ".join(filter(None, [message["content"], *calls]))
    return found
