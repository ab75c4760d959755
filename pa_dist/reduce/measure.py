"""The tasks of the second half of a reduction: from `scores`, `attributions` and `logprobs` to rows of `metrics`.

Each task reads the keys, the labels and its own columns of a table, and returns a few figures.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.attribution import NO_LABEL, baseline_outcomes, blamed_outcomes, fa_figures, metric_names
from pa_dist.reduce.best_of_n import Trials, baselines, best_of_n
from pa_dist.reduce.choices import (
    NO_TRIAL,
    baseline,
    lacking_choices,
    mean_choices,
    mean_estimates,
    random_trial,
)
from pa_dist.reduce.comparisons import CellName, Reading
from pa_dist.reduce.groups import GROUP, LABELLED, Group, by_group, clusters, floats, trials
from pa_dist.reduce.intervals import Figure, Resampling, unlabelled
from pa_dist.reduce.methods import Cell, Lacking, Method, RewardMethod, cells, methods
from pa_dist.reduce.ragged import Floats, column
from pa_dist.reduce.uncertainty import METRICS, uncertainty
from pa_dist.run import RunFolder

_NO_REWARD = "no trajectory has a reward"
_OF_TRIALS = [("success", None), ("reward", None)]


@dataclass(frozen=True)
class Measured:
    """A row of `metrics`: where it belongs, and the figure."""

    scenario: str
    group: Group
    method: str
    token_agg: str | None
    step_agg: str | None
    predictor: str | None
    figure: Figure


@dataclass(frozen=True)
class GroupFacts:
    """What a group's labels allow."""

    group: Group
    n_trajectories: int
    n_rewards: int
    most_trials: int
    n_mistakes: int


def survey(folder: RunFolder) -> list[GroupFacts]:
    """Count each group's labels."""
    table = folder.dataset("scores").to_table(columns=LABELLED)
    return [_facts(group, rows) for group, rows in by_group(table)]


def _facts(group: Group, rows: pa.Table) -> GroupFacts:
    rewarded = rows.filter(pc.is_valid(rows["reward"]))
    per_task = pc.value_counts(rewarded["task_id"].drop_null()).field("counts")
    n_mistakes = len(rows) - rows["mistake_step"].null_count
    return GroupFacts(group, len(rows), len(rewarded), pc.max(per_task).as_py() or 0, n_mistakes)


def unmeasured(
    settings: Evaluate,
    lacking: Lacking,
    uq: Collection[Group],
    bon: Collection[Group],
    fa: Collection[Group],
) -> list[Measured | Reading]:
    """Null figures of what a run lacks, with the reason."""
    rows: list[Measured | Reading] = []
    for cell in cells(settings.preset):
        if reason := lacking.get((cell.method, cell.token_agg)):
            rows += [m for group in uq for m in _of_cell("uq", group, cell, unlabelled(METRICS, reason))]
            rows += [m for group in bon for m in _of_cell("best_of_n", group, cell, unlabelled(_OF_TRIALS, reason))]
    for method in methods(settings.preset):
        reasons = {token_agg: lacking.get((method.name, token_agg)) for token_agg in method.token_aggs}
        if all(reasons.values()):
            reason = reasons[method.token_aggs[0]] or ""
            names: list[CellName] = [(method.token_aggs[0], method.step_aggs[0], None)]
            rows += lacking_choices("uq", uq, method.name, names, reason)
            rows += lacking_choices("best_of_n", bon, method.name, names, reason)
            if method.attributes:
                rows += lacking_choices("fa", fa, method.name, blaming(method)[: len(method.predictors)], reason)
        rows += [
            Measured("fa", group, method.name, token_agg, None, predictor, figure)
            for group in fa
            for token_agg, why in reasons.items()
            if why and method.attributes
            for predictor in schema.PREDICTORS
            for figure in unlabelled(metric_names(settings.within), why)
        ]
    return rows


def score_columns(
    folder: RunFolder,
    settings: Evaluate,
    cells: Sequence[Cell],
    uq: Collection[Group],
    bon: Collection[Group],
    part: str,
) -> list[Measured]:
    """UQ and best-of-N of some columns of `scores`; writes their `selections`."""
    table = folder.dataset("scores").to_table(columns=[*LABELLED, *(cell.column for cell in cells)])
    rows: list[Measured] = []
    selections = []
    for group, members in by_group(table):
        if group in uq:
            rows += _uncertainty(group, members, cells, settings)
        if group in bon:
            taking_part, tried, notes = trials(members, settings.success_threshold)
            rows += _best_of_n(group, taking_part, tried, notes, cells, settings)
            selections += [_selections(group, taking_part, tried, cell) for cell in cells if len(taking_part)]
    if selections:
        folder.write("selections", part, pa.concat_tables(selections))
    return rows


def _uncertainty(group: Group, members: pa.Table, cells: Sequence[Cell], settings: Evaluate) -> Iterator[Measured]:
    members = members.filter(pc.is_valid(members["reward"]))
    reward = floats(members, "reward")
    success = reward >= settings.success_threshold
    resampling = Resampling(clusters(members), settings.resamples, settings.seed)
    for cell in cells:
        score = cell.orientation * floats(members, cell.column)
        figures = uncertainty(score, reward, success, resampling) if len(members) else unlabelled(METRICS, _NO_REWARD)
        yield from _of_cell("uq", group, cell, figures)


