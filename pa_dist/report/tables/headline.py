"""A scenario's headline as a table of text, for pages and the terminal: a line a method, of cells chosen beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.reduce.choice.differences import METHOD
from pa_dist.report.numbers import figure, number
from pa_dist.report.wording import reachable
from pa_dist.schema import NONE

Row = dict[str, Any]
UQ = {
    "auroc": "AUROC",
    "spearman": "Spearman",
    "spearman_given_steps": "given steps",
    "auprc": "AUPRC",
    "aurc": "AURC",
}
BEST_OF = (1, 2, 4, 8, 16, 32, 64)


def headline(metrics: pa.Table) -> pa.ChunkedArray:
    """Which rows of `metrics` are of cells that were chosen beforehand."""
    token = pc.is_in(pc.fill_null(metrics["token_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    step = pc.is_in(pc.fill_null(metrics["step_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    return pc.and_(token, pc.or_(step, pc.starts_with(metrics["method"], "deepconf")))


@dataclass(frozen=True)
class Headline:
    """A table of text: a line a method, a cell for each of `heads`, and what stands below."""

    what: str
    heads: list[str]
    lines: dict[str, list[str]]
    below: str


def _uq(rows: Sequence[Row]) -> Headline:
    shown = [row for row in rows if row["metric"] in UQ and row["method"] != "baseline"]
    known = {row["metric"]: figure(row) for row in rows if row["method"] == "baseline"}
    said = [f"any order: AUPRC {known['auprc']}", f"always the commoner outcome: {known['majority']}"] if known else []
    if any(row["metric"] == "spearman_given_steps" for row in shown):
        said.append("given steps: Spearman beyond the number of steps")
    with_interval = ["AUROC", "Spearman", "given steps"]
    return _table("", shown, lambda row: UQ[row["metric"]], with_interval, list(UQ.values()), said=said)


def _prefix(rows: Sequence[Row]) -> Headline:
    alarms = {"false_alarms": "false alarms", "caught": "caught", "caught_step": "at step", "caught_share": "at share"}

    def head(row: Row) -> str | None:
        if row["metric"] == "auroc_after":
            return f"step {row['at']:g}"
        return f"{row['at']:.0%}" if row["metric"] == "auroc_at" else alarms.get(row["metric"])

    shown = [row for row in rows if head(row)]
    heads = [name for name in dict.fromkeys(map(head, shown)) if name]
    below = "AUROC after shares of the steps, and after steps; then what an alarm at any step flags of successes"
    caught = "and catches of failures, and the median step and share of steps where it does"
    return _table("AUROC", shown, head, [*heads[:2], "caught"], heads, said=[f"{below}, {caught}"])


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


BUILDERS = {"uq": _uq, "prefix": _prefix, "best_of_n": _best_of_n, "fa": _fa}


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
        method: [_cell(found.get(name), name in with_interval) for name in heads] for method, found in cells.items()
    }
    n = max((row["n"] or 0 for row in rows), default=0)
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    shown = [row for found in cells.values() for name, row in found.items() if name in with_interval]
    bracketed = any(row["value"] is not None and row["ci_low"] is not None for row in (*shown, *baselines))
    brackets = ", [95% interval]" if bracketed else ""
    facts = [f"{row['predictor']} {figure(row)}" for row in baselines]
    return Headline(what, heads, lines, "; ".join([f"n = {n}{brackets}", *facts, *said, *notes]))


def _cell(row: Row | None, with_interval: bool) -> str:
    if row is None:
        return ""
    return figure(row) if with_interval else number(row["value"])
