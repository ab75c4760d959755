"""The figures, drawn from their tables by matplotlib: one look for the page, for papers, light and dark.

They are drawn in the light theme's colours; on the page a style sheet's variables take the place of those.
Colour is never the only cue: each series has its own line or marker too.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pa_dist.report.tables.headline import WEIGHTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]

INK, MUTED, LINE, PAPER = "#1b1f24", "#57606a", "#d5d9de", "#ffffff"
# Okabe and Ito's, some darker, so that thin lines are seen on white.
SERIES = ("#0072b2", "#d55e00", "#007a5a", "#a3508a", "#8a6d00", "#5c6670")
COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "none",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(SERIES, 1)},
}
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.size": 8,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.borderaxespad": 0,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "pa_dist",
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}
_WIDTH = 3.6
_DPI = 200


@contextmanager
def style() -> Iterator[None]:
    """What figures are drawn and saved in, whatever a user's own settings of matplotlib."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        yield


def saved(figure: "Figure", format: str) -> bytes:
    """A figure as `svg` or `png`; the same bytes every time."""
    out = BytesIO()
    metadata = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
    figure.savefig(out, format=format, dpi=_DPI, metadata=metadata)
    return out.getvalue()


def _draw(axes: "Axes", series: Mapping[str, Sequence[Row]], x: str, y: str, area: str) -> None:
    """A curve a method, with the area below it."""
    for look, (method, points) in zip(_looks(), series.items(), strict=False):
        label = f"{method}, area {points[0][area]:.3f}"
        axes.plot([row[x] for row in points], [row[y] for row in points], label=label, **look)


