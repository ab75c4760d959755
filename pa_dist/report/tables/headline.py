"""A scenario's headline as a table of text, for pages and the terminal: a line a method, of cells chosen beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.reduce.choice.differences import METHOD
from pa_dist.report.numbers import figure, number, signed
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
_STEP_AUROC = "step AUROC"
BEST_OF = (1, 2, 4, 8, 16, 32, 64)


def headline(metrics: pa.Table) -> pa.ChunkedArray:
    """Which rows of `metrics` are of cells that were chosen beforehand."""
    token = pc.is_in(pc.fill_null(metrics["token_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    step = pc.is_in(pc.fill_null(metrics["step_agg"], "mean"), pc.cast(["mean", NONE], "string"))
    return pc.and_(token, pc.or_(step, pc.starts_with(metrics["method"], "deepconf")))


@dataclass(frozen=True)
class Headline:
    """A table of text: a line a method, a cell for each of `heads`, and what stands below.

    Attributes:
      cells: the rows that lines were made of, null where there is none.
      said: of what stands below, all but n.
    """

    what: str
    heads: list[str]
    lines: dict[str, list[str]]
    below: str
    cells: dict[str, list[Row | None]]
    said: list[str]


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


# What best-of-n's tables and figures call what is no method's success.
WITHOUT_SCORE = {"vote": "majority vote", "oracle": "oracle pass@n", "mean": "mean@n"}
WEIGHTED = f"{METHOD}, weighted vote"
GAIN = f"{METHOD}, gain a 1,000 tokens"


def series(row: Row) -> str | None:
    """The line of a table of success over n that a row of best-of-n belongs to; null where to none."""
    if row["metric"] == "weighted_vote":
        return WEIGHTED if row["method"] == METHOD else None
    return row["method"] if row["metric"] == "success" else WITHOUT_SCORE.get(row["metric"])


def _best_of_n(rows: Sequence[Row]) -> Headline:
    shown = [{**row, "method": name} for row in rows if (name := series(row))]
    tokens = {row["at"]: row for row in rows if row["metric"] == "tokens"}
    known = {row["at"] for row in shown if row["at"] is not None} or set(tokens)
    ns = [at for at in sorted(known) if at in BEST_OF or at == max(known)]
    heads = [f"best of {int(at)}" for at in ns]
    table = _table(
        "success",
        [row for row in shown if row["at"] is None or row["at"] in ns],
        lambda row: f"best of {int(row['at'])}" if row["at"] is not None else None,
        heads[-1:],
        heads,
    )
    # Without a reward there is nothing but the cost to show.
    lines = table.lines if any(row["at"] is not None for row in shown) else {}
    return replace(table, lines={**lines, **_costs(ns, {row["at"]: row for row in _success(rows)}, tokens)})


def _success(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["metric"] == "success" and row["method"] == METHOD]


def _costs(ns: Sequence[float], success: Mapping[float, Row], tokens: Mapping[float, Row]) -> dict[str, list[str]]:
    """What n trials take, and what progress advantage gains for it over the column before."""
    spent = [tokens[at]["value"] if at in tokens else None for at in ns]
    if not any(value is not None for value in spent):
        return {}
    lines = {"tokens of n trials": ["-" if value is None else f"{value:,.0f}" for value in spent]}
    gains = [gain(success.get(n), success.get(m), tokens.get(n), tokens.get(m)) for n, m in pairwise(ns)]
    return lines | ({GAIN: ["", *map(signed, gains)]} if any(of is not None for of in gains) else {})


def gain(before: Row | None, after: Row | None, tokens_before: Row | None, tokens_after: Row | None) -> float | None:
    """Success gained for each 1,000 tokens more; null where either is unknown or of other tasks."""
    rows = [row for row in (before, after, tokens_before, tokens_after) if row and row["value"] is not None]
    if len(rows) < 4 or len({row["n"] for row in rows}) > 1:
        return None
    less, more, spent_before, spent = (float(row["value"]) for row in rows)
    return 1000 * (more - less) / (spent - spent_before) if spent > spent_before else None


def _fa(rows: Sequence[Row]) -> Headline:
    shown = [row for row in rows if row["metric"] == "step_accuracy"]
    baselines = [row for row in shown if row["method"] == "baseline"]
    predicted = [row for row in shown if row["method"] != "baseline"]
    steps = [row for row in rows if row["metric"] == "step_auroc"]
    heads = list(dict.fromkeys(row["predictor"] or _STEP_AUROC for row in [*predicted, *steps]))
    said = [f"{METHOD}: {said}" for said in reachable(rows)]
    if predicted and steps:
        said.insert(0, f"{_STEP_AUROC} of {max(row['n'] for row in steps)} labelled steps")
    return _table(
        "step accuracy" if predicted else "",
        [*predicted, *steps],
        lambda row: row["predictor"] or _STEP_AUROC,
        heads,
        heads,
        baselines,
        said,
        predicted,
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
    counted: Sequence[Row] = (),
) -> Headline:
    """`counted`: the rows whose n is said; where there are none, all."""
    cells: dict[str, dict[str | None, Row]] = {}
    for row in rows:
        cells.setdefault(row["method"], {})[head(row)] = row
    of_heads = {method: [found.get(name) for name in heads] for method, found in cells.items()}
    lines = {
        method: [_cell(row, name in with_interval) for name, row in zip(heads, found, strict=True)]
        for method, found in of_heads.items()
    }
    n = max((row["n"] or 0 for row in counted or rows), default=0)
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    shown = [row for found in cells.values() for name, row in found.items() if name in with_interval]
    bracketed = any(row["value"] is not None and row["ci_low"] is not None for row in (*shown, *baselines))
    brackets = ", [95% interval]" if bracketed else ""
    facts = [f"{row['predictor']} {figure(row)}" for row in baselines]
    below = [*facts, *said, *notes]
    return Headline(what, heads, lines, "; ".join([f"n = {n}{brackets}", *below]), of_heads, below)


def _cell(row: Row | None, with_interval: bool) -> str:
    if row is None:
        return ""
    return figure(row) if with_interval else number(row["value"])
