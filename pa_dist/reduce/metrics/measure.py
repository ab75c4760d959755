"""The tasks of the second half of a reduction: from `scores`, `attributions` and `logprobs` to rows of `metrics`.

Each task reads the labels and the columns of one method, and yields figures, group after group.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Bools, Floats, Ints, column, is_valid
from pa_dist.reduce.block.methods import Cell, Lacking, Method, More, RewardMethod, cells, own_methods
from pa_dist.reduce.block.step_labels import first_wrong
from pa_dist.reduce.choice.cells import (
    NO_TRIAL,
    baseline,
    bon_choices,
    lacking_choices,
    mean_choices,
    picked,
    random_trial,
    uq_choices,
)
from pa_dist.reduce.choice.differences import METHOD, CellName, Reading
from pa_dist.reduce.labels import LaterLabels
from pa_dist.reduce.metrics import beyond_length
from pa_dist.reduce.metrics.answers import kept_answers
from pa_dist.reduce.metrics.best_of_n import Named, Trials, baselines, best_of_n, tokens_spent
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
from pa_dist.reduce.metrics.groups import Group, Labels, candidates, trials
from pa_dist.reduce.metrics.intervals import Clusters, Estimate, Figure, estimates_of_means, unlabelled
from pa_dist.reduce.metrics.labelled_steps import StepReader, step_estimates
from pa_dist.reduce.metrics.labelled_steps import metric_names as step_metric_names
from pa_dist.reduce.metrics.labels import blamed_places, kept_labels, read_blame, read_scores
from pa_dist.reduce.metrics.selections import Selections, selecting
from pa_dist.reduce.metrics.slices import MetricRow
from pa_dist.reduce.metrics.survey import STEPS, Slicing
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty
from pa_dist.reduce.metrics.votes import votes
from pa_dist.store.folder import RunFolder

_NO_REWARD = "no trajectory has a reward"
_NOT_ASKED = "no interval: evaluate.intervals is headlines"
# Scores that a task of best-of-N holds at a time.
_SCORES_HELD = 8_000_000
_OF_TRIALS = [("success", None), ("reward", None)]


def unmeasured(settings: Evaluate, lacking: Lacking, more: More, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """Null figures of what a run lacks, with the reason."""
    uq, bon, fa = (plan.planned[name] for name in ("uq", "best_of_n", "fa"))
    for group in plan.slices if lacking else ():
        for cell in cells(settings.preset, more):
            if reason := lacking.get((cell.method, cell.token_agg)):
                if group in uq:
                    yield from _of_cell("uq", group, cell, unlabelled(METRICS, reason))
                if group in bon:
                    yield from _of_cell("best_of_n", group, cell, unlabelled(_OF_TRIALS, reason))
        for method in own_methods(settings.preset, more):
            names = [(method.name, token_agg) for token_agg in method.token_aggs]
            reasons = {token_agg: lacking[name, token_agg] for name, token_agg in names if (name, token_agg) in lacking}
            first = method.token_aggs[0], method.step_aggs[0]
            if group in uq and first[0] in reasons:
                cell = Cell(method.name, *first, method.orientation)
                yield from _of_cell("uq", group, cell, unlabelled([(beyond_length.METRIC, None)], reasons[first[0]]))
            if len(reasons) == len(names):
                cell_name: list[CellName] = [(*first, None)]
                for scenario in (name for name in ("uq", "best_of_n") if group in plan.planned[name]):
                    yield from lacking_choices(scenario, group, method.name, cell_name, reasons[method.token_aggs[0]])
            if method.attributes and group in fa:
                yield from _lacking_blame(settings, group, method, reasons)
            if method.attributes and group in plan.planned[STEPS]:
                for token_agg, reason in reasons.items():
                    figures = unlabelled(step_metric_names(settings.lowest, pairs=False), reason)
                    yield from _of_steps(group, method.name, token_agg, figures)


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


def _figures(
    names: Sequence[tuple[str, float | None]], estimates: Sequence[Estimate], settings: Evaluate, *, headline: bool
) -> list[Figure]:
    wanted = settings.intervals == "all" or (headline and settings.intervals == "headlines")
    said = [_NOT_ASKED] if settings.intervals == "headlines" and not headline else []
    return [of.figure(*name, *said, intervals=wanted) for name, of in zip(names, estimates, strict=True)]


def _of_cell(scenario: str, group: Group, cell: Cell, figures: list[Figure]) -> list[MetricRow]:
    return [MetricRow(scenario, group, cell.method, cell.token_agg, cell.step_agg, None, figure) for figure in figures]


@dataclass(frozen=True)
class _Scored:
    """Columns of `scores` in the order of labels, each so that higher is better."""

    place: Ints
    labels: Labels
    cells: Sequence[Cell]
    scores: Floats

    @staticmethod
    def read(folder: RunFolder, cells: Sequence[Cell]) -> "_Scored":
        place, labels = kept_labels(folder)
        scores = read_scores(folder, [cell.column for cell in cells], place)
        scores *= np.array([[cell.orientation] for cell in cells])
        return _Scored(place, labels, cells, scores)


def uq_of_method(
    folder: RunFolder, settings: Evaluate, cells: Sequence[Cell], others: Sequence[Cell], plan: Slicing
) -> Iterator[MetricRow | Reading]:
    """UQ of each of a method's cells, and of the choice among them.

    Args:
      cells: all of the method's, the one chosen beforehand first; the task holds a column of each.
      others: one cell of each method whose figures will be held against this one's.
      plan: says which groups.
    """
    scored = _Scored.read(folder, [*cells, *others])
    (n_steps,) = read_scores(folder, ["n_steps"], scored.place)
    for group, rows in plan.of("uq"):
        labels, scores, length = scored.labels.some(rows), scored.scores[:, rows], n_steps[rows]
        rated = ~np.isnan(labels.reward)
        if not rated.all():
            labels, scores, length = labels.some(rated), scores[:, rated], length[rated]
        success = labels.reward >= settings.success_threshold
        outcomes = Outcomes(labels.reward, success, labels.clusters(settings.seed))
        for k, cell in enumerate(cells):
            if len(labels):
                figures = _figures(METRICS, uncertainty(scores[k], outcomes), settings, headline=not k)
            else:
                figures = unlabelled(METRICS, _NO_REWARD)
            yield from _of_cell("uq", group, cell, figures)
        beyond = beyond_length.METRIC, None
        figures = unlabelled([beyond], _NO_REWARD)
        if len(labels):
            estimate = beyond_length.beyond_length(scores[0], length, outcomes)
            figures = _figures([beyond], [estimate], settings, headline=True)
        yield from _of_cell("uq", group, cells[0], figures)
        theirs = {cell.method: score for cell, score in zip(others, scores[len(cells) :], strict=True)}
        yield from uq_choices(group, cells, scores[: len(cells)], outcomes, theirs, settings)


def uq_baselines(folder: RunFolder, settings: Evaluate, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """What needs no score: AUPRC of any order is the share of successes, and who always names the commoner outcome is
    right in the share `majority`."""
    _, every = kept_labels(folder)
    for group, rows in plan.of("uq"):
        labels = every.some(rows)
        labels = labels.some(~np.isnan(labels.reward))
        success = (labels.reward >= settings.success_threshold).astype(np.float64)
        commoner = success if success.sum() * 2 >= len(success) else 1 - success
        values = np.stack([success, commoner], axis=1)
        estimates = estimates_of_means(values, labels.clusters(settings.seed), undefined=_NO_REWARD)
        for figure in _figures([("auprc", None), ("majority", None)], estimates, settings, headline=True):
            yield MetricRow("uq", group, "baseline", None, None, None, figure)


def bon_of_method(
    folder: RunFolder, settings: Evaluate, cells: Sequence[Cell], part: str, plan: Slicing
) -> Iterator[MetricRow | Reading]:
    """Best-of-N of a method's cells, some at a time, and of the choice among them; writes their `selections`."""
    place, labels = kept_labels(folder)
    answers = kept_answers(folder, place)
    groups = [_Tried.of(group, rows, place, labels, answers, settings) for group, rows in plan.of("best_of_n")]
    at_a_time = max(1, _SCORES_HELD // max(len(place), 1))
    with selecting(folder, part) as selections:
        for start in range(0, len(cells), at_a_time):
            some = cells[start : start + at_a_time]
            scored = _Scored.read(folder, some)
            for tried in groups:
                for k, cell in enumerate(some):
                    score = scored.scores[k, tried.rows]
                    tried.select(cell, score, selections)
                    yield from tried.measured(cell, score, settings, headline=not start + k)
    for tried in groups:
        yield from bon_choices(tried.group, cells, tried.picks, tried.trials, tried.clusters, tried.notes, settings)


@dataclass(frozen=True)
class _Tried:
    """A group's trials.

    Attributes:
      rows: of the group, among all.
      place, labels: of all its trials, of which `chosen_from` are a task's, and `candidates` the same as arrays.
      rated, trials: those that have rewards, and the same as arrays.
      answers: of these; null where none has one.
      picks: of each cell so far.
    """

    group: Group
    rows: slice
    place: Ints
    labels: Labels
    chosen_from: Ints
    candidates: Trials
    rated: Ints
    trials: Trials
    clusters: Clusters
    answers: Ints | None
    notes: list[str]
    picks: list[Floats]

    @staticmethod
    def of(
        group: Group, rows: slice, place: Ints, labels: Labels, answers: Ints | None, settings: Evaluate
    ) -> "_Tried":
        labels, place = labels.some(rows), place[rows]
        chosen_from, among = candidates(labels, settings)
        rated, tried, notes = trials(labels, settings)
        clusters = Clusters.of(tried.clusters, settings.seed)
        labels, place, answer = labels.some(chosen_from), place[chosen_from], _answers(answers, rows, rated)
        return _Tried(group, rows, place, labels, chosen_from, among, rated, tried, clusters, answer, notes, [])

    def select(self, cell: Cell, score: Floats, selections: Selections) -> None:
        """Add what a cell chooses among all of a task's trials; `score` is of the group's rows."""
        selections.add(self.group, cell, self.labels, self.place, self.candidates, score[self.chosen_from])

    def measured(self, cell: Cell, score: Floats, settings: Evaluate, *, headline: bool) -> list[MetricRow]:
        """A cell's figures, of the trials that have rewards; remembers what it picks."""
        score = score[self.rated]
        self.picks.append(picked(self.trials, score))
        figures = unlabelled(_OF_TRIALS, NO_TRIAL)
        if len(self.rated):
            figures = _named(best_of_n(score, self.trials, self.clusters, self.notes), settings, headline=headline)
        if headline and self.answers is not None:
            voted = votes(score, self.answers, self.trials, self.clusters, self.notes)
            figures += _named(voted, settings, headline=True)
        return _of_cell("best_of_n", self.group, cell, figures)


def _answers(answers: Ints | None, rows: slice, rated: Ints) -> Ints | None:
    """Those of a group's trials; null where none has one."""
    found = None if answers is None else answers[rows][rated]
    return found if found is not None and (found >= 0).any() else None


def _named(found: Named, settings: Evaluate, *, headline: bool) -> list[Figure]:
    return _figures([of[:2] for of in found], [of[2] for of in found], settings, headline=headline)


def bon_baselines(folder: RunFolder, settings: Evaluate, plan: Slicing) -> Iterator[MetricRow | Reading]:
    """mean@n, pass@n, the vote of equal ballots and the tokens of n trials, of each group."""
    place, every = kept_labels(folder)
    answers, (tokens,) = kept_answers(folder, place), read_scores(folder, ["n_tokens"], place)
    cut = (folder.manifest["stages"].get("score", {}).get("truncated") or {}).get("trajectories")
    uncounted = [f"without what truncation cut from {cut} trajectories of the run"] if cut else []
    for group, rows in plan.of("best_of_n"):
        labels = every.some(rows)
        rated, tried, notes = trials(labels, settings)
        clusters = Clusters.of(tried.clusters, settings.seed)
        if len(rated):
            figures = _named(baselines(tried, clusters, notes), settings, headline=True)
        else:
            figures = unlabelled([("mean", None), ("oracle", None)], NO_TRIAL)
        if (answer := _answers(answers, rows, rated)) is not None:
            figures += _named(votes(None, answer, tried, clusters, notes), settings, headline=True)
        elif settings.answers == "last_message":
            figures += unlabelled([("vote", None)], "no trial with a reward ends in a message of the assistant")
        figures += _named(_tokens(labels, tokens[rows], uncounted, settings), settings, headline=True)
        for figure in figures:
            yield MetricRow("best_of_n", group, "baseline", None, None, None, figure)
        yield random_trial(group, tried, clusters, notes)


def _tokens(labels: Labels, tokens: Floats, uncounted: list[str], settings: Evaluate) -> Named:
    """What n trials take: of those that the figures beside it are of, or, where none has a reward, of all."""
    taken, tried, notes = trials(labels, settings)
    if not len(taken):
        taken, tried = candidates(labels, settings)
        notes = ["of all trials: none has a reward"]
    clusters = Clusters.of(tried.clusters, settings.seed)
    return tokens_spent(tokens[taken], tried, clusters, [*notes, *uncounted])


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
                for figure in _figures(metric_names(settings.within), estimates, settings, headline=headline):
                    yield MetricRow("fa", group, method, token_agg, None, predictor, figure)
                correct[group][place[token_agg, None, predictor]] = outcomes[:, 0]
        for group, rows, labels in with_wrong_steps:
            for predictor in predictors:
                outcomes = first_error_outcomes(tables[predictor].take(pa.array(rows)), labels.first_wrong)
                estimates = estimates_of_means(outcomes, labels.clusters(settings.seed))
                for figure in _figures(FIRST_ERROR, estimates, settings, headline=token_agg == names[0][0]):
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
            for figure in _figures(metric_names(settings.within), estimates, settings, headline=True):
                yield MetricRow("fa", group, "baseline", None, None, name, figure)
            (estimate,) = estimates_of_means(of_all[rows, :1], clusters, [], NO_LABEL)
            yield baseline(("fa", group), name, None, estimate)
    for group, rows, labels in blamed.with_wrong_steps(plan):
        for name, of_all in every.items():
            estimates = estimates_of_means(of_all[rows, -1:], labels.clusters(settings.seed))
            for figure in _figures(FIRST_ERROR, estimates, settings, headline=True):
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
            figures = _figures(names, estimates, settings, headline=token_agg == token_aggs[0])
            yield from _of_steps(group, method, token_agg, figures)


def _of_steps(group: Group, method: str, token_agg: str, figures: list[Figure]) -> Iterator[MetricRow]:
    return (MetricRow("fa", group, method, token_agg, None, None, figure) for figure in figures)
