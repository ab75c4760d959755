"""Two runs over the same trajectories side by side: their figures on what both scored, paired by trajectory_id.

A task reads the keys, the labels and one method's columns of both runs. Labels are the first run's; trajectories whose
reward or mistake_step differ between the runs take no part in figures of that label.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.errors import RunFolderError
from pa_dist.mapper import Mapper
from pa_dist.ragged import Floats, column
from pa_dist.reduce.block.methods import Cell, methods
from pa_dist.reduce.choice.differences import METHOD
from pa_dist.reduce.evaluated import evaluate_settings
from pa_dist.reduce.metrics.fa import blamed_outcomes
from pa_dist.reduce.metrics.groups import GROUP, LABELLED, Group, Labels, by_group, clusters, floats, trials
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, difference, estimates_of_means
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty
from pa_dist.store import folder as settings_of
from pa_dist.store.folder import RunFolder

AGREEMENT = "agreement"
"""The scenario of figures that need no label: rank correlation, and how often both blame one step."""
_UQ = ("auroc", "spearman")


@dataclass(frozen=True)
class Side:
    """A figure of both runs; of `AGREEMENT` only `value`, which is the difference elsewhere, first less second."""

    scenario: str
    benchmark: str | None
    domain: str | None
    behavior: str | None
    method: str
    predictor: str | None
    metric: str
    at: float | None
    first: float | None
    second: float | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    n: int
    note: str | None


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and what not.

    Attributes:
      differences: settings of stages that both ran, as `key.path: first -> second`.
      shared: trajectories that both have scores of.
      only_first, only_second: those that one alone has.
    """

    differences: list[str]
    shared: int
    only_first: int
    only_second: int
    sides: list[Side]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def compare(first: RunFolder, second: RunFolder, map_tasks: Mapper) -> Comparison:
    """Hold two evaluated runs side by side, the cells chosen beforehand.

    Seed, resamples and threshold are those of the first run's evaluation.

    Raises:
      RunFolderError: a folder without an evaluated run, or no trajectory that both scored.
    """
    settings = evaluate_settings(first)
    evaluate_settings(second)
    (counts,) = map_tasks(partial(_count, first), [second])
    shared, only_first, only_second = counts
    if not shared:
        raise RunFolderError(f"{first} and {second} share no trajectory_id: {only_first} and {only_second} apart")
    jobs: list[Callable[[], list[Side]]] = []
    for cell in _headlines(first, second, settings):
        jobs += [partial(_of_scores, first, second, settings, cell), partial(_of_blame, first, second, settings, cell)]
    sides = [side for result in map_tasks(_call, jobs) for side in result]
    return Comparison(_differences(first, second), shared, only_first, only_second, sides)


def _call(job: Callable[[], list[Side]]) -> list[Side]:
    return job()


def _differences(first: RunFolder, second: RunFolder) -> list[str]:
    """Of what decided the numbers, in the stages that both have."""
    was, now = (
        {name: record["settings"] for name, record in folder.manifest["stages"].items()} for folder in (first, second)
    )
    return [line for name in was if name in now for line in settings_of.difference(was[name], now[name], name)]


def _count(first: RunFolder, second: RunFolder) -> tuple[int, int, int]:
    ids = [folder.columns("scores", ["trajectory_id"])["trajectory_id"] for folder in (first, second)]
    shared = pc.sum(pc.is_in(ids[0], value_set=ids[1].combine_chunks())).as_py() or 0
    return shared, len(ids[0]) - shared, len(ids[1]) - shared


def _headlines(first: RunFolder, second: RunFolder, settings: Evaluate) -> list[Cell]:
    """The first cell of each method that both have."""
    orientation = {method.name: method.orientation for method in methods(settings.preset)}
    theirs = set(second.dataset("scores").schema.names)
    found: dict[str, Cell] = {}
    for name in first.dataset("scores").schema.names:
        if name.count("__") == 2 and name in theirs:
            method, token_agg, step_agg = name.split("__")
            found.setdefault(method, Cell(method, token_agg, step_agg, orientation.get(method, 1)))
    return list(found.values())


def _paired(mine: pa.Table, theirs: pa.Table, names: dict[str, str]) -> pa.Table:
    """Rows that both have, with columns of the second run under other names."""
    at = pc.index_in(column(mine, "trajectory_id"), value_set=column(theirs, "trajectory_id"))
    mine, rows = mine.filter(at.is_valid()), at.drop_null()
    for name, new in names.items():
        mine = mine.append_column(new, column(theirs, name).take(rows))
    return mine


def _agreeing(rows: pa.Table, name: str) -> tuple[pa.Table, list[str]]:
    """Rows that have a label, the same in both runs."""
    rows = rows.filter(pc.is_valid(rows[name]))
    same = rows.filter(pc.fill_null(pc.equal(rows[name], rows[f"second {name}"]), False))
    left_out = len(rows) - len(same)
    return same, [f"{left_out} trajectories whose {name} differs between the runs left out"] if left_out else []


def _tried(members: pa.Table, rated: pa.Table, settings: Evaluate) -> pa.Table:
    """Rows for best-of-N: preset `paper` counts a reward that neither run has as 0.0."""
    if settings.preset != "paper":
        return rated
    neither = pc.and_(pc.is_null(members["reward"]), pc.is_null(members["second reward"]))
    return pa.concat_tables([rated, members.filter(neither)]).sort_by("trajectory_id")


