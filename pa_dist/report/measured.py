"""What a report shows of the metrics of a run and of its sweep, by scenario and group."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.reduce.groups import Group
from pa_dist.report.tables import headline
from pa_dist.report.words import MAIN, MINE, SCENARIOS, plain
from pa_dist.run import ALPHAS, RunFolder
from pa_dist.schema import NONE

Row = dict[str, Any]

# Those that figures show, with the reward models; as many as a reader tells apart.
DRAWN = (MINE, "policy_logprob", "self_certainty", "deepconf_bottom10")
MOST_SERIES = 6
# Of the sweep's FA figures one predictor is drawn.
_SWEPT_PREDICTOR = "sharpest_drop"


@dataclass(frozen=True)
class Measured:
    """The rows of `metrics` of one scenario and group that a report shows.

    Attributes:
      headline: of the cells chosen beforehand, every metric; the baselines too.
      cells: of every cell, the metric that the scenario is judged by; of best-of-N at the largest n.
    """

    scenario: str
    group: Group
    headline: list[Row]
    cells: list[Row]

    @property
    def n(self) -> int:
        """The most that any figure was computed from."""
        return max((row["n"] or 0 for row in self.headline), default=0)

    def drawn(self) -> list[Row]:
        """The headline's main figures of the methods that figures show, where they are known."""
        rows = [row for row in self.headline if row["metric"] == MAIN[self.scenario] and row["value"] is not None]
        shown = [row["method"] for row in rows if row["method"] in DRAWN or row["token_agg"] == NONE]
        methods = list(dict.fromkeys(shown))
        return [row for row in rows if row["method"] in methods[:MOST_SERIES]]

    def why_not(self) -> str:
        """Why there is no such figure."""
        notes = [row["note"] for row in self.headline if row["metric"] == MAIN[self.scenario] and row["note"]]
        return plain(notes[0]) if notes else "no method has scores"


def measured(folder: RunFolder) -> list[Measured]:
    """The metrics of a run by scenario and group."""
    metrics = _shown(folder.read_table(folder.path("metrics.parquet")))
    found: dict[tuple[str, Group], Measured] = {}
    for row in metrics.to_pylist():
        group = (row["benchmark"], row["domain"], row["behavior"])
        of = found.setdefault((row["scenario"], group), Measured(row["scenario"], group, [], []))
        if row["headline"]:
            of.headline.append(row)
        if row["metric"] == MAIN[of.scenario]:
            of.cells.append(row)
    ordered = sorted(found.values(), key=lambda of: [name or "" for name in of.group])
    return [_at_the_largest(of) for name in SCENARIOS for of in ordered if of.scenario == name]


def _shown(metrics: pa.Table) -> pa.Table:
    """The headline's rows, marked, and every cell's main metric."""
    main = pc.is_in(metrics["metric"], pa.array(list(MAIN.values())))
    first = headline(metrics)
    return metrics.append_column("headline", first).filter(pc.or_(first, main))


def _at_the_largest(of: Measured) -> Measured:
    most = max((row["at"] for row in of.cells if row["at"] is not None), default=None)
    return Measured(of.scenario, of.group, of.headline, [row for row in of.cells if row["at"] == most])


def swept(folder: RunFolder) -> dict[str, list[Row]]:
    """By scenario progress advantage's main metric at each alpha of a sweep; nothing where there was none."""
    path = folder.path(f"{ALPHAS}.parquet")
    if not folder.filesystem.get_file_info(path).is_file:
        return {}
    rows = _shown(folder.read_table(path)).to_pylist()
    found: dict[str, list[Row]] = {}
    for row in rows:
        mine = row["headline"] and row["method"] == MINE and row["metric"] == MAIN[row["scenario"]]
        if mine and row["predictor"] in (None, _SWEPT_PREDICTOR):
            found.setdefault(row["scenario"], []).append(row)
    largest = max((row["at"] for row in found.get("best_of_n", [])), default=None)
    return {name: [row for row in of if row["at"] in (None, largest)] for name, of in found.items()}
