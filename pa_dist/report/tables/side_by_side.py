"""The headline figures of runs side by side: a table a scenario and group, a line a method, columns of each run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.errors import RunFolderError
from pa_dist.reduce.choice.differences import CROSS_FITTED, HEADLINE, HINDSIGHT
from pa_dist.reduce.evaluated import evaluate_settings
from pa_dist.reduce.metrics.groups import GROUP, Group, by_name
from pa_dist.report.facts import names
from pa_dist.report.numbers import figure
from pa_dist.report.tables import comparisons
from pa_dist.report.tables.headline import BUILDERS, UQ, Headline, headline
from pa_dist.report.tables.spreadsheet import as_csv
from pa_dist.report.wording import MAIN, SCENARIOS, titles
from pa_dist.store.folder import RunFolder

Row = dict[str, Any]
_SAID = {
    CROSS_FITTED: comparisons.CROSS_FITTED.rstrip("."),
    HINDSIGHT: "The best of each method's aggregations on these data themselves: too high for others",
}
_HEADS = {"auroc": UQ["auroc"], "step_accuracy": "step accuracy"}
_FIGURES = ("method", "token_agg", "step_agg", "predictor", "metric", "at", "value", "ci_low", "ci_high", "n", "note")


@dataclass(frozen=True)
class Column:
    """A figure of one run; `n`: the most that a method's was computed from."""

    run: str
    head: str
    n: int

    def above(self, named: bool) -> list[str]:
        """What stands above it: the run's name where there are several, the figure, its n."""
        return [*([self.run] if named else []), self.head, *([f"n = {self.n:,}"] if self.n else [])]


@dataclass(frozen=True)
class SideBySide:
    """One table.

    Attributes:
      lines: by method a row of `metrics` or `comparisons` for each column; null where there is none.
      below: what is to be said of the figures, a line a run.
    """

    title: str
    columns: list[Column]
    lines: dict[str, list[Row | None]]
    below: list[str]
    several: bool
    """Whether runs are to be told apart."""

    def texts(self) -> Iterator[tuple[str, list[str]]]:
        """By method its figures with their intervals, and with their n where that is another than the column's."""
        for method, rows in self.lines.items():
            yield method, [_text(row, column.n) for row, column in zip(rows, self.columns, strict=True)]


def side_by_side(folders: Sequence[RunFolder], scenario: str | None = None, choice: str = HEADLINE) -> list[SideBySide]:
    """Tables of one scenario or all, in the order of reports.

    Args:
      choice: how each method's cell was chosen, one of `differences.CHOICES`.

    Raises:
      RunFolderError: a folder without an evaluated run, or no such figures in any.
    """
    folders = list(dict.fromkeys(folders))
    found: dict[tuple[str, Group], dict[str, list[Row]]] = {}
    for name, folder in zip(names(folders), folders, strict=True):
        evaluate_settings(folder)
        for row in _rows(folder, scenario, choice):
            where = row["scenario"], (row["benchmark"], row["domain"], row["behavior"])
            found.setdefault(where, {}).setdefault(name, []).append(row)
    if not found:
        wanted = " of ".join(filter(None, (f"{choice.replace('_', '-')} figures", scenario)))
        raise RunFolderError(f"{', '.join(map(str, folders))}: no {wanted} here")
    named, order = titles(group for _, group in found), list(SCENARIOS)
    ordered = sorted(found, key=lambda of: (order.index(of[0]), by_name(of[1])))
    return [_table(of[0], named[of[1]], found[of], choice, len(folders) > 1) for of in ordered]


def _rows(folder: RunFolder, scenario: str | None, choice: str) -> Iterator[Row]:
    """Of cells chosen beforehand every metric; else what the scenario is judged by."""
    for table in folder.batches("metrics.parquet" if choice == HEADLINE else "comparisons.parquet"):
        if choice == HEADLINE:
            kept = headline(table)
        else:
            kept = pc.and_(pc.equal(table["choice"], choice), pc.is_null(table["against"]))
            kept = pc.and_(kept, pc.is_in(table["metric"], pa.array(list(MAIN.values()))))
        if scenario is not None:
            kept = pc.and_(kept, pc.equal(table["scenario"], scenario))
        yield from table.filter(kept).to_pylist()


def _table(scenario: str, group: str, rows_of: Mapping[str, list[Row]], choice: str, several: bool) -> SideBySide:
    build = BUILDERS[scenario] if choice == HEADLINE else partial(_chosen, choice)
    made = {run: build(rows) for run, rows in rows_of.items()}
    columns: list[Column] = []
    lines: dict[str, list[Row | None]] = {method: [] for of in made.values() for method in of.cells}
    said: dict[str, list[str]] = {}
    for run, of in made.items():
        # What a scenario has no figures of has no column.
        filled = [at for at in range(len(of.heads)) if any(rows[at] for rows in of.cells.values())]
        for at in filled:
            ns = [row["n"] or 0 for rows in of.cells.values() if (row := rows[at])]
            columns.append(Column(run, of.heads[at], max(ns)))
        for method, cells in lines.items():
            found = of.cells.get(method)
            cells += [found[at] if found else None for at in filled]
        # Several notes of one row are one text.
        said.setdefault("; ".join(dict.fromkeys("; ".join(of.said).split("; "))), []).append(run)
    below = [f"{', '.join(runs)}: {text}" if len(said) > 1 else text for text, runs in said.items() if text]
    whats = dict.fromkeys(of.what for of in made.values() if of.what)
    if any(row and row["ci_low"] is not None for rows in lines.values() for row in rows):
        below.insert(0, "In brackets: 95% intervals")
    return SideBySide(", ".join([f"{scenario}: {group}", *whats]), columns, lines, below, several)


def _chosen(choice: str, rows: Sequence[Row]) -> Headline:
    """The figure that the scenario is judged by, each method's cell chosen so."""
    at = max((row["at"] for row in rows if row["at"] is not None), default=None)
    head = rows[0]["metric"] if at is None else f"best of {at:g}"
    why = dict.fromkeys(row["note"] for row in rows if row["value"] is None and row["note"])
    cells: dict[str, list[Row | None]] = {row["method"]: [row] for row in rows}
    return Headline("", [_HEADS.get(head, head)], {}, "", cells, [_SAID[choice], *why])


def _text(row: Row | None, n: int) -> str:
    if row is None:
        return ""
    return figure(row) + (f" (n = {row['n']:,})" if row["value"] is not None and row["n"] != n else "")


def csv(tables: Sequence[SideBySide]) -> bytes:
    """Every figure as a row, with its run, group, cell, interval, n and note."""
    rows = []
    for table in tables:
        for found in table.lines.values():
            for row, column in zip(found, table.columns, strict=True):
                if row is not None:
                    figures = {name: row[name] for name in ("scenario", *GROUP, *_FIGURES)}
                    rows.append({"run": column.run, **figures, "choice": row.get("choice", HEADLINE)})
    return as_csv(rows)
