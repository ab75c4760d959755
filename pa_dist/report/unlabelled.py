"""What a run without labels is worth: trajectories by their scores, and the steps that stand out."""

from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.ragged import Floats, Ints
from pa_dist.reduce.metrics.groups import floats
from pa_dist.report.figures import plots
from pa_dist.report.figures.by_group import Drawing
from pa_dist.report.figures.curves import histogram
from pa_dist.report.numbers import signed
from pa_dist.report.suspects import beginnings, by_id, lowest, suspect
from pa_dist.report.viewer.selection import CHOSEN_BY
from pa_dist.report.viewer.trajectory import SUSPECTED_BY, numbered
from pa_dist.report.wording import plain
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import line

Row = dict[str, Any]

# Rows of each table.
LISTED = 20
# Of a corpus, the share that is unusually low, and the least trajectories that have such a share.
LOW, _FEWEST = 0.05, 20
# Where a step stands out: of robust z-scores the usual bound.
STANDS_OUT = -3.5
_TEXT_CHARS = 200
_VALUE = "progress_advantage__mean"
_ADD = (
    "No trajectory has a label, so there are no metrics. To get them: pa-dist evaluate OUT labels=FILE, a file with "
    "the id of each trajectory and its reward (1 where it succeeded, 0 where it failed), mistake_step (the message "
    "where it went wrong) or step_labels. Nothing is scored again."
)
_WHAT = (
    f"Trajectories are ranked by {CHOSEN_BY}, the mean advantage of their steps. Low ones did what the policy's "
    "training made less likely: worth a look, and no proof of a failure."
)


@dataclass(frozen=True)
class Corpus:
    """What a task reads of a run.

    Attributes:
      bins: edges of scores, and trajectories between them.
      low: the score that a share of `LOW` lies below, and how many that are; None of few trajectories.
      lowest: the lowest scores, each with its most suspicious step, if it has one.
      judged: trajectories in which a most suspicious step could stand out, and in how many it does.
      out: such steps, the most conspicuous first.
      n_picked: tasks with two trials or more, of which `selections` has the pick.
    """

    n_trajectories: int
    n_scored: int
    bins: tuple[Floats, Ints] | None
    low: tuple[float, int] | None
    lowest: list[Row]
    judged: tuple[int, int]
    out: list[Row]
    n_picked: int


@dataclass(frozen=True)
class Line:
    """A trajectory of a table: its address on the page, and what its step says."""

    name: str
    address: str
    cells: list[str]
    text: str


@dataclass(frozen=True)
class Table:
    """A table of trajectories."""

    title: str
    heads: list[str]
    lines: list[Line]


def corpus(folder: RunFolder) -> Corpus | None:
    """Read a run that is evaluated; None where any trajectory has a label."""
    labelled = pc.field("n_labelled_steps") > 0
    for name in ("reward", "mistake_step", "first_wrong"):
        labelled |= pc.field(name).is_valid()
    for scores in folder.datasets(folder.parts("scores")):
        if len(scores.scanner(columns=["trajectory_id"], filter=labelled).head(1)):
            return None
    known = pc.field(CHOSEN_BY).is_valid()
    values = floats(folder.columns("scores", [CHOSEN_BY], known), CHOSEN_BY)
    low = float(np.quantile(values, LOW)) if len(values) >= _FEWEST else None
    ranked = lowest(folder.dataset("scores"), ["trajectory_id", CHOSEN_BY], known, CHOSEN_BY, LISTED)
    judged, out = _standing_out(folder)
    _tell(folder, ranked, out)
    edges, _, counts = histogram(values, np.ones(len(values), np.bool_)) if len(values) else (None, None, None)
    return Corpus(
        n_trajectories=folder.count("scores"),
        n_scored=len(values),
        bins=None if edges is None or counts is None else (edges, counts),
        low=None if low is None else (low, int((values < low).sum())),
        lowest=ranked,
        judged=judged,
        out=out,
        n_picked=_picked(folder),
    )


def _picked(folder: RunFolder) -> int:
    method, token_agg, step_agg = CHOSEN_BY.split("__")
    cell = (pc.field("method") == method) & (pc.field("token_agg") == token_agg) & (pc.field("step_agg") == step_agg)
    return len(folder.columns("selections", ["task_id"], cell & (pc.field("n_trials") > 1)))


