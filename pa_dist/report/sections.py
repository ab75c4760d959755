"""The report's sections: what of a run's tables is shown, drawn and written beside the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from pa_dist import truncation
from pa_dist.mapper import Mapper
from pa_dist.reduce.beside import methods_beside
from pa_dist.reduce.block.methods import Cell, cells
from pa_dist.reduce.metrics.groups import Group
from pa_dist.report import facts, unlabelled
from pa_dist.report.facts import Fact
from pa_dist.report.figures import plots, points
from pa_dist.report.figures.by_group import Drawing, Figures, of_best_of_n, of_fa, of_prefix, of_sweep, of_uq
from pa_dist.report.figures.svg import inlined
from pa_dist.report.numbers import number
from pa_dist.report.tables.comparisons import CROSS_FITTED, Comparisons, Differences
from pa_dist.report.tables.headline import BUILDERS
from pa_dist.report.tables.metrics import Found, GroupMetrics, measured, swept
from pa_dist.report.tables.spreadsheet import as_csv
from pa_dist.report.wording import MINE, SCENARIOS, Slugs, finding, plain, titles
from pa_dist.store.folder import REPORT, RunFolder

Row = dict[str, Any]

FIGURES = "figures"
# Beyond so many groups a scenario, tables alone: each figure takes a part of a second, and of the page.
_DRAWN_GROUPS = 12
_OPEN_GROUPS = 3
_FORMATS = ("svg", "png", "csv")
_TOO_MANY = f"Figures are drawn of the {_DRAWN_GROUPS} groups with most rows."
_HINDSIGHT = (
    "Best cell in hindsight: the highest of all of a method's aggregations on these very labels. It flatters; new data "
    "need not repeat it."
)
_NO_LABELS = {
    "uq": "no trajectory has a reward",
    "prefix": "no trajectory has a reward",
    "best_of_n": "no task has two trials",
    "fa": "no trajectory has a mistake_step",
}


@dataclass(frozen=True)
class Shown:
    """A figure on the page, with the files that lie beside it."""

    svg: Markup
    caption: str
    files: list[tuple[str, str]]
    """Format and relative address."""


@dataclass(frozen=True)
class UnlabelledSection:
    """What there is to say of a run without labels."""

    said: list[str]
    figures: list[Shown]
    tables: list[unlabelled.Table]


@dataclass(frozen=True)
class GroupSection:
    """A group within a scenario."""

    title: str
    finding: str
    heads: list[str]
    lines: list[tuple[str, list[str]]]
    below: list[str]
    figures: list[Shown]
    differences: Differences | None
    open: bool


@dataclass(frozen=True)
class Scenario:
    """A scenario: its groups, and what is left out of it, or why all is."""

    name: str
    title: str
    groups: list[GroupSection]
    figures: list[Shown]
    left_out: str


@dataclass(frozen=True)
class Report:
    """All that the report's template reads."""

    summary: list[str]
    unlabelled: UnlabelledSection | None
    """What is most worth a look, where no label says what failed."""
    scenarios: list[Scenario]
    facts: list[Fact]
    seconds: list[Fact]
    rejects: list[tuple[str, str, int]]
    other_rejects: str
    data: list[Group]
    """Of the trajectories, whether or not they have labels."""


def build(folder: RunFolder, map_tasks: Mapper) -> Report:
    """Read an evaluated run, and write the report's figures.

    Args:
      folder: the run's.
      map_tasks: runs what reads rows; in this process `map`, on a cluster tasks.
    """
    found = measured(folder)
    read = _read(folder, found, map_tasks)
    folder.filesystem.create_dir(folder.path(REPORT, FIGURES), recursive=True)
    writer = _Writer(folder, found, read)
    with plots.style():
        suspects = writer.unlabelled(read.unlabelled) if read.unlabelled else None
        shown = [] if suspects else list(SCENARIOS)  # whose figures are all null without a label
        scenarios = [writer.scenario(name) for name in shown]
    reasons, other = facts.reject_lines(read.rejects)
    summary = _summary(folder, found, read.groups, shown)
    return Report(summary, suspects, scenarios, facts.facts(folder), facts.seconds(folder), reasons, other, read.groups)