def _of_scores(first: RunFolder, second: RunFolder, settings: Evaluate, cell: Cell) -> list[Side]:
    mine = first.columns("scores", [*LABELLED, cell.column])
    theirs = second.columns("scores", ["trajectory_id", "reward", cell.column])
    table = _paired(mine, theirs, {"reward": "second reward", cell.column: "second"}).rename_columns(
        {cell.column: "first"}
    )
    table = table.filter(pc.and_(pc.is_valid(table["first"]), pc.is_valid(table["second"])))
    sides: list[Side] = []
    for group, members in by_group(table):
        if cell.method == METHOD:
            sides.append(_rank_correlation(group, members, settings))
        rated, notes = _agreeing(members, "reward")
        if len(rated):
            sides += _uncertainty(group, rated, cell, notes, settings)
            sides += _best_of_n(group, _tried(members, rated, settings), cell, notes, settings)
    return sides


def _rank_correlation(group: Group, members: pa.Table, settings: Evaluate) -> Side:
    first, second = floats(members, "first"), floats(members, "second")
    of_tasks = Labels.of(members).clusters(settings.seed)
    outcomes = Outcomes(second, second > np.median(second), of_tasks)
    estimate = replace(_of(uncertainty(first, outcomes), "spearman"), undefined="all scores are equal")
    return _agreement(group, METHOD, None, "rank_correlation", estimate)


def _of(estimates: Sequence[Estimate], metric: str) -> Estimate:
    return estimates[METRICS.index((metric, None))]


def _uncertainty(group: Group, rated: pa.Table, cell: Cell, notes: list[str], settings: Evaluate) -> Iterator[Side]:
    labels = Labels.of(rated)
    success = labels.reward >= settings.success_threshold
    outcomes = Outcomes(labels.reward, success, labels.clusters(settings.seed))
    read = [uncertainty(cell.orientation * floats(rated, name), outcomes) for name in ("first", "second")]
    for metric in _UQ:
        both = [replace(_of(of, metric), notes=tuple(notes)) for of in read]
        yield _side("uq", group, cell.method, None, metric, None, both)


def _best_of_n(group: Group, rated: pa.Table, cell: Cell, notes: list[str], settings: Evaluate) -> Iterator[Side]:
    """Success among the most shared trials that a task has."""
    rows, tried, left_out = trials(Labels.of(rated), settings)
    if tried.largest < 2:
        return
    members = rated.take(pa.array(rows))
    picks = [
        np.where(
            tried.sizes == tried.largest, tried.success[tried.picked(cell.orientation * floats(members, name))], np.nan
        )
        for name in ("first", "second")
    ]
    of_tasks = Clusters.of(tried.clusters, settings.seed)
    both = estimates_of_means(np.stack(picks, axis=1), of_tasks, [*notes, *left_out])
    yield _side("best_of_n", group, cell.method, None, "success", float(tried.largest), both)


def _of_blame(first: RunFolder, second: RunFolder, settings: Evaluate, cell: Cell) -> list[Side]:
    """FA of one method's token aggregation, and of progress advantage how often both runs blame one step."""
    wanted = ["trajectory_id", *GROUP, "task_id", "mistake_step", "step", "agent_correct", "unreachable", "predictor"]
    chosen = (pc.field("method") == cell.method) & (pc.field("token_agg") == cell.token_agg)
    tables = [folder.dataset("attributions").to_table(columns=wanted, filter=chosen) for folder in (first, second)]
    sides: list[Side] = []
    for predictor in schema.REWARD_PREDICTORS:
        mine, theirs = (table.filter(pc.equal(table["predictor"], predictor)) for table in tables)
        table = _paired(mine, theirs, {"mistake_step": "second mistake_step", "step": "second"})
        for group, members in by_group(table) if len(table) else ():
            if cell.method == METHOD:
                sides.append(_same_step(group, members, predictor, settings))
            sides += _blame(group, members, cell, predictor, settings)
    return sides


def _same_step(group: Group, members: pa.Table, predictor: str, settings: Evaluate) -> Side:
    """A trajectory in which only one run blames a step counts as not the same, one in which none does not at all."""
    first, second = floats(members, "step"), floats(members, "second")
    same = np.where(np.isnan(first) & np.isnan(second), np.nan, (first == second).astype(np.float64))
    of_tasks = Clusters.of(clusters(members), settings.seed)
    (estimate,) = estimates_of_means(same[:, None], of_tasks, [], "no step is blamed")
    return _agreement(group, METHOD, predictor, "same_step", estimate)


def _blame(group: Group, members: pa.Table, cell: Cell, predictor: str, settings: Evaluate) -> Iterator[Side]:
    labelled, notes = _agreeing(members, "mistake_step")
    if not len(labelled):
        return
    mistake = floats(labelled, "mistake_step")
    theirs = labelled.drop_columns(["step"]).rename_columns({"second": "step"})
    correct: list[Floats] = [blamed_outcomes(table, mistake, [])[:, 0] for table in (labelled, theirs)]
    of_tasks = Clusters.of(clusters(labelled), settings.seed)
    both = estimates_of_means(np.stack(correct, axis=1), of_tasks, notes)
    yield _side("fa", group, cell.method, predictor, "step_accuracy", None, both)


def _side(
    scenario: str,
    group: Group,
    method: str,
    predictor: str | None,
    metric: str,
    at: float | None,
    both: Sequence[Estimate],
) -> Side:
    apart = difference(both[0], both[1])
    figure = apart.figure(metric, at)
    first, second = (None if np.isnan(of.value) else of.value for of in both)
    interval = figure.value, figure.ci_low, figure.ci_high
    return Side(
        scenario, *group, method, predictor, metric, at, first, second, *interval, apart.p_value, figure.n, figure.note
    )


def _agreement(group: Group, method: str, predictor: str | None, metric: str, estimate: Estimate) -> Side:
    figure = estimate.figure(metric, None)
    interval = figure.value, figure.ci_low, figure.ci_high
    return Side(AGREEMENT, *group, method, predictor, metric, None, None, None, *interval, None, figure.n, figure.note)