def _standing_out(folder: RunFolder) -> tuple[tuple[int, int], list[Row]]:
    """How many most suspicious steps could stand out, and do; and those that do most."""
    method, token_agg = schema.HEADLINE
    wanted = (pc.field("method") == method) & (pc.field("token_agg") == token_agg)
    wanted &= (pc.field("predictor") == SUSPECTED_BY) & ~pc.field("fallback") & pc.field("stands_out").is_valid()
    attributions = folder.dataset("attributions", schema.ATTRIBUTIONS)  # an older table lacks columns
    out = wanted & (pc.field("stands_out") <= STANDS_OUT)
    counts = attributions.count_rows(filter=wanted), attributions.count_rows(filter=out)
    return counts, lowest(attributions, ["trajectory_id", "stands_out"], out, "stands_out", LISTED)


def _tell(folder: RunFolder, ranked: list[Row], out: list[Row]) -> None:
    """Add to rows the place and the advantage of their step, how far it stands out and how its text begins."""
    ids = [row["trajectory_id"] for row in (*ranked, *out)]
    steps = by_id(folder, "steps", ids, ["step", _VALUE])
    for row in (*ranked, *out):
        of = steps.get(row["trajectory_id"], [])
        found = suspect(of, _VALUE)
        row |= {"place": None, "step": None, "value": None, "n_steps": len(of)}
        if found is not None:
            row |= {"place": of.index(found), "step": found["step"], "value": found[_VALUE]}
    said = beginnings(
        folder, {(row["trajectory_id"], row["step"]) for row in (*ranked, *out) if row["step"] is not None}
    )
    for row in (*ranked, *out):
        row["text"] = said.get((row["trajectory_id"], row["step"]), "")


def said(corpus: Corpus) -> list[str]:
    """Sentences: that there are no labels and how to get metrics, and what is unusual."""
    found = [_ADD, _WHAT]
    if unscored := corpus.n_trajectories - corpus.n_scored:
        found.append(f"{unscored:,} of {corpus.n_trajectories:,} trajectories have no score and are not ranked.")
    if corpus.low is not None:
        low, n = corpus.low
        found.append(f"{n:,} of {corpus.n_scored:,} trajectories lie below the 5th percentile of scores, {low:+.3f}.")
    n, n_out = corpus.judged
    if n:
        found.append(
            f"In {n_out:,} of {n:,} trajectories with enough steps the most suspicious one stands out: its advantage "
            f"is {-STANDS_OUT} robust standard deviations or more below the median of the trajectory's steps (the "
            "column stands_out of attributions)."
        )
    if corpus.n_picked:
        found.append(f"Of {corpus.n_picked:,} tasks with several trials the table selections has each method's pick.")
    return found


def drawing(corpus: Corpus) -> Drawing | None:
    """The histogram of scores; None where there are none."""
    if corpus.bins is None:
        return None
    edges, counts = (values.tolist() for values in corpus.bins)
    rows = [
        {"score_from": low, "score_to": high, "count": count}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    caption = f"Scores of {corpus.n_scored:,} trajectories: {CHOSEN_BY}. The outermost bins hold what lies beyond them."
    low = None if corpus.low is None else corpus.low[0]
    return Drawing("scores", caption, rows, partial(plots.scores, score=CHOSEN_BY, low=low))


def tables(corpus: Corpus) -> list[Table]:
    """The lowest trajectories, and the steps that stand out most."""
    found = []
    if corpus.lowest:
        heads = ["trajectory", "score", "most suspicious step", "advantage", "it begins"]
        lines = [_line(row, [_score(row, corpus)]) for row in corpus.lowest]
        found.append(Table("Trajectories by progress advantage, lowest first", heads, lines))
    if corpus.out:
        heads = ["trajectory", "stands out by", "step", "advantage", "it begins"]
        lines = [_line(row, [f"{row['stands_out']:+.1f}"]) for row in corpus.out]
        found.append(Table("Steps that stand out most from their trajectory", heads, lines))
    return found


def _score(row: Row, corpus: Corpus) -> str:
    below = corpus.low is not None and row[CHOSEN_BY] < corpus.low[0]
    return f"{signed(row[CHOSEN_BY])}{' (lowest 5%)' if below else ''}"


def _line(row: Row, cells: list[str]) -> Line:
    where = "none below zero" if row["place"] is None else numbered(row["place"], row["n_steps"])
    return Line(
        name=plain(row["trajectory_id"]),
        address=address(row["trajectory_id"], None if row["place"] is None else row["place"] + 1),
        cells=[*cells, where, signed(row["value"])],
        text=plain(line(row["text"], _TEXT_CHARS)),
    )


def address(trajectory_id: str, number: int | None) -> str:
    """Where the page shows a trajectory, or its step of a number from 1; as `viewerLink.to` of its script has it."""
    text = quote(trajectory_id, safe="!'()*~")
    text = f"%73{text[1:]}" if text.startswith("section-") else text
    return f"#{text or '&'}{'' if number is None else f'&step={number}'}"
