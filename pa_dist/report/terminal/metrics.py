"""The short tables a run ends with in the terminal: the cells chosen beforehand, with their intervals.

They show token mean and step mean, which newer published runners fix in advance. The best of all cells in hindsight
would flatter; `metrics.parquet` holds every one.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.reduce.choice.differences import CROSS_FITTED, HEADLINE, HINDSIGHT, METHOD
from pa_dist.reduce.metrics.groups import Group, by_name
from pa_dist.report.wording import reachable, titles
from pa_dist.schema import NONE
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import console_for, visible

Row = dict[str, Any]
UQ = {"auroc": "AUROC", "spearman": "Spearman", "auprc": "AUPRC", "aurc": "AURC"}
# Of a scenario: a terminal is no place for hundreds of tables.
MOST_GROUPS = 12
BEST_OF = (1, 2, 4, 8, 16, 32, 64)


def show_metrics(
    out: str, console: Console | None = None, only: Collection[tuple[str, str | None]] | None = None
) -> None:
    """Print a run folder's headline tables: rows the methods and baselines, one table a scenario and domain.

    Args:
      only: the scenarios and domains to show; all by default.
    """
    console = console_for(console)
    folder = RunFolder.of(out)
    groups: dict[tuple[str, Group], list[Row]] = {}
    left_out: set[tuple[str, Group]] = set()
    for metrics in folder.batches("metrics.parquet"):
        for row in metrics.filter(headline(metrics)).to_pylist():
            where = _where(row)
            if only is not None and (row["scenario"], row["domain"]) not in only:
                continue
            if where not in groups and sum(scenario == where[0] for scenario, _ in groups) >= MOST_GROUPS:
                left_out.add(where)
                continue
            groups.setdefault(where, []).append(row)
    compared = _compared(folder, groups)
    named = titles((group for _, group in groups), visible)
    for where, rows in sorted(groups.items(), key=lambda of: (of[0][0], by_name(of[0][1])), reverse=True):
        scenario, group = where
        console.print(_printed(f"{scenario}: {named[group]}", BUILDERS[scenario](rows)))
        for line in _honest(compared, where):
            console.print(line, soft_wrap=True)
    for scenario, n in sorted(Counter(scenario for scenario, _ in left_out).items(), reverse=True):
        console.print(Text(f"{scenario}: {n} groups more, in {out}/metrics.parquet"), soft_wrap=True)
    if groups:
        console.print(
            Text(
                f"Shown: token mean and step mean (deepconf: its own steps). All cells: {out}/metrics.parquet; "
                f"chosen on other tasks, and less each other method: {out}/comparisons.parquet"
            ),
            soft_wrap=True,
        )


def _where(row: Row) -> tuple[str, Group]:
    return row["scenario"], (row["benchmark"], row["domain"], row["behavior"])


def headline(metrics: pa.Table) -> pa.ChunkedArray:
    """Which rows of `metrics` are of cells that were chosen beforehand."""
    token = pc.is_in(pc.fill_null(metrics["token_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    step = pc.is_in(pc.fill_null(metrics["step_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    return pc.and_(token, pc.or_(step, pc.starts_with(metrics["method"], "deepconf")))


def _compared(folder: RunFolder, groups: Collection[tuple[str, Group]]) -> list[Row]:
    """The cross-fitted rows of `comparisons` of some groups, and the best in hindsight; none of a run that was
    evaluated before."""
    if folder.filesystem.get_file_info(folder.path("comparisons.parquet")).type is FileType.NotFound:
        return []
    rows: list[Row] = []
    wanted = (pc.field("choice") != HEADLINE) & (pc.field("method") == METHOD) & pc.field("value").is_valid()
    for table in folder.batches("comparisons.parquet"):
        rows += [row for row in table.filter(wanted).to_pylist() if _where(row) in groups]
    return rows


def _honest(compared: Sequence[Row], where: tuple[str, Group]) -> list[Text]:
    """What progress advantage is worth with a cell chosen on other tasks, and beside the best of the others."""
    rows = [row for row in compared if _where(row) == where]
    own = {row["choice"]: row for row in rows if row["against"] is None}
    if CROSS_FITTED not in own:
        return []
    chosen, hindsight = own[CROSS_FITTED], own[HINDSIGHT]
    said = f"{METHOD}, its cell chosen on other tasks: {chosen['metric']} {figure(chosen, True)}"
    lines = [f"{said}; the best cell in hindsight: {figure(hindsight, False)}"]
    if differences := [row for row in rows if row["against"] is not None]:
        least = min(differences, key=lambda row: row["value"])
        p = "" if least["p_holm"] is None else f", p {least['p_holm']:.3f} (Holm, {least['comparisons']} comparisons)"
        interval = "" if least["ci_low"] is None else f" [{least['ci_low']:+.2f}, {least['ci_high']:+.2f}]"
        lines.append(f"less {least['against']}, the best of the others: {least['value']:+.3f}{interval}{p}")
    return [Text(line) for line in lines]


@dataclass(frozen=True)
class Headline:
    """A table of text: a line a method, a cell for each of `heads`, and what stands below.

    Attributes:
      shown: the rows whose intervals stand in it, or below.
    """

    what: str
    heads: list[str]
    lines: dict[str, list[str]]
    below: str
    shown: list[Row]


def _uq(rows: Sequence[Row]) -> Headline:
    return _table("", rows, lambda row: UQ.get(row["metric"]), ["AUROC", "Spearman"], list(UQ.values()))


def _best_of_n(rows: Sequence[Row]) -> Headline:
    names = {"mean": "mean@n", "oracle": "oracle pass@n"}
    shown = [row for row in rows if row["metric"] in ("success", "mean", "oracle")]
    shown = [{**row, "method": names.get(row["metric"], row["method"])} for row in shown]
    largest = max((row["at"] for row in shown if row["at"] is not None), default=None)
    shown = [row for row in shown if row["at"] is None or row["at"] in BEST_OF or row["at"] == largest]
    heads = [f"best of {int(at)}" for at in sorted({row["at"] for row in shown if row["at"] is not None})]
    return _table(
        "success",
        shown,
        lambda row: f"best of {int(row['at'])}" if row["at"] is not None else None,
        heads[-1:],
        heads,
    )


def _fa(rows: Sequence[Row]) -> Headline:
    shown = [row for row in rows if row["metric"] == "step_accuracy"]
    baselines = [row for row in shown if row["method"] == "baseline"]
    predicted = [row for row in shown if row["method"] != "baseline"]
    heads = list(dict.fromkeys(row["predictor"] for row in predicted))
    return _table(
        "step accuracy",
        predicted,
        lambda row: row["predictor"],
        heads,
        heads,
        baselines,
        [f"{METHOD}: {said}" for said in reachable(rows)],
    )


BUILDERS = {"uq": _uq, "best_of_n": _best_of_n, "fa": _fa}


def _table(
    what: str,
    rows: Sequence[Row],
    head: Callable[[Row], str | None],
    with_interval: list[str],
    heads: list[str],
    baselines: Sequence[Row] = (),
    said: Sequence[str] = (),
) -> Headline:
    cells: dict[str, dict[str | None, Row]] = {}
    for row in rows:
        cells.setdefault(row["method"], {})[head(row)] = row
    lines = {
        method: [figure(found.get(name), name in with_interval) for name in heads] for method, found in cells.items()
    }
    n = max((row["n"] or 0 for row in rows), default=0)
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    shown = [row for found in cells.values() for name, row in found.items() if name in with_interval]
    shown = [row for row in (*shown, *baselines) if row["value"] is not None and row["ci_low"] is not None]
    brackets = ", [95% bootstrap interval]" if shown else ""
    facts = [f"{row['predictor']} {figure(row, True)}" for row in baselines]
    return Headline(what, heads, lines, "; ".join([f"n = {n}{brackets}", *facts, *said, *notes]), shown)


def _printed(title: str, headline: Headline) -> Table:
    # Text: names and notes come from the files, and square brackets in them are no markup.
    title = ", ".join(filter(None, (title, headline.what)))
    head = Text(visible(title))
    table = Table(box=box.SIMPLE_HEAD, title=head, title_justify="left", caption_justify="left", show_edge=False)
    table.add_column("method", no_wrap=True)
    for name in headline.heads:
        table.add_column(name)
    for method, cells in headline.lines.items():
        table.add_row(Text(method), *map(Text, cells))
    table.caption = Text(visible(headline.below))
    return table


def figure(row: Row | None, interval: bool) -> str:
    """A row's value with its interval where asked for; a dash where it is null, nothing where there is no row."""
    if row is None or row["value"] is None:
        return "" if row is None else "-"
    between = f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]" if interval and row["ci_low"] is not None else ""
    return f"{row['value']:.3f}{between}"
