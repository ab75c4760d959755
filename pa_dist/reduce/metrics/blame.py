"""The tasks of failure attribution and labelled steps: from `attributions` and `logprobs` to rows of `metrics`.

Each reads the labels and what one method blames, and yields figures, group after group.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Bools, Floats, Ints, column, is_valid
from pa_dist.reduce.block.methods import Method, RewardMethod
from pa_dist.reduce.block.step_labels import first_wrong
from pa_dist.reduce.choice.cells import (
    baseline,
    lacking_choices,
    mean_choices,
)
from pa_dist.reduce.choice.differences import METHOD, CellName, Reading
from pa_dist.reduce.labels import LaterLabels
from pa_dist.reduce.metrics.fa import (
    BASELINES,
    FIRST_ERROR,
    NO_LABEL,
    baseline_outcomes,
    blamed_outcomes,
    fa_estimates,
    first_error_outcomes,
    metric_names,
    unreachable_labels,
)
from pa_dist.reduce.metrics.groups import Group, Labels
from pa_dist.reduce.metrics.intervals import Figure, estimates_of_means, unlabelled
from pa_dist.reduce.metrics.labelled_steps import StepReader, step_estimates
from pa_dist.reduce.metrics.labelled_steps import metric_names as step_metric_names
from pa_dist.reduce.metrics.labels import blamed_places, kept_labels, read_blame
from pa_dist.reduce.metrics.slices import MetricRow, figures_of
from pa_dist.reduce.metrics.survey import STEPS, Slicing
from pa_dist.store.folder import RunFolder


@dataclass(frozen=True)
class _Blamed:
    """The rows that take part in failure attribution, group after group."""

    settings: Evaluate
    labels: Labels
    taking_part: Bools
    places: Ints

    @staticmethod
    def read(folder: RunFolder, settings: Evaluate) -> "_Blamed":
        place, labels = kept_labels(folder)
        labelled = ~np.isnan(labels.any_mistake)
        taking_part = np.ones_like(labelled) if "fa" in settings.scenarios else labelled
        return _Blamed(settings, labels.some(taking_part), taking_part, blamed_places(place, taking_part))

    def cell(self, folder: RunFolder, method: str, token_agg: str, predictors: Sequence[str]) -> dict[str, pa.Table]:
        """What a cell's predictors blame in these rows."""
        labelled = "fa" not in self.settings.scenarios
        return read_blame(folder, method, token_agg, predictors, self.places, labelled=labelled)

    def groups(self, plan: Slicing) -> Iterator[tuple[Group, Ints, Labels]]:
        """Of each group the rows that are labelled, among those that take part, and their labels."""
        return self._having(self.labels.mistake, plan)

    def with_wrong_steps(self, plan: Slicing) -> list[tuple[Group, Ints, Labels]]:
        """The same of those that have a step labelled wrong, in groups of such."""
        return [of for of in self._having(self.labels.first_wrong, plan) if len(of[1])]

    def _having(self, label: Floats, plan: Slicing) -> Iterator[tuple[Group, Ints, Labels]]:
        before = np.concatenate([[0], np.cumsum(self.taking_part)])
        for group, rows in plan.of("fa"):
            here = np.arange(before[rows.start], before[rows.stop])
            here = here[~np.isnan(label[here])]
            yield group, here, self.labels.some(here)


