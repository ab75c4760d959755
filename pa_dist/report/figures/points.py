"""What figures read of a run's tables: tasks that read the columns they need and return a few points.

Of each column of `scores` a task holds the keys, the labels and itself.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.ragged import Bools, Floats, Ints
from pa_dist.reduce.block.methods import Cell
from pa_dist.reduce.metrics.groups import GROUP, Group, by_group, floats
from pa_dist.report.figures.curves import histogram, risk_coverage_curve, roc_curve, thinned
from pa_dist.store.folder import RunFolder

_KEYS = ["trajectory_id", *GROUP, "reward"]
_BLAMED = ["trajectory_id", *GROUP, "mistake_step", "predictor", "step"]
# Reasons may quote the row they reject, so that there are as many as rows.
REASONS = 20


@dataclass(frozen=True)
class Curves:
    """Of one column in one group: points to draw, and what they were taken from.

    Attributes:
      roc: false and true positive rates; none where every trajectory has the same outcome.
      risk: coverages and risks.
      bins: edges, and failures and successes between them.
      n: trajectories with a score and a reward.
    """

    roc: tuple[Floats, Floats] | None
    risk: tuple[Floats, Floats]
    bins: tuple[Floats, Ints, Ints]
    n: int


def score_curves(
    folder: RunFolder, success_threshold: float, drawn: Collection[Group], cell: Cell
) -> dict[Group, Curves]:
    """Curves of a column of `scores` in each of some groups where a trajectory has a score and a reward."""
    labelled = pc.field("reward").is_valid() & pc.field(cell.column).is_valid()
    table = folder.columns("scores", [*_KEYS, cell.column], labelled)
    return {
        group: _curves(floats(rows, cell.column), floats(rows, "reward") >= success_threshold, cell.orientation)
        for group, rows in by_group(table)
        if group in drawn
    }


def _curves(score: Floats, success: Bools, orientation: int) -> Curves:
    ranked = orientation * score
    both = success.any() and not success.all()
    rates = roc_curve(ranked, success) if both else None
    risks = risk_coverage_curve(ranked, success)
    return Curves(
        roc=_drawn(rates) if rates else None,
        risk=_drawn(risks),
        bins=histogram(score, success),
        n=len(score),
    )


def _drawn(curve: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    kept = thinned(*curve)
    return curve[0][kept], curve[1][kept]


def blame_errors(
    folder: RunFolder, token_agg: str, drawn: Collection[Group], method: str
) -> dict[Group, dict[str, Counter[int | None]]]:
    """How often each predictor of a method missed the labelled message by how much in some groups; None counts no
    prediction."""
    chosen = (pc.field("method") == method) & (pc.field("token_agg") == token_agg)
    table = folder.dataset("attributions", schema.ATTRIBUTIONS).to_table(
        columns=_BLAMED, filter=chosen & pc.field("mistake_step").is_valid()
    )
    found: dict[Group, dict[str, Counter[int | None]]] = {}
    for group, rows in ((group, rows) for group, rows in by_group(table) if group in drawn):
        errors = pc.subtract(rows["step"], rows["mistake_step"])
        counted = pa.table({"predictor": rows["predictor"], "error": errors}).group_by(["predictor", "error"])
        for row in counted.aggregate([([], "count_all")]).to_pylist():
            found.setdefault(group, {}).setdefault(row["predictor"], Counter())[row["error"]] = row["count_all"]
    return found


def groups(folder: RunFolder) -> list[Group]:
    """All groups of a run's trajectories, with labels or without."""
    table = folder.columns("scores", _KEYS)
    return [group for group, _ in by_group(table)]


@dataclass(frozen=True)
class RejectCounts:
    """How many rows each stage rejected for which reason, most first, and what the rest comes to."""

    reasons: list[tuple[str, str, int]]
    other_reasons: int
    other_rows: int


def reject_counts(folder: RunFolder) -> RejectCounts:
    """Of a run's `rejects`, the `REASONS` most frequent reasons."""
    counts: Counter[tuple[str, str]] = Counter()
    for dataset in folder.datasets(folder.parts("rejects"), schema.REJECTS):
        for batch in dataset.to_batches(columns=["stage", "reason"]):
            table = pa.Table.from_batches([batch]).group_by(["stage", "reason"]).aggregate([([], "count_all")])
            for row in table.to_pylist():
                counts[row["stage"], row["reason"]] += row["count_all"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    most = [(stage, reason, count) for (stage, reason), count in ordered[:REASONS]]
    rest = ordered[REASONS:]
    return RejectCounts(most, len(rest), sum(count for _, count in rest))