@dataclass(frozen=True)
class _Read:
    """What was read of rows: all groups, curves by method and group, errors by group and predictor."""

    groups: list[Group]

    curves: dict[str, dict[Group, points.Curves]]
    errors: dict[Group, dict[str, Counter[int | None]]]
    rejects: points.RejectCounts
    unlabelled: unlabelled.Corpus | None


def _read(folder: RunFolder, found: Found, map_tasks: Mapper) -> _Read:
    columns = _columns(folder, found.of("uq"))
    drawn = {name: _drawn(found.of(name)) for name in SCENARIOS}
    threshold = folder.manifest["stages"]["evaluate"]["settings"]["evaluate"]["success_threshold"]
    curves = map_tasks(partial(points.score_curves, folder, threshold, drawn["uq"]), columns)
    by_method = dict(zip((cell.method for cell in columns), curves, strict=True))
    errors: dict[Group, Any] = {}
    if drawn["fa"]:
        (errors,) = map_tasks(partial(points.blame_errors, folder, "mean", drawn["fa"]), [MINE])
    (rejects,) = map_tasks(points.reject_counts, [folder])
    (groups,) = map_tasks(points.groups, [folder])
    (corpus,) = map_tasks(unlabelled.corpus, [folder])
    return _Read(groups, by_method, errors, rejects, corpus)


def _drawn(found: Sequence[GroupMetrics]) -> set[Group]:
    """Of a scenario's groups those that figures are drawn of."""
    return {of.group for of in sorted(found, key=lambda of: -of.n)[:_DRAWN_GROUPS]}


def _columns(folder: RunFolder, found: Sequence[GroupMetrics]) -> list[Cell]:
    """The columns of `scores` of the methods drawn anywhere; progress advantage's in any case."""
    stages = folder.manifest["stages"]
    shown = [row for of in found for row in [*of.drawn(), *(row for row in of.headline if row["method"] == MINE)]]
    wanted = {(row["method"], row["token_agg"], row["step_agg"]) for row in shown}
    preset = stages["evaluate"]["settings"]["evaluate"]["preset"]
    every = cells(preset, methods_beside(stages, preset))
    return [cell for cell in every if (cell.method, cell.token_agg, cell.step_agg) in wanted]


class _Writer:
    """Draws figures, and writes them beside the page."""

    def __init__(self, folder: RunFolder, found: Found, read: _Read) -> None:
        self._folder, self._found, self._read, self._slugs = folder, found, read, Slugs()
        self._sweep = swept(folder, found)
        self._compared = Comparisons.of(folder, found.groups)

    def unlabelled(self, corpus: unlabelled.Corpus) -> UnlabelledSection:
        """A run without labels: its distribution of scores drawn."""
        drawing = unlabelled.drawing(corpus)
        figures = [self._shown(drawing, self._slugs.of(drawing.kind))] if drawing else []
        return UnlabelledSection(unlabelled.said(corpus), figures, unlabelled.tables(corpus))

    def scenario(self, name: str) -> Scenario:
        """A scenario with its groups, those of most rows drawn."""
        found = self._found.of(name)
        drawn, named = _drawn(found), titles(of.group for of in found)
        groups = [
            self._group(of, named[of.group], of.group in drawn, place < _OPEN_GROUPS) for place, of in enumerate(found)
        ]
        more = self._found.left_out.get(name, 0)
        groups_more = f"{more:,} group{'s' if more > 1 else ''}"
        others = f"{groups_more} of fewer trajectories; all figures are in metrics.parquet" if more else ""
        sweep = of_sweep(name, self._sweep[name]) if self._sweep.get(name) else None
        figures = [self._shown(sweep, self._slugs.of(sweep.kind))] if sweep else []
        left_out = others if found else _why_left_out(self._folder, name)
        return Scenario(name, SCENARIOS[name], groups, figures, left_out)

    def _group(self, of: GroupMetrics, title: str, drawn: bool, open: bool) -> GroupSection:
        table = BUILDERS[of.scenario](of.headline)
        figures = self._figures(of) if drawn else Figures(left_out=[_TOO_MANY])
        slug = self._slugs.of(of.scenario, *of.group)
        best, other_data = _in_hindsight(of), self._compared.cross_fitted(of)
        # Of prefixes one cell a method is measured: there is none to choose.
        chosen = {"best cell in hindsight": best} if of.scenario != "prefix" else {}
        chosen |= {"cross-fitted": other_data} if other_data else {}
        return GroupSection(
            title=title,
            finding=finding(of.scenario, of.headline),
            heads=[*table.heads, *chosen],
            lines=[
                (plain(method), [*cells, *(of_method.get(method, "") for of_method in chosen.values())])
                for method, cells in table.lines.items()
            ],
            below=[
                plain(table.below) + ".",
                *([_HINDSIGHT] if of.scenario != "prefix" else []),
                *([CROSS_FITTED] if other_data else []),
                *figures.left_out,
            ],
            differences=self._compared.differences(of),
            figures=[self._shown(drawing, f"{slug}-{drawing.kind}") for drawing in figures.drawings],
            open=open,
        )

    def _figures(self, of: GroupMetrics) -> Figures:
        match of.scenario:
            case "uq":
                curves = {method: of_each.get(of.group) for method, of_each in self._read.curves.items()}
                return of_uq(of, {method: found for method, found in curves.items() if found})
            case "prefix":
                return of_prefix(of)
            case "best_of_n":
                return of_best_of_n(of)
            case _:
                return of_fa(of, self._read.errors.get(of.group, {}))

    def _shown(self, drawing: Drawing, name: str) -> Shown:
        drawn = drawing.draw(drawing.rows)
        svg = plots.saved(drawn, "svg")
        for format, content in (("svg", svg), ("png", plots.saved(drawn, "png")), ("csv", as_csv(drawing.rows))):
            path = self._folder.path(REPORT, FIGURES, f"{name}.{format}")
            with self._folder.filesystem.open_output_stream(path) as out:
                out.write(content)
        files = [(format.upper(), f"{FIGURES}/{name}.{format}") for format in _FORMATS]
        return Shown(Markup(inlined(svg.decode(), f"{name}-", drawing.caption, plots.COLOURS)), drawing.caption, files)


