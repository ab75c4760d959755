"""The tasks of the second half of a reduction: from `scores`, `attributions` and `logprobs` to rows of `metrics`.

Each task reads the labels and the columns of one method, and yields figures, group after group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pa_dist.config import Evaluate
from pa_dist.ragged import Floats, Ints
from pa_dist.reduce.block.methods import Cell, Lacking, More, cells, own_methods
from pa_dist.reduce.choice.cells import (
    NO_TRIAL,
    bon_choices,
    lacking_choices,
    picked,
    random_trial,
    uq_choices,
)
from pa_dist.reduce.choice.differences import CellName, Reading
from pa_dist.reduce.metrics import beyond_length
from pa_dist.reduce.metrics.answers import kept_answers
from pa_dist.reduce.metrics.best_of_n import Named, Trials, baselines, best_of_n, tokens_spent
from pa_dist.reduce.metrics.blame import lacking_blame, of_steps
from pa_dist.reduce.metrics.groups import Group, Labels, candidates, trials
from pa_dist.reduce.metrics.intervals import Clusters, Figure, estimates_of_means, unlabelled
from pa_dist.reduce.metrics.labelled_steps import metric_names as step_metric_names
from pa_dist.reduce.metrics.labels import kept_labels, read_scores
from pa_dist.reduce.metrics.selections import Selections, selecting
from pa_dist.reduce.metrics.slices import MetricRow, figures_of
from pa_dist.reduce.metrics.survey import STEPS, Slicing
from pa_dist.reduce.metrics.uq import METRICS, Outcomes, uncertainty
from pa_dist.reduce.metrics.votes import votes
from pa_dist.store.folder import RunFolder

_NO_REWARD = "no trajectory has a reward"
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
                yield from lacking_blame(settings, group, method, reasons)
            if method.attributes and group in plan.planned[STEPS]:
                for token_agg, reason in reasons.items():
                    figures = unlabelled(step_metric_names(settings.lowest, pairs=False), reason)
                    yield from of_steps(group, method.name, token_agg, figures)


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
                figures = figures_of(METRICS, uncertainty(scores[k], outcomes), settings, headline=not k)
            else:
                figures = unlabelled(METRICS, _NO_REWARD)
            yield from _of_cell("uq", group, cell, figures)
        beyond = beyond_length.METRIC, None
        figures = unlabelled([beyond], _NO_REWARD)
        if len(labels):
            estimate = beyond_length.beyond_length(scores[0], length, outcomes)
            figures = figures_of([beyond], [estimate], settings, headline=True)
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
        for figure in figures_of([("auprc", None), ("majority", None)], estimates, settings, headline=True):
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
    return figures_of([of[:2] for of in found], [of[2] for of in found], settings, headline=headline)


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
