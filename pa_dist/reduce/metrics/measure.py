"""The tasks of the second half of a reduction: from `scores`, `attributions` and `logprobs` to rows of `metrics`.

Each task reads the keys, the labels and its own columns of a table, and yields figures, group after group.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Floats, column, is_valid
from pa_dist.reduce.block.methods import Cell, Lacking, Method, RewardMethod, cells, methods
from pa_dist.reduce.choice.cells import NO_TRIAL, baseline, lacking_choices, mean_choices, mean_estimates, random_trial
from pa_dist.reduce.choice.differences import METHOD, CellName, Reading
from pa_dist.reduce.metrics.best_of_n import Trials, baselines, best_of_n
from pa_dist.reduce.metrics.fa import (
    NO_LABEL,
    baseline_outcomes,
    blamed_outcomes,
    fa_figures,
    metric_names,
    unreachable_labels,
)
from pa_dist.reduce.metrics.groups import GROUP, LABELLED, Group, by_group, clusters, floats, trials
from pa_dist.reduce.metrics.intervals import Figure, Resampling, unlabelled
from pa_dist.reduce.metrics.slices import MetricRow
from pa_dist.reduce.metrics.survey import SCENARIOS, Slicing
from pa_dist.reduce.metrics.uq import METRICS, uncertainty
from pa_dist.store.folder import RunFolder

_NO_REWARD = "no trajectory has a reward"
_OF_TRIALS = [("success", None), ("reward", None)]


def unmeasured(settings: Evaluate, lacking: Lacking, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """Null figures of what a run lacks, with the reason."""
    uq, bon, fa = (plan.planned[name] for name in SCENARIOS)
    for group in plan.slices if lacking else ():
        for cell in cells(settings.preset):
            if reason := lacking.get((cell.method, cell.token_agg)):
                if group in uq:
                    yield from _of_cell("uq", group, cell, unlabelled(METRICS, reason))
                if group in bon:
                    yield from _of_cell("best_of_n", group, cell, unlabelled(_OF_TRIALS, reason))
        for method in methods(settings.preset):
            names = [(method.name, token_agg) for token_agg in method.token_aggs]
            reasons = {token_agg: lacking[name, token_agg] for name, token_agg in names if (name, token_agg) in lacking}
            if len(reasons) == len(names):
                cell_name: list[CellName] = [(method.token_aggs[0], method.step_aggs[0], None)]
                for scenario in (name for name in ("uq", "best_of_n") if group in plan.planned[name]):
                    yield from lacking_choices(scenario, group, method.name, cell_name, reasons[method.token_aggs[0]])
            if method.attributes and group in fa:
                yield from _lacking_blame(settings, group, method, reasons)


def _lacking_blame(
    settings: Evaluate, group: Group, method: Method, reasons: Mapping[str, str]
) -> Iterator[MetricRow | Reading]:
    """The same of failure attribution; `reasons` by token aggregation."""
    if len(reasons) == len(method.token_aggs):
        names = blaming(method)[: len(method.predictors)]
        yield from lacking_choices("fa", group, method.name, names, reasons[method.token_aggs[0]])
    for token_agg, reason in reasons.items():
        for predictor in schema.PREDICTORS:
            for figure in unlabelled(metric_names(settings.within), reason):
                yield MetricRow("fa", group, method.name, token_agg, None, predictor, figure)


def score_columns(
    folder: RunFolder, settings: Evaluate, cells: Sequence[Cell], part: str, plan: Slicing
) -> Iterator[MetricRow]:
    """UQ and best-of-N of some columns of `scores`; writes their `selections`."""
    table = folder.dataset("scores").to_table(columns=[*LABELLED, *(cell.column for cell in cells)])
    selections = []
    for group, members in by_group(table):
        if group in plan.planned["uq"]:
            yield from _uncertainty(group, members, cells, settings)
        if group in plan.planned["best_of_n"]:
            taking_part, tried, notes = trials(members, settings)
            yield from _best_of_n(group, taking_part, tried, notes, cells, settings)
            selections += [_selections(group, taking_part, tried, cell) for cell in cells if len(taking_part)]
    if selections:
        folder.write("selections", part, pa.concat_tables(selections))


def _uncertainty(group: Group, members: pa.Table, cells: Sequence[Cell], settings: Evaluate) -> Iterator[MetricRow]:
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
) -> Iterator[MetricRow]:
    for cell in cells:
        if len(members):
            score = cell.orientation * floats(members, cell.column)
            figures = best_of_n(score, tried, settings.resamples, settings.seed, notes)
        else:
            figures = unlabelled(_OF_TRIALS, NO_TRIAL)
        yield from _of_cell("best_of_n", group, cell, figures)


def _of_cell(scenario: str, group: Group, cell: Cell, figures: list[Figure]) -> list[MetricRow]:
    return [MetricRow(scenario, group, cell.method, cell.token_agg, cell.step_agg, None, figure) for figure in figures]


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


def best_of_n_baselines(folder: RunFolder, settings: Evaluate, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """mean@n and pass@n of each group."""
    for group, members in by_group(folder.dataset("scores").to_table(columns=LABELLED)):
        if group in plan.planned["best_of_n"]:
            taking_part, tried, notes = trials(members, settings)
            figures = (
                baselines(tried, settings.resamples, settings.seed, notes)
                if len(taking_part)
                else unlabelled([("mean", None), ("oracle", None)], NO_TRIAL)
            )
            for figure in figures:
                yield MetricRow("best_of_n", group, "baseline", None, None, None, figure)
            yield random_trial(group, tried, notes, settings)


def blamed_steps(
    folder: RunFolder, settings: Evaluate, method: str, names: Sequence[CellName], plan: Slicing
) -> Iterator[MetricRow | Reading]:
    """FA of one method's predictions, of which a token aggregation is read at a time; then its choices.

    Args:
      names: of the method's cells, from `blaming`.
      plan: says which groups.
    """
    unread = ("trial", "fallback", "agent", "correct", "method", "token_agg")
    predictors = list(dict.fromkeys(name[2] for name in names))
    correct: dict[Group, list[Floats]] = {}
    resampling: dict[Group, Resampling] = {}
    said: dict[Group, str] = {}
    for token_agg in dict.fromkeys(name[0] for name in names):
        table = folder.dataset("attributions").to_table(
            columns=[name for name in schema.ATTRIBUTIONS.names if name not in unread],
            filter=(pc.field("method") == method) & (pc.field("token_agg") == token_agg),
        )
        for group, members in by_group(table):
            for predictor in predictors if group in plan.planned["fa"] else ():
                cell = _labelled(members.filter(pc.equal(members["predictor"], predictor)))
                outcomes = blamed_outcomes(cell, settings.within)
                resampling[group] = Resampling(clusters(cell), settings.resamples, settings.seed)
                unreachable = unreachable_labels(cell["unreachable"], len(cell))
                # Preset `paper` counts a step without tokens as 0.0, which may be the one to blame.
                certain = unreachable and settings.preset != "paper"
                said[group] = f"{unreachable}: they count as misses" if certain else unreachable
                for figure in fa_figures(outcomes, resampling[group], settings.within, unreachable, said[group]):
                    yield MetricRow("fa", group, method, token_agg, None, predictor, figure)
                correct.setdefault(group, []).append(outcomes[:, 0])
    # Rows of a group come by trajectory_id, so they are the same ones in every cell.
    for group, columns in correct.items():
        yield from mean_choices(
            ("fa", group, method),
            names,
            np.stack(columns, axis=1),
            resampling[group],
            headlines=len(predictors),
            undefined=NO_LABEL,
            notes=[said[group]] if said[group] else [],
        )


def blaming(method: Method | RewardMethod, lacking: Collection[tuple[str, str]] = ()) -> list[CellName]:
    """The cells of FA that a run does not lack; those of the token mean come first."""
    there = [token_agg for token_agg in method.token_aggs if (method.name, token_agg) not in lacking]
    return [(token_agg, None, predictor) for token_agg in there for predictor in method.predictors]


def blame_baselines(folder: RunFolder, settings: Evaluate, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """FA of the random, first-step and last-step baselines. The labels that they can hit are progress advantage's."""
    wanted = ["trajectory_id", *GROUP, "task_id", "mistake_step", "mistake_agent", "step", "agent"]
    labelled = None if "fa" in settings.scenarios else pc.field("mistake_step").is_valid()
    datasets = folder.datasets(folder.parts("logprobs"), schema.LOGPROBS)
    table = pa.concat_tables([dataset.to_table(columns=wanted, filter=labelled) for dataset in datasets])
    one_cell = (pc.field("method") == METHOD) & (pc.field("token_agg") == schema.TOKEN_AGGS[0])
    blamed = folder.dataset("attributions").to_table(
        columns=["trajectory_id", "unreachable"], filter=one_cell & (pc.field("predictor") == schema.PREDICTORS[0])
    )
    at = pc.index_in(table["trajectory_id"], value_set=column(blamed, "trajectory_id"))
    table = table.append_column("unreachable", column(blamed, "unreachable").take(at))
    for group, members in by_group(table):
        if group in plan.planned["fa"]:
            members = _labelled(members)
            resampling = Resampling(clusters(members), settings.resamples, settings.seed)
            reachable = ~is_valid(column(members, "unreachable"))
            said = unreachable_labels(members["unreachable"], len(members))
            for name, outcomes in baseline_outcomes(members, settings.within, reachable).items():
                for figure in fa_figures(outcomes, resampling, settings.within, said, said):
                    yield MetricRow("fa", group, "baseline", None, None, name, figure)
                (estimate,) = mean_estimates(outcomes[:, :1], resampling, [], [NO_LABEL])
                yield baseline(("fa", group), name, None, estimate)


def _labelled(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_valid(table["mistake_step"]))