def _in_hindsight(of: GroupMetrics) -> dict[str, str]:
    """Each method's best cell by the main metric, and which it is."""
    best: dict[str, Row] = {}
    for row in of.cells:
        if row["value"] is not None and row["value"] > best.get(row["method"], {"value": -1.0})["value"]:
            best[row["method"]] = row
    names = ("token_agg", "step_agg", "predictor")
    return {
        method: f"{number(row['value'])} ({' / '.join(row[name] for name in names if row[name] is not None)})"
        for method, row in best.items()
        if method != "baseline"
    }


def _why_left_out(folder: RunFolder, scenario: str) -> str:
    wanted = folder.manifest["stages"]["evaluate"]["settings"]["evaluate"]["scenarios"]
    return _NO_LABELS[scenario] if "auto" in wanted or scenario in wanted else "evaluate.scenarios does not name it"


def _summary(folder: RunFolder, found: Found, groups: Sequence[Group], shown: Sequence[str]) -> list[str]:
    """Sentences: what was scored, what was not, and what progress advantage reached in each scenario."""
    stages = folder.manifest["stages"]
    named = titles(found.groups)
    said = [_scored(stages["evaluate"], facts.data(groups), facts.pair(folder))]
    if lost := truncation.in_full(stages["score"]):
        said.append(f"{lost[0].upper()}{lost[1:]}.")
    for scenario in shown:
        here = found.of(scenario)
        lines = [f"{named[m.group]}: {finding(scenario, m.headline)}" for m in here[:_OPEN_GROUPS]]
        more = f" {len(here) - _OPEN_GROUPS} groups more below." if len(here) > _OPEN_GROUPS else ""
        said += [f"{SCENARIOS[scenario]}, by {MINE}. {'. '.join(lines)}.{more}"] if lines else []
    return said


def _scored(evaluated: Mapping[str, Any], data: str, pair: str) -> str:
    """How much was scored of what by which pair."""
    trajectories, steps, scored = (evaluated.get(name) for name in ("trajectories", "steps", "scored_steps"))
    of = f" of {data}" if data else ""
    have = f"{steps:,} steps" if scored is None else f"{scored:,} of {steps:,} steps have an advantage"
    return f"{trajectories:,} trajectories{of}, scored by {pair}: {have}."