def fa_of_method(
    folder: RunFolder, settings: Evaluate, method: str, names: Sequence[CellName], plan: Slicing
) -> Iterator[MetricRow | Reading]:
    """FA of one method's predictions, of which a token aggregation is read at a time; then its choices.

    Args:
      names: of the method's cells, from `blaming`.
      plan: says which groups.
    """
    blamed = _Blamed.read(folder, settings)
    groups, with_wrong_steps = list(blamed.groups(plan)), blamed.with_wrong_steps(plan)
    predictors = [name for name in dict.fromkeys(name[2] for name in names) if name]
    # Of each cell a row, filled as they come: of a million trajectories a list of them and its copy were the most held.
    correct = {group: np.empty((len(names), len(labels))) for group, _, labels in groups}
    place = {name: k for k, name in enumerate(names)}
    said: dict[Group, str] = {}
    for token_agg in filter(None, dict.fromkeys(name[0] for name in names)):
        tables = blamed.cell(folder, method, token_agg, predictors)
        for group, rows, labels in groups:
            clusters = labels.clusters(settings.seed)
            for predictor in predictors:
                cell = tables[predictor].take(pa.array(rows))
                outcomes = blamed_outcomes(cell, labels.mistake, settings.within)
                unreachable = unreachable_labels(cell["unreachable"], len(cell))
                # Preset `paper` counts a step without tokens as 0.0, which may be the one to blame.
                certain = unreachable and settings.preset != "paper"
                said[group] = f"{unreachable}: they count as misses" if certain else unreachable
                estimates = fa_estimates(outcomes, clusters, unreachable, said[group])
                headline = token_agg == names[0][0]
                for figure in figures_of(metric_names(settings.within), estimates, settings, headline=headline):
                    yield MetricRow("fa", group, method, token_agg, None, predictor, figure)
                correct[group][place[token_agg, None, predictor]] = outcomes[:, 0]
        for group, rows, labels in with_wrong_steps:
            for predictor in predictors:
                outcomes = first_error_outcomes(tables[predictor].take(pa.array(rows)), labels.first_wrong)
                estimates = estimates_of_means(outcomes, labels.clusters(settings.seed))
                for figure in figures_of(FIRST_ERROR, estimates, settings, headline=token_agg == names[0][0]):
                    yield MetricRow("fa", group, method, token_agg, None, predictor, figure)
    for group, _, labels in groups:
        yield from mean_choices(
            ("fa", group, method),
            names,
            correct[group].T,
            labels.clusters(settings.seed),
            settings,
            headlines=len(predictors),
            undefined=NO_LABEL,
            notes=[said[group]] if said[group] else [],
        )


def blaming(method: Method | RewardMethod, lacking: Collection[tuple[str, str]] = ()) -> list[CellName]:
    """The cells of FA that a run does not lack; those of the token mean come first."""
    there = [token_agg for token_agg in method.token_aggs if (method.name, token_agg) not in lacking]
    return [(token_agg, None, predictor) for token_agg in there for predictor in method.predictors]