def _best_of_n(
    group: Group, members: pa.Table, tried: Trials, notes: list[str], cells: Sequence[Cell], settings: Evaluate
) -> Iterator[Measured]:
    for cell in cells:
        if len(members):
            score = cell.orientation * floats(members, cell.column)
            figures = best_of_n(score, tried, settings.resamples, settings.seed, notes)
        else:
            figures = unlabelled(_OF_TRIALS, NO_TRIAL)
        yield from _of_cell("best_of_n", group, cell, figures)


def _of_cell(scenario: str, group: Group, cell: Cell, figures: list[Figure]) -> list[Measured]:
    return [Measured(scenario, group, cell.method, cell.token_agg, cell.step_agg, None, figure) for figure in figures]


def _selections(group: Group, members: pa.Table, tried: Trials, cell: Cell) -> pa.Table:
    """Each task's pick among all its trials; none where the column is empty."""
    score = cell.orientation * floats(members, cell.column)
    if np.isnan(score).all():
        return schema.SELECTIONS.empty_table()
    picked = members.take(pa.array(tried.picked(score)))
    names = (*group, None, cell.method, cell.token_agg, cell.step_agg)
    arrays = [pa.repeat(pa.scalar(name, pa.string()), len(picked)) for name in names]
    arrays[len(group)] = column(picked, "task_id")
    arrays += [pa.array(tried.sizes, pa.int32())]
    arrays += [column(picked, name) for name in ("trajectory_id", "trial", cell.column, "reward")]
    return pa.Table.from_arrays(arrays, schema=schema.SELECTIONS)


def best_of_n_baselines(folder: RunFolder, settings: Evaluate, groups: Collection[Group]) -> list[Measured | Reading]:
    """mean@n and pass@n of each group."""
    rows: list[Measured | Reading] = []
    for group, members in by_group(folder.dataset("scores").to_table(columns=LABELLED)):
        if group in groups:
            taking_part, tried, notes = trials(members, settings.success_threshold)
            figures = (
                baselines(tried, settings.resamples, settings.seed, notes)
                if len(taking_part)
                else unlabelled([("mean", None), ("oracle", None)], NO_TRIAL)
            )
            rows += [Measured("best_of_n", group, "baseline", None, None, None, figure) for figure in figures]
            rows.append(random_trial(group, tried, notes, settings))
    return rows


def blamed_steps(
    folder: RunFolder,
    settings: Evaluate,
    method: str,
    names: Sequence[CellName],
    groups: Collection[Group],
) -> list[Measured | Reading]:
    """FA of one method's predictions, of which a token aggregation is read at a time.

    Args:
      names: of the method's cells, from `blaming`.
    """
    unread = ("trial", "fallback", "agent", "correct", "method", "token_agg")
    rows: list[Measured | Reading] = []
    predictors = list(dict.fromkeys(name[2] for name in names))
    correct: dict[Group, list[Floats]] = {}
    resampling: dict[Group, Resampling] = {}
    for token_agg in dict.fromkeys(name[0] for name in names):
        table = folder.dataset("attributions").to_table(
            columns=[name for name in schema.ATTRIBUTIONS.names if name not in unread],
            filter=(pc.field("method") == method) & (pc.field("token_agg") == token_agg),
        )
        for group, members in by_group(table):
            for predictor in predictors if group in groups else ():
                cell = _labelled(members.filter(pc.equal(members["predictor"], predictor)))
                outcomes = blamed_outcomes(cell, settings.within)
                resampling[group] = Resampling(clusters(cell), settings.resamples, settings.seed)
                figures = fa_figures(outcomes, resampling[group], settings.within)
                rows += [Measured("fa", group, method, token_agg, None, predictor, figure) for figure in figures]
                correct.setdefault(group, []).append(outcomes[:, 0])
    # Rows of a group come by trajectory_id, so they are the same ones in every cell.
    for group, columns in correct.items():
        place, of_cells = ("fa", group, method), np.stack(columns, axis=1)
        rows += mean_choices(place, names, of_cells, resampling[group], headlines=len(predictors), undefined=NO_LABEL)
    return rows


def blaming(method: Method | RewardMethod, lacking: Collection[tuple[str, str]] = ()) -> list[CellName]:
    """The cells of FA that a run does not lack; those of the token mean come first."""
    there = [token_agg for token_agg in method.token_aggs if (method.name, token_agg) not in lacking]
    return [(token_agg, None, predictor) for token_agg in there for predictor in method.predictors]


def blame_baselines(folder: RunFolder, settings: Evaluate, groups: Collection[Group]) -> list[Measured | Reading]:
    """FA of the random, first-step and last-step baselines."""
    wanted = ["trajectory_id", *GROUP, "task_id", "mistake_step", "mistake_agent", "step", "agent"]
    labelled = None if "fa" in settings.scenarios else pc.field("mistake_step").is_valid()
    datasets = folder.datasets(folder.parts("logprobs"), schema.LOGPROBS)
    table = pa.concat_tables([dataset.to_table(columns=wanted, filter=labelled) for dataset in datasets])
    rows: list[Measured | Reading] = []
    for group, members in by_group(table):
        if group in groups:
            members = _labelled(members)
            resampling = Resampling(clusters(members), settings.resamples, settings.seed)
            for name, outcomes in baseline_outcomes(members, settings.within).items():
                figures = fa_figures(outcomes, resampling, settings.within)
                rows += [Measured("fa", group, "baseline", None, None, name, figure) for figure in figures]
                (estimate,) = mean_estimates(outcomes[:, :1], resampling, [], [NO_LABEL])
                rows.append(baseline(("fa", group), name, None, estimate))
    return rows


def _labelled(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["mistake_step"]))
