"""`pa-dist top`: the trajectories and steps most worth a look."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.reduce.evaluated import evaluate_settings
from pa_dist.report.choose import CHOSEN_BY, OUTCOMES, outcome_of
from pa_dist.report.find import grouped, holding, rows
from pa_dist.report.terminal import console_for, line
from pa_dist.run import RunFolder

_VALUE = "progress_advantage__mean"
# A UUID and its trial are 44: an id is there to be copied.
_ID_CHARS = 80
Row = dict[str, Any]


def top(folder: RunFolder, n: int, console: Console | None = None, *, failures: bool = False) -> None:
    """Print the lowest scores with the worst step of each, and the largest drops from one step to the next.

    Args:
      n: rows of each table.
      failures: leave out trajectories that are known to have succeeded.

    Raises:
      RunFolderError: nothing is evaluated here.
    """
    console = console_for(console)
    threshold = evaluate_settings(folder).success_threshold
    lowest = lowest_scores(folder, n, threshold, failures=failures)
    worst = {key: _worst(steps) for key, steps in _steps(folder, [row["trajectory_id"] for row in lowest]).items()}
    drops = largest_drops(folder, n, threshold, failures=failures)
    blamed = [*((key, step["step"]) for key, step in worst.items() if step)]
    said = _beginnings(folder, {*blamed, *((drop["trajectory_id"], drop["step"]) for drop in drops)})
    what = "that did not succeed" if failures else "of any outcome"
    table = _table(f"Lowest scores, {what}, by {CHOSEN_BY}", "score", "outcome", "worst step", "advantage", "it begins")
    for row in lowest:
        step = worst.get(row["trajectory_id"])
        outcome = OUTCOMES[outcome_of(row, threshold)]
        told = ("", "", "") if step is None else _told(step["step"], step[_VALUE], said, row["trajectory_id"])
        table.add_row(Text(line(row["trajectory_id"], _ID_CHARS)), f"{row[CHOSEN_BY]:+.3f}", outcome, *told)
    console.print(table)
    table = _table(
        f"Largest drops from a step to the next, {what}, by {_VALUE}", "drop", "step", "advantage", "it begins"
    )
    for drop in drops:
        told = _told(drop["step"], drop["value"], said, drop["trajectory_id"])
        table.add_row(Text(line(drop["trajectory_id"], _ID_CHARS)), f"{drop['drop']:+.3f}", *told)
    console.print(table)


def _table(title: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", show_edge=False)
    for head in ("trajectory", *heads):
        table.add_column(head, no_wrap=head != "it begins")
    return table


def _told(step: int, value: float, said: dict[tuple[str, int], str], key: str) -> tuple[str, str, Text]:
    return str(step), f"{value:+.3f}", Text(line(said.get((key, step), "")))


def _not_succeeded(threshold: float) -> pc.Expression:
    return pc.field("reward").is_null() | (pc.field("reward") < threshold)


def lowest_scores(folder: RunFolder, n: int, threshold: float, *, failures: bool) -> list[Row]:
    """The rows of the lowest scores, lowest first; no more of them than that are held."""
    wanted = pc.field(CHOSEN_BY).is_valid()
    if failures:
        wanted &= _not_succeeded(threshold)
    columns = ["trajectory_id", "reward", "mistake_step", CHOSEN_BY]
    held: pa.Table | None = None
    for batch in folder.dataset("scores").scanner(columns=columns, filter=wanted).to_batches():
        both = (
            pa.Table.from_batches([batch]) if held is None else pa.concat_tables([held, pa.Table.from_batches([batch])])
        )
        held = both.sort_by([(CHOSEN_BY, "ascending"), ("trajectory_id", "ascending")]).slice(0, n)
    return [] if held is None else held.to_pylist()


def largest_drops(folder: RunFolder, n: int, threshold: float, *, failures: bool) -> list[Row]:
    """The largest falls from a step with an advantage to the next that has one, largest first, a file at a time."""
    held: list[Row] = []
    among = None
    if failures:
        scores = folder.dataset("scores")
        among = scores.to_table(columns=["trajectory_id"], filter=_not_succeeded(threshold))["trajectory_id"]
    for path in folder.parts("steps"):
        dataset = folder.files([path])
        table = dataset.to_table(columns=["trajectory_id", "step", _VALUE], filter=pc.field(_VALUE).is_valid())
        if among is not None:
            table = table.filter(pc.is_in(table["trajectory_id"], value_set=among.combine_chunks()))
        held = sorted([*held, *_drops(table, n)], key=lambda row: (row["drop"], row["trajectory_id"]))[:n]
    return held


def _drops(table: pa.Table, n: int) -> Iterable[Row]:
    before, after = table.slice(0, max(len(table) - 1, 0)).combine_chunks(), table.slice(1).combine_chunks()
    same = pc.equal(before["trajectory_id"], after["trajectory_id"])
    drop = pc.if_else(same, pc.subtract(after[_VALUE], before[_VALUE]), None)
    after = after.append_column("drop", drop).filter(pc.fill_null(pc.less(drop, 0.0), False))
    lowest = after.sort_by([("drop", "ascending"), ("trajectory_id", "ascending")]).slice(0, n).to_pylist()
    return ({**row, "value": row[_VALUE]} for row in lowest)


def _steps(folder: RunFolder, ids: list[str]) -> dict[str, list[Row]]:
    (files,) = holding(folder, "steps", [ids])
    return grouped(rows(folder, files, ids, ["trajectory_id", "step", _VALUE])) if files else {}


def _worst(steps: list[Row]) -> Row | None:
    return min((step for step in steps if step[_VALUE] is not None), key=lambda step: step[_VALUE], default=None)


def _beginnings(folder: RunFolder, wanted: set[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """What the messages of some steps say."""
    ids = sorted({key for key, _ in wanted})
    (files,) = holding(folder, "trajectories", [ids])
    if not files:
        return {}
    messages = {
        row["trajectory_id"]: row["messages"]
        for row in rows(folder, files, ids, ["trajectory_id", "messages"]).to_pylist()
    }
    found = {}
    for key, step in wanted:
        message = messages[key][step]
        calls = [f"{call['name'] or ''}({call['arguments'] or ''})" for call in message["tool_calls"] or []]
        found[key, step] = " ".join(filter(None, [message["content"], *calls]))
    return found