def roc(rows: Sequence[Row]) -> "Figure":
    """Rows: method, false_positive_rate, true_positive_rate, auroc."""
    series = _series(rows)
    figure, axes = _axes(2.5, len(series) + 1)
    _draw(axes, series, "false_positive_rate", "true_positive_rate", "auroc")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, label="chance, area 0.5")
    axes.set(xlabel="failures taken for successes", ylabel="successes found", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return _with_legend(figure, axes)


def risk_coverage(rows: Sequence[Row]) -> "Figure":
    """Rows: method, coverage, risk, aurc."""
    series = _series(rows)
    figure, axes = _axes(2.5, len(series) + 1)
    _draw(axes, series, "coverage", "risk", "aurc")
    everyone = next(iter(series.values()))[-1]["risk"]
    axes.axhline(everyone, color=MUTED, linewidth=0.8, label=f"random order, {everyone:.3f}")
    axes.set(xlabel="share kept, best scores first", ylabel="failures among them", xlim=(0, 1.01))
    axes.set_ylim(bottom=-0.01)
    return _with_legend(figure, axes)


def distribution(rows: Sequence[Row], score: str) -> "Figure":
    """Rows: outcome, score_from, score_to, count, share."""
    figure, axes = _axes(2.2, 2)
    looks = {"success": (SERIES[0], "", "-"), "failure": (SERIES[1], "////", "--")}
    for outcome, bins in _series(rows, "outcome").items():
        colour, hatch, dash = looks[outcome]
        edges = [bins[0]["score_from"], *(row["score_to"] for row in bins)]
        label = f"{outcome}, {sum(row['count'] for row in bins):,} trajectories"
        shares = [row["share"] for row in bins]
        axes.stairs(shares, edges, fill=True, facecolor=colour, edgecolor=colour, alpha=0.25, hatch=hatch)
        axes.stairs(shares, edges, color=colour, linewidth=1.5, label=label, linestyle=dash)
    axes.set(xlabel=score, ylabel="share of the outcome")
    return _with_legend(figure, axes)


def scores(rows: Sequence[Row], score: str, low: float | None) -> "Figure":
    """Rows: score_from, score_to, count. `low`: below which few lie, where so many are known."""
    figure, axes = _axes(2.2, 1 if low is None else 2)
    edges = [rows[0]["score_from"], *(row["score_to"] for row in rows)]
    counts = [row["count"] for row in rows]
    axes.stairs(counts, edges, fill=True, facecolor=SERIES[0], edgecolor=SERIES[0], alpha=0.25)
    axes.stairs(counts, edges, color=SERIES[0], linewidth=1.5, label=f"{sum(counts):,} trajectories")
    if low is not None:
        axes.axvline(low, color=SERIES[1], linewidth=1, linestyle="--", label=f"5th percentile, {low:+.3f}")
    axes.set(xlabel=score, ylabel="trajectories")
    return _with_legend(figure, axes)


def best_of_n(rows: Sequence[Row]) -> "Figure":
    """Rows: method, n, success, ci_low, ci_high, tokens; the first method with its interval, oracle and mean without
    marks, and what n trials take above, where it is known."""
    from matplotlib.ticker import MaxNLocator

    series = _series(rows)
    tokens = {row["n"]: row["tokens"] for row in rows if row["tokens"] is not None}
    figure, axes = _axes(2.5, len(series), above=0.45 if tokens else 0.1)
    looks = _looks(markers=True)
    vote = {"linestyle": "--", "linewidth": 0.8, "marker": "x"}  # which may be one point
    plain: dict[str, dict[str, Any]] = {
        "oracle pass@n": {"color": INK, "linestyle": (0, (1, 1))},
        "mean@n": {"color": MUTED, "linewidth": 0.8},
        "majority vote": {"color": MUTED, **vote},
        WEIGHTED: {"color": SERIES[0], **vote},
    }
    for place, (method, points) in enumerate(series.items()):
        n, success = ([row[name] for row in points] for name in ("n", "success"))
        look = plain.get(method) or next(looks)
        axes.plot(n, success, label=f"{method}, {success[-1]:.3f} at n = {n[-1]:g}", **look)
        if place == 0 and all(row["ci_low"] is not None for row in points):
            low, high = ([row[name] for row in points] for name in ("ci_low", "ci_high"))
            axes.fill_between(n, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="n, trials to choose from", ylabel="success of the chosen one")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if tokens:
        _with_tokens(axes, tokens)
    return _with_legend(figure, axes)


def _with_tokens(axes: "Axes", tokens: Mapping[int, float]) -> None:
    """A second axis above: what so many trials take, at the powers of two and at the most."""
    ns = [n for n in tokens if n & (n - 1) == 0 or n == max(tokens)]
    if len(ns) > 2 and ns[-1] - ns[-2] < ns[-1] / 8:  # no room for both
        del ns[-2]
    above = axes.secondary_xaxis("top")
    above.set_xticks(ns[-4:], [f"{tokens[n]:,.0f}" for n in ns[-4:]])
    above.set_xlabel("tokens of n trials")
    above.spines["top"].set_visible(True)


def prefix(rows: Sequence[Row]) -> "Figure":
    """Rows: method, share, auroc, ci_low, ci_high; the first method with its interval."""
    series = _series(rows)
    figure, axes = _axes(2.3, len(series) + 1)
    for place, (look, (method, points)) in enumerate(zip(_looks(markers=True), series.items(), strict=False)):
        share, auroc = ([row[name] for row in points] for name in ("share", "auroc"))
        axes.plot(share, auroc, label=f"{method}, {auroc[0]:.3f} after {share[0]:.0%}", **look)
        if place == 0 and all(row["ci_low"] is not None for row in points):
            low, high = ([row[name] for row in points] for name in ("ci_low", "ci_high"))
            axes.fill_between(share, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.axhline(0.5, color=MUTED, linewidth=0.8, label="chance")
    axes.set(xlabel="share of the steps", ylabel="AUROC", xlim=(0, 1.03))
    return _with_legend(figure, axes)


def fa_errors(rows: Sequence[Row], most: int = 15) -> "Figure":
    """Rows: predictor, error, count. Errors beyond `most` are drawn at it."""
    from matplotlib.ticker import MaxNLocator

    series = _series(rows, "predictor")
    width = min(most, max(abs(row["error"]) for row in rows))
    places = np.arange(-width, width + 1)
    figure, panels = _axes(0.85 * len(series), 0, len(series))
    for axes, (predictor, found), colour in zip(panels, series.items(), SERIES, strict=False):
        errors = np.clip([row["error"] for row in found], -width, width)
        counts = np.bincount(errors + width, [row["count"] for row in found], len(places))
        axes.bar(places, counts, width=0.8, color=colour)
        axes.set_title(predictor, loc="left", fontsize=8, pad=3)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.grid(False, axis="x")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[len(panels) // 2].set_ylabel("trajectories")
    beyond = f" (±{width}: or more)" if width == most else ""
    panels[-1].set_xlabel(f"predicted minus labelled message{beyond}")
    return figure


def fa_accuracy(rows: Sequence[Row]) -> "Figure":
    """Rows: method, predictor, step_accuracy, ci_low, ci_high; the method `baseline` gives lines."""
    methods = _series([row for row in rows if row["method"] != "baseline"])
    predictors = list(dict.fromkeys(row["predictor"] for row in rows if row["method"] != "baseline"))
    baselines = [row for row in rows if row["method"] == "baseline" and row["step_accuracy"] is not None]
    figure, axes = _axes(0.45 * len(methods) + 0.3, len(predictors) + len(baselines), left=1.35)
    for place, (predictor, colour) in enumerate(zip(predictors, SERIES, strict=False)):
        found = [(y, row) for y, of in enumerate(methods.values()) for row in of if row["predictor"] == predictor]
        found = [(y, row) for y, row in found if row["step_accuracy"] is not None]
        offset = (place - (len(predictors) - 1) / 2) * 0.22
        x = [row["step_accuracy"] for _, row in found]
        bars = [[abs(row["step_accuracy"] - _known(row, end)) for _, row in found] for end in ("ci_low", "ci_high")]
        y = [y + offset for y, _ in found]
        axes.errorbar(x, y, xerr=bars, fmt=_MARKERS[place], color=colour, elinewidth=1, label=predictor)
    for row, dash in zip(baselines, ("-", "--", ":"), strict=False):
        label = f"{row['predictor']}, {row['step_accuracy']:.3f}"
        axes.axvline(row["step_accuracy"], color=MUTED, linewidth=1, linestyle=dash, label=label)
    axes.set(xlabel="step accuracy", xlim=(-0.02, 1.02), ylim=(len(methods) - 0.5, -0.5))
    axes.set_yticks(range(len(methods)), list(methods))
    axes.grid(False, axis="y")
    return _with_legend(figure, axes)


def heat_map(rows: Sequence[Row], columns: str, value: str) -> "Figure":
    """Rows: token_agg, and by their names the aggregation of columns and the value, which may be null."""
    down, across = (list(dict.fromkeys(row[name] for row in rows)) for name in ("token_agg", columns))
    grid = np.full((len(down), len(across)), np.nan)
    for row in rows:
        grid[down.index(row["token_agg"]), across.index(row[columns])] = np.nan if row[value] is None else row[value]
    figure, axes = _axes(0.32 * len(down), 0, left=0.6)
    low, high = np.nanmin(grid), np.nanmax(grid)
    axes.pcolormesh(grid, cmap="cividis", vmin=low, vmax=high, edgecolors=PAPER, linewidth=1)
    for (y, x), figure_value in np.ndenumerate(grid):
        dark = figure_value < (low + high) / 2 or low == high
        # Not the theme's ink and paper: the cell below is as dark in either.
        colour = INK if np.isnan(figure_value) else "#fefefe" if dark else "#000001"
        text = "–" if np.isnan(figure_value) else f"{figure_value:.3f}"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=colour)
    axes.set_xticks(np.arange(len(across)) + 0.5, [name.replace("_", "\n", 1) for name in across])
    axes.set_yticks(np.arange(len(down)) + 0.5, down)
    axes.set(xlabel=columns.replace("step_agg", "step aggregation"), ylabel="token aggregation")
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def alphas(rows: Sequence[Row], value: str) -> "Figure":
    """Rows: group, alpha, the value by its name, ci_low, ci_high."""
    series = _series(rows, "group")
    figure, axes = _axes(2.3, len(series))
    for look, (group, points) in zip(_looks(markers=True), series.items(), strict=False):
        alpha, found = ([row[name] for row in points] for name in ("alpha", value))
        axes.plot(alpha, found, label=group, **look)
        if all(row["ci_low"] is not None for row in points):
            low, high = ([row[name] for row in points] for name in ("ci_low", "ci_high"))
            axes.fill_between(alpha, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="alpha (0: the reference)", ylabel=value.replace("_", " "))
    return _with_legend(figure, axes)


def _series(rows: Sequence[Row], name: str = "method") -> dict[str, list[Row]]:
    """Rows by one of their values, in the order of first appearance."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row[name], []).append(row)
    return series


def _known(row: Row, end: str) -> float:
    """An end of a row's interval; its value where it has none."""
    return float(row["step_accuracy"] if row[end] is None else row[end])


def _looks(markers: bool = False) -> Iterator[dict[str, Any]]:
    for colour, dash, marker in zip(SERIES, _DASHES, _MARKERS, strict=True):
        yield {"color": colour, "linestyle": dash} | ({"marker": marker} if markers else {})


def _axes(height: float, lines: int, panels: int = 1, left: float = 0.55, above: float = 0.1) -> tuple["Figure", Any]:
    """Axes of so many inches, or a list of panels that share theirs, with room below for a legend of so many lines."""
    from matplotlib.figure import Figure

    legend = 0.15 * lines + (0.1 if lines else 0)
    above, labels = (0.2 if panels > 1 else above), 0.5
    total = above + height + labels + legend
    figure = Figure(figsize=(_WIDTH, total))
    place = {"left": left / _WIDTH, "right": 0.98, "top": 1 - above / total, "bottom": (labels + legend) / total}
    if panels == 1:
        return figure, figure.subplots(gridspec_kw=place)
    return figure, figure.subplots(panels, sharex=True, sharey=True, gridspec_kw={**place, "hspace": 0.45})


def _with_legend(figure: "Figure", axes: "Axes") -> "Figure":
    """Below the axes, where it hides nothing, a line a series."""
    figure.legend(*axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(0.02, 0.02), labelspacing=0.25)
    return figure
