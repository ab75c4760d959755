"""The short tables a run ends with in the terminal: the cells chosen beforehand, with their intervals.

They show token mean and step mean, which newer published runners fix in advance. The best of all cells in hindsight
would flatter; `metrics.parquet` holds every one.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pa_dist.run import RunFolder

Row = dict[str, Any]
UQ = {"auroc": "AUROC", "auprc": "AUPRC", "spearman": "Spearman", "aurc": "AURC"}
FA = {
    "step_accuracy": "step accuracy",
    "step_accuracy_within": "within {at:g}",
    "mae": "MAE",
    "agent_accuracy": "agent",
}


def show_metrics(out: str, console: Console | None = None) -> None:
    """Print a run folder's headline tables."""
    console = console or Console()
    folder = RunFolder(out)
    rows = _headline(folder)
    groups = sorted({(row["scenario"], row["benchmark"] or "", row["domain"] or "") for row in rows}, reverse=True)
    builders = {"uq": _uq, "best_of_n": _best_of_n, "fa": _fa}
    for scenario, benchmark, domain in groups:
        of_group = [
            r for r in rows if (r["scenario"], r["benchmark"] or "", r["domain"] or "") == (scenario, benchmark, domain)
        ]
        console.print(builders[scenario](f"{scenario}: {benchmark} {domain}".rstrip(), of_group))
    if rows:
        console.print(f"Shown: token mean, step mean. All cells: {out}/metrics.parquet", soft_wrap=True)


def _headline(folder: RunFolder) -> list[Row]:
    table = pq.read_table(folder.path("metrics.parquet"), filesystem=folder.filesystem)
    mean = pc.is_in(pc.fill_null(table["token_agg"], "mean"), pc.cast(["mean"], "string"))
    rows: list[Row] = table.filter(mean).to_pylist()
    return [row for row in rows if row["step_agg"] in (None, "mean") or row["method"].startswith("deepconf")]


def _uq(title: str, rows: Sequence[Row]) -> Table:
    return _table(title, ["method"], _by(rows, ["method"]), UQ, lambda row: UQ.get(row["metric"]))


def _best_of_n(title: str, rows: Sequence[Row]) -> Table:
    sizes = sorted({int(row["at"]) for row in rows if row["at"] is not None})
    columns = {n: f"best of {n}" for n in sizes if n in (1, 2, 4, 8, 16, 32, 64, sizes[-1])}
    shown = [row for row in rows if row["metric"] in ("success", "mean", "oracle")]
    for row in shown:
        row["method"] = row["metric"] if row["method"] == "baseline" else row["method"]
    return _table(
        f"{title} (success)", ["method"], _by(shown, ["method"]), columns, lambda row: columns.get(int(row["at"]))
    )


def _fa(title: str, rows: Sequence[Row]) -> Table:
    heads = {_fa_head(row): None for row in rows if row["metric"] in FA}
    return _table(title, ["method", "predictor"], _by(rows, ["method", "predictor"]), heads, _fa_head)


def _fa_head(row: Row) -> str | None:
    head = FA.get(row["metric"])
    return head and head.format(at=row["at"] or 0)


def _by(rows: Iterable[Row], keys: list[str]) -> dict[tuple[str, ...], list[Row]]:
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] or "" for key in keys), []).append(row)
    return grouped


def _table(title: str, keys: list[str], groups: dict[tuple[str, ...], list[Row]], columns: Any, head: Any) -> Table:
    names = list(dict.fromkeys(columns.values() if isinstance(columns, dict) and all(columns.values()) else columns))
    table = Table(*keys, *names, title=title, title_justify="left")
    notes: dict[str, None] = {}
    for key, rows in groups.items():
        cells = {head(row): row for row in rows}
        notes.update({row["note"]: None for row in rows if row["note"]})
        table.add_row(*key, *(_figure(cells.get(name)) for name in names))
    n = max((row["n"] or 0 for rows in groups.values() for row in rows), default=0)
    table.caption = "; ".join([f"n = {n}, 95% bootstrap intervals", *notes])
    table.caption_justify = "left"
    return table


def _figure(row: Row | None) -> str:
    if row is None:
        return ""
    if row["value"] is None:
        return "-"
    interval = "" if row["ci_low"] is None else f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['value']:.3f}{interval}"
