"""`pa-dist top`: the trajectories and steps most worth a look."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.reduce.evaluated import evaluate_settings, reference_named
from pa_dist.report.numbers import signed
from pa_dist.report.suspects import beginnings, by_id, lowest_scores, not_succeeded, suspect
from pa_dist.report.viewer.selection import OUTCOMES, outcome_of
from pa_dist.report.viewer.trajectory import numbered
from pa_dist.schema import against
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import console_for, line

_VALUE = "progress_advantage__mean"
# A UUID and its trial are 44: an id is there to be copied.
_ID_CHARS = 80
Row = dict[str, Any]


def top(
    folder: RunFolder,
    n: int,
    console: Console | None = None,
    *,
    failures: bool = False,
    reference: str | None = None,
) -> None:
    """Print the lowest scores with the most suspicious step of each, and the largest drops from one step to the next.

    Args:
      n: rows of each table.
      failures: leave out trajectories that are known to have succeeded.
      reference: by the advantage over which, where there are several; null is the first.

    Raises:
      RunFolderError: nothing is evaluated here, or not with this reference.
    """
    console = console_for(console)
    threshold = evaluate_settings(folder).success_threshold
    value = f"{against('progress_advantage', reference_named(folder, reference))}__mean"
    chosen_by = f"{value}__mean"
    lowest = lowest_scores(folder, n, threshold, failures=failures, by=chosen_by)
    drops = largest_drops(folder, n, threshold, failures=failures, by=value)
    steps = by_id(folder, "steps", [row["trajectory_id"] for row in (*lowest, *drops)], ["step", value])
    suspects = {row["trajectory_id"]: suspect(steps.get(row["trajectory_id"], []), value) for row in lowest}
    seen = {*((key, step["step"]) for key, step in suspects.items() if step)}
    said = beginnings(folder, {*seen, *((drop["trajectory_id"], drop["step"]) for drop in drops)})

    outcomes = {row["trajectory_id"]: OUTCOMES[outcome_of(row, threshold)] for row in lowest}
    title = f"Lowest scores, by {chosen_by}: {_listed(outcomes, failures)}"
    table = _table(title, "score", "outcome", "most suspicious step", "advantage", "it begins")
    for row in lowest:
        key = row["trajectory_id"]
        told = _told(steps.get(key, []), suspects[key], said, value)
        table.add_row(Text(line(key, _ID_CHARS)), signed(row[chosen_by]), outcomes[key], *told)
    console.print(table)

    labels = by_id(folder, "scores", [drop["trajectory_id"] for drop in drops], ["reward"])
    outcomes = {key: OUTCOMES[outcome_of(row, threshold)] for key, (row,) in labels.items()}
    in_these = f"{len(drops)} in " if drops else ""
    title = f"Largest drops from a step to the next, by {value}: {in_these}{_listed(outcomes, failures)}"
    table = _table(title, "drop", "outcome", "step", "advantage", "it begins")
    for drop in drops:
        key = drop["trajectory_id"]
        (step,) = (step for step in steps[key] if step["step"] == drop["step"])
        told = _told(steps[key], step, said, value)
        table.add_row(Text(line(key, _ID_CHARS)), signed(drop["drop"]), outcomes[key], *told)
    console.print(table)


def _listed(outcomes: Mapping[str, str], failures: bool) -> str:
    """How the trajectories listed ended, counted: one without labels is no failure."""
    counts = Counter(outcomes.values())
    many = {"success": "successes", "failure": "failures"}
    listed = [f"{n} {name if n == 1 else many.get(name, name)}" for name in OUTCOMES.values() if (n := counts[name])]
    return (", ".join(listed) or "none") + ("; known successes left out" if failures else "")


def _table(title: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", show_edge=False)
    for head in ("trajectory", *heads):
        table.add_column(head, no_wrap=head != "it begins")
    return table


def _told(
    steps: Sequence[Row], step: Row | None, said: Mapping[tuple[str, int], str], value: str
) -> tuple[str, str, Text]:
    """A step's number, its advantage and how it begins; nothing of none."""
    if step is None:
        return "", "", Text()
    begins = Text(line(said.get((step["trajectory_id"], step["step"]), "")))
    return numbered(steps.index(step), len(steps)), signed(step[value]), begins


def largest_drops(folder: RunFolder, n: int, threshold: float, *, failures: bool, by: str = _VALUE) -> list[Row]:
    """The largest falls from a step with an advantage to the next that has one, largest first, a file at a time."""
    held: list[Row] = []
    among = None
    if failures:
        scores = folder.dataset("scores")
        among = scores.to_table(columns=["trajectory_id"], filter=not_succeeded(threshold))["trajectory_id"]
    for path in folder.parts("steps"):
        dataset = folder.files([path])
        table = dataset.to_table(columns=["trajectory_id", "step", by], filter=pc.field(by).is_valid())
        if among is not None:
            table = table.filter(pc.is_in(table["trajectory_id"], value_set=among.combine_chunks()))
        held = sorted([*held, *_drops(table, n, by)], key=lambda row: (row["drop"], row["trajectory_id"]))[:n]
    return held


def _drops(table: pa.Table, n: int, by: str) -> Iterable[Row]:
    before, after = table.slice(0, max(len(table) - 1, 0)).combine_chunks(), table.slice(1).combine_chunks()
    same = pc.equal(before["trajectory_id"], after["trajectory_id"])
    drop = pc.if_else(same, pc.subtract(after[by], before[by]), None)
    after = after.append_column("drop", drop).filter(pc.fill_null(pc.less(drop, 0.0), False))
    lowest: list[Row] = after.sort_by([("drop", "ascending"), ("trajectory_id", "ascending")]).slice(0, n).to_pylist()
    return lowest
