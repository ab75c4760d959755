"""What a report shows of the metrics of a run and of its sweep, by scenario and group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.reduce.block.methods import LENGTHS
from pa_dist.reduce.metrics.groups import GROUP, Group, by_name
from pa_dist.report.tables.headline import headline
from pa_dist.report.wording import MAIN, MINE, SCENARIOS, plain
from pa_dist.runtime.targets import reference_target, referred_to
from pa_dist.schema import NONE, against
from pa_dist.store.folder import RunFolder

Row = dict[str, Any]

# Those that figures show, with the reward models; as many as a reader tells apart.
DRAWN = (MINE, "policy_logprob", "self_certainty", "deepconf_bottom10")
MOST_SERIES = 6
# Of a scenario's groups, those that a page has room for.
MOST_GROUPS = 50
# Of the sweep's FA figures one predictor is drawn.
_SWEPT_PREDICTOR = "sharpest_drop"


def _is_beside(row: Row) -> bool:
    """Whether it is of progress advantage over a further reference, or of a reward model."""
    judges = row["token_agg"] == NONE and row["method"] not in LENGTHS
    return judges or row["method"].startswith(f"{MINE}@")


@dataclass(frozen=True)
class GroupMetrics:
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
        shown = [row["method"] for row in rows if row["method"] in DRAWN or _is_beside(row)]
        methods = list(dict.fromkeys(shown))
        return [row for row in rows if row["method"] in methods[:MOST_SERIES]]

    def why_not(self) -> str:
        """Why there is no such figure."""
        rows = [row for row in self.headline if row["metric"] == MAIN[self.scenario]]
        notes = [row["note"] for row in rows if row["note"]]
        return plain(notes[0]) if notes else "no method has scores" if rows else "nothing is labelled for them"


@dataclass(frozen=True)
class Found:
    """What a page shows of `metrics`.

    Attributes:
      measured: by scenario and group.
      left_out: how many groups of each scenario are not among them, those of fewest rows.
    """

    measured: list[GroupMetrics]
    left_out: dict[str, int]

    @property
    def groups(self) -> set[Group]:
        """Those that are shown in any scenario."""
        return {of.group for of in self.measured}

    def of(self, scenario: str) -> list[GroupMetrics]:
        """A scenario's groups."""
        return [of for of in self.measured if of.scenario == scenario]


def measured(folder: RunFolder) -> Found:
    """The metrics of a run by scenario and group; of many groups those of most rows, read some rows at a time."""
    sizes = _sizes(folder)
    kept = {
        name: sorted(of, key=lambda group: (-of[group], by_name(group)))[:MOST_GROUPS] for name, of in sizes.items()
    }
    found = {(name, group): GroupMetrics(name, group, [], []) for name, groups in kept.items() for group in groups}
    for metrics in folder.batches("metrics.parquet"):
        for row in _shown(metrics).to_pylist():
            of = found.get((row["scenario"], (row["benchmark"], row["domain"], row["behavior"])))
            if of is None:
                continue
            if row["headline"]:
                of.headline.append(row)
            if row["metric"] == MAIN[of.scenario]:
                of.cells.append(row)
    ordered = sorted(found.values(), key=lambda of: [name or "" for name in of.group])
    return Found(
        [_at_the_largest(of) for name in SCENARIOS for of in ordered if of.scenario == name],
        {name: len(of) - len(kept[name]) for name, of in sizes.items()},
    )


def _largest(sizes: Mapping[Group, int]) -> list[Group]:
    return sorted(sizes, key=lambda group: (-sizes[group], by_name(group)))[:MOST_GROUPS]


def _sizes(folder: RunFolder) -> dict[str, dict[Group, int]]:
    """By scenario the most that any figure of a group was computed from."""
    found: dict[str, dict[Group, int]] = {}
    for metrics in folder.batches("metrics.parquet", ["scenario", *GROUP, "n"]):
        largest = metrics.group_by(["scenario", *GROUP]).aggregate([("n", "max")])
        for row in largest.to_pylist():
            of = found.setdefault(row["scenario"], {})
            group = (row["benchmark"], row["domain"], row["behavior"])
            of[group] = max(of.get(group, 0), row["n_max"] or 0)
    return found


def _shown(metrics: pa.Table) -> pa.Table:
    """The headline's rows, marked, and every cell's main metric."""
    main = pc.is_in(metrics["metric"], pa.array(list(MAIN.values())))
    first = headline(metrics)
    return metrics.append_column("headline", first).filter(pc.or_(first, main))


def _at_the_largest(of: GroupMetrics) -> GroupMetrics:
    most = max((row["at"] for row in of.cells if row["at"] is not None), default=None)
    return GroupMetrics(of.scenario, of.group, of.headline, [row for row in of.cells if row["at"] == most])


def swept(folder: RunFolder, found: Found) -> dict[str, list[Row]]:
    """By scenario progress advantage's main metric over references merged with each alpha, and over the reference as
    alpha 0 of each way to merge; nothing where none is merged."""
    stages = folder.manifest["stages"]
    made = {name: stages[reference_target(name).stage]["settings"].get("merge") for name in referred_to(stages)}
    merged = {against(MINE, name): [(how["method"], how["alpha"])] for name, how in made.items() if how}
    merged |= {MINE: [(method, 0.0) for method in dict.fromkeys(of for ((of, _),) in merged.values())]}
    return {
        scenario: [
            {**row, "merge_method": method, "alpha": alpha}
            for of in found.of(scenario)
            for row in of.cells
            if row["headline"] and row["predictor"] in (None, _SWEPT_PREDICTOR)
            for method, alpha in merged.get(row["method"], ())
        ]
        for scenario in MAIN
        if scenario != "prefix" and len(merged) > 1
    }