def fa_baselines(folder: RunFolder, settings: Evaluate, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """FA of the random, first-step and last-step baselines. The labels that they can hit are progress advantage's."""
    blamed = _Blamed.read(folder, settings)
    cell = blamed.cell(folder, METHOD, schema.TOKEN_AGGS[0], schema.PREDICTORS[:1])
    unreachable = cell[schema.PREDICTORS[0]]["unreachable"]
    in_table = np.empty(len(blamed.places), np.bool_)
    in_table[blamed.places] = ~is_valid(unreachable.combine_chunks())
    every = {name: of[blamed.places] for name, of in _baseline_outcomes(folder, settings, in_table).items()}
    for group, rows, labels in blamed.groups(plan):
        clusters = labels.clusters(settings.seed)
        said = unreachable_labels(unreachable.take(pa.array(rows)), len(rows))
        for name, of_all in every.items():
            estimates = fa_estimates(of_all[rows, :-1], clusters, said, said)
            for figure in figures_of(metric_names(settings.within), estimates, settings, headline=True):
                yield MetricRow("fa", group, "baseline", None, None, name, figure)
            (estimate,) = estimates_of_means(of_all[rows, :1], clusters, [], NO_LABEL)
            yield baseline(("fa", group), name, None, estimate)
    for group, rows, labels in blamed.with_wrong_steps(plan):
        for name, of_all in every.items():
            estimates = estimates_of_means(of_all[rows, -1:], labels.clusters(settings.seed))
            for figure in figures_of(FIRST_ERROR, estimates, settings, headline=True):
                yield MetricRow("fa", group, "baseline", None, None, name, figure)


def _baseline_outcomes(folder: RunFolder, settings: Evaluate, reachable: Bools) -> dict[str, Floats]:
    """Outcome matrices of the baselines over the trajectories that take part in failure attribution, a file of
    `logprobs` at a time. Their last column is of the first step that is labelled wrong.

    Args:
      reachable: of these rows.
    """
    wanted = ["trajectory_id", "mistake_step", "mistake_agent", "step_labels", "step", "agent"]
    labelled, later = pc.field("mistake_step").is_valid() | pc.field("step_labels").is_valid(), LaterLabels(folder)
    chosen = None if later or "fa" in settings.scenarios else labelled
    found: dict[str, list[Floats]] = {}
    start = 0
    for dataset in folder.datasets(folder.parts("logprobs"), schema.LOGPROBS):
        for batch in dataset.to_batches(columns=wanted, filter=chosen):
            table = later.onto(pa.Table.from_batches([batch]))
            wrong = first_wrong(column(table, "step_labels"))
            if "fa" not in settings.scenarios:
                taking_part = is_valid(column(table, "mistake_step")) | (wrong >= 0)
                table, wrong = table.filter(pa.array(taking_part)), wrong[taking_part]
            here = slice(start, start := start + len(table))
            for name, of in baseline_outcomes(table, settings.within, reachable[here]).items():
                found.setdefault(name, []).append(of)
            for name, of in _of_first_wrong(table, wrong).items():
                found[name][-1] = np.concatenate([found[name][-1], of], axis=1)
    width = len(metric_names(settings.within)) + 1
    return {name: np.concatenate([np.empty((0, width)), *found.get(name, [])]) for name in BASELINES}


def _of_first_wrong(table: pa.Table, wrong: Ints) -> dict[str, Floats]:
    """Whether baselines blame the first wrong step, [rows, 1] each."""
    at = table.schema.get_field_index("mistake_step")
    labelled = table.set_column(at, "mistake_step", pa.array(wrong, pa.int32(), mask=wrong < 0))
    return {name: of[:, :1] for name, of in baseline_outcomes(labelled, [], wrong >= 0).items()}


def steps_of_method(
    folder: RunFolder, settings: Evaluate, method: str, token_aggs: Sequence[str], plan: Slicing
) -> Iterator[MetricRow]:
    """Figures of labelled steps by one method, of which a token aggregation is read at a time."""
    place, labels = kept_labels(folder)
    reader = StepReader(folder, place, labels)
    for token_agg in token_aggs:
        values = reader.values(f"{method}__{token_agg}")
        for group, rows in plan.of(STEPS):
            here, pair = reader.steps.of(rows), labels.pair[rows]
            first = reader.steps.starts[rows.start]
            clusters = labels.some(rows).clusters(settings.seed)
            estimates = step_estimates(values[first : first + len(here)], here, pair, clusters, settings.lowest)
            names = step_metric_names(settings.lowest, pairs=bool((pair >= 0).any()))
            figures = figures_of(names, estimates, settings, headline=token_agg == token_aggs[0])
            yield from of_steps(group, method, token_agg, figures)


def of_steps(group: Group, method: str, token_agg: str, figures: list[Figure]) -> Iterator[MetricRow]:
    return (MetricRow("fa", group, method, token_agg, None, None, figure) for figure in figures)


def lacking_blame(
    settings: Evaluate, group: Group, method: Method, reasons: Mapping[str, str]
) -> Iterator[MetricRow | Reading]:
    """Null figures of what failure attribution lacks of a method; `reasons` by token aggregation."""
    if len(reasons) == len(method.token_aggs):
        names = blaming(method)[: len(method.predictors)]
        yield from lacking_choices("fa", group, method.name, names, reasons[method.token_aggs[0]])
    for token_agg, reason in reasons.items():
        for predictor in schema.PREDICTORS:
            for figure in unlabelled(metric_names(settings.within), reason):
                yield MetricRow("fa", group, method.name, token_agg, None, predictor, figure)
