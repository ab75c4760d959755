"""What the run's table `comparisons` says beside the plain figures; a run evaluated without one shows none of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from pa_dist.reduce.choice import differences
from pa_dist.reduce.metrics.groups import GROUP, Group
from pa_dist.report.numbers import figure, number
from pa_dist.report.tables.metrics import GroupMetrics
from pa_dist.report.wording import MAIN, plain
from pa_dist.store.folder import RunFolder

Row = dict[str, Any]

CROSS_FITTED = (
    "Cross-fitted: what the choice among a method's aggregations is worth where it was made on other tasks' data; "
    "closer to what new data would give."
)
_CHOICES = {differences.HEADLINE: "aggregation chosen beforehand", differences.CROSS_FITTED: "cross-fitted"}


@dataclass(frozen=True)
class Differences:
    """Progress advantage less each other method, with intervals and Holm's p-values: a line each, a cell a head."""

    heads: list[str]
    lines: list[tuple[str, list[str]]]
    below: str = field(default="", compare=False)
    """What is to be said of the figures."""


@dataclass(frozen=True)
class Comparisons:
    """Rows of `comparisons` of each scenario's main metric."""

    rows: list[Row]

    @staticmethod
    def of(folder: RunFolder, groups: Collection[Group]) -> "Comparisons":
        """Those of some groups of a run."""
        path = folder.path("comparisons.parquet")
        if not folder.filesystem.get_file_info(path).is_file:
            return Comparisons([])
        main = pc.field("metric").isin(list(MAIN.values()))
        tables = (table.filter(main) for table in folder.batches("comparisons.parquet"))
        rows = [row for table in tables for row in table.to_pylist() if row["metric"] == MAIN[row["scenario"]]]
        return Comparisons([row for row in rows if tuple(row[name] for name in GROUP) in groups])

    def cross_fitted(self, of: GroupMetrics) -> dict[str, str]:
        """Each method's own figure with its aggregation chosen on other data."""
        rows = [row for row in self._of(of) if row["against"] is None and row["choice"] == differences.CROSS_FITTED]
        return {row["method"]: figure(row) for row in rows}

    def differences(self, of: GroupMetrics) -> Differences | None:
        """Of each other method and baseline; None where the run has none."""
        rows = [row for row in self._of(of) if row["against"] is not None and row["choice"] in _CHOICES]
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            # Of FA the predictor that both are read by, chosen beforehand as well.
            head = row["predictor"] or _CHOICES[row["choice"]]
            if row["scenario"] == "prefix":
                head = f"after {row['at']:.0%} of the steps"
            p = "" if row["p_holm"] is None else f", p {number(row['p_holm'])}"
            found.setdefault(plain(row["against"]), {})[head] = f"{figure(row)}{p}"
        heads = list(dict.fromkeys(head for said in found.values() for head in said))
        lines = [(against, [said.get(head, "") for head in heads]) for against, said in found.items()]
        return Differences(heads, lines, _below(rows)) if lines else None

    def _of(self, of: GroupMetrics) -> list[Row]:
        """A group's rows; of best-of-N at the largest n, of prefixes at every share."""
        where = (of.scenario, *of.group)
        rows = [r for r in self.rows if (r["scenario"], r["benchmark"], r["domain"], r["behavior"]) == where]
        most = max((row["at"] for row in rows if row["at"] is not None), default=None)
        return [row for row in rows if row["at"] in (None, most) or row["scenario"] == "prefix"]


def _below(rows: Sequence[Row]) -> str:
    """What intervals and p-values are, of those that are there."""
    said = "Paired differences on the same trajectories"
    said += ", [95% interval]" if any(row["ci_low"] is not None for row in rows) else ""
    if any(row["p_holm"] is not None for row in rows):
        said += "; p-values are adjusted for all differences of a column (Holm)"
    return ". ".join([said, *dict.fromkeys(plain(row["note"]) for row in rows if row.get("note"))]) + "."
