"""The figures of each scenario and group: their tables, what they say, and why one is left out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pa_dist.reduce.metrics.groups import Group
from pa_dist.report.figures import plots
from pa_dist.report.figures.points import Curves
from pa_dist.report.numbers import figure
from pa_dist.report.tables.headline import WITHOUT_SCORE, gain, series
from pa_dist.report.tables.metrics import MOST_SERIES, GroupMetrics
from pa_dist.report.wording import MAIN, MINE, plain, titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Errors = Mapping[str, Counter[int | None]]

_SAID = {"auroc": "AUROC", "success": "Success", "step_accuracy": "Step accuracy"}


@dataclass(frozen=True)
class Drawing:
    """A figure before it is drawn.

    Attributes:
      kind: ends the names of its files.
      caption: what it shows and says.
      rows: its table, as the CSV has it.
      draw: draws the rows.
    """

    kind: str
    caption: str
    rows: list[Row]
    draw: Callable[[Sequence[Row]], "Figure"]


@dataclass
class Figures:
    """Drawings, and a line for each that is left out."""

    drawings: list[Drawing] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def of_uq(measured: GroupMetrics, curves: Mapping[str, Curves]) -> Figures:
    """ROC and risk-coverage curves, scores by outcome, and the aggregations.

    Args:
      measured: of the scenario `uq`.
      curves: of the methods drawn.
    """
    found = Figures()
    drawn = [row for row in measured.drawn() if row["method"] in curves]
    if drawn:
        found.drawings += [_roc(drawn, curves), _risk_coverage(measured, drawn, curves)]
    else:
        found.left_out.append(f"ROC and risk-coverage curves are left out: {measured.why_not()}.")
    if MINE in curves:
        found.drawings.append(_distribution(curves[MINE]))
    return _add_heat_map(found, measured, "AUROC", "step_agg")


def _roc(drawn: Sequence[Row], curves: Mapping[str, Curves]) -> Drawing:
    rows = [
        {"method": plain(row["method"]), "false_positive_rate": x, "true_positive_rate": y, "auroc": row["value"]}
        for row in drawn
        for x, y in _points(curves[row["method"]].roc)
    ]
    best = max(drawn, key=lambda row: float(row["value"]))
    shown = [row for row in drawn if row["method"] == MINE or row is best]
    areas = ", ".join(f"{plain(row['method'])} {figure(row)}" for row in shown)
    return Drawing("roc", f"ROC curves. Areas: {areas}.{_thinned(drawn, curves)}", rows, plots.roc)


def _risk_coverage(measured: GroupMetrics, drawn: Sequence[Row], curves: Mapping[str, Curves]) -> Drawing:
    areas = {row["method"]: row["value"] for row in measured.headline if row["metric"] == "aurc"}
    rows = [
        {"method": plain(row["method"]), "coverage": x, "risk": y, "aurc": areas[row["method"]]}
        for row in drawn
        for x, y in _points(curves[row["method"]].risk)
    ]
    first = drawn[0]["method"]
    risks = {row["at"]: row["value"] for row in measured.headline if (row["metric"], row["method"]) == ("risk", first)}
    half = (
        f" Of the half with the best {plain(first)} {risks[0.5]:.0%} failed, of all {risks[1.0]:.0%}." if risks else ""
    )
    caption = f"Risk and coverage.{half}{_thinned(drawn, curves)}"
    return Drawing("risk-coverage", caption, rows, plots.risk_coverage)


def _points(curve: Any) -> list[tuple[float, float]]:
    return [] if curve is None else list(zip(*(values.tolist() for values in curve), strict=True))


def _thinned(drawn: Sequence[Row], curves: Mapping[str, Curves]) -> str:
    """Said below a curve of fewer points than there are."""
    most = max(curves[row["method"]].n for row in drawn)
    kept = max(len(curves[row["method"]].risk[0]) for row in drawn)
    return f" Drawn, and in the CSV, from at most {kept} points a curve of {most:,}." if kept < most else ""


def _distribution(curves: Curves) -> Drawing:
    edges, failed, succeeded = (values.tolist() for values in curves.bins)
    rows = [
        {"outcome": outcome, "score_from": low, "score_to": high, "count": count, "share": count / max(sum(counts), 1)}
        for outcome, counts in (("success", succeeded), ("failure", failed))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if sum(counts)
    ]
    caption = (
        f"Scores by outcome: {MINE}, token mean and step mean, of {sum(succeeded):,} successes and {sum(failed):,} "
        "failures. The outermost bins hold what lies beyond them."
    )
    return Drawing("scores", caption, rows, partial(plots.distribution, score=MINE))


def of_prefix(measured: GroupMetrics) -> Figures:
    """AUROC while trajectories are under way."""
    methods = {row["method"] for row in measured.drawn()}
    rows = [
        {"method": plain(row["method"]), "share": row["at"], "auroc": row["value"]}
        | {"ci_low": row["ci_low"], "ci_high": row["ci_high"], "n": row["n"]}
        for row in measured.headline
        if row["metric"] == "auroc_at" and row["method"] in methods and row["value"] is not None
    ]
    if not rows:
        return Figures(left_out=[f"AUROC by share of the steps is left out: {measured.why_not()}."])
    caption = (
        "AUROC of what is known after a share of the steps. A share presumes that one knows how long the whole is. "
        f"The band is the 95% interval of {rows[0]['method']}."
    )
    return Figures([Drawing("by-share", caption, rows, plots.prefix)])


def of_best_of_n(measured: GroupMetrics) -> Figures:
    """Success for every n and for the tokens that n trials take, and the aggregations at the largest."""
    found = Figures()
    methods = [row["method"] for row in measured.drawn()]
    tokens = {row["at"]: row for row in measured.headline if row["metric"] == "tokens"}
    known = [
        row
        for metric in ("success", "weighted_vote", *WITHOUT_SCORE)
        for row in measured.headline
        if row["metric"] == metric and row["value"] is not None and (metric != "success" or row["method"] in methods)
    ]
    drawn: dict[str, dict[float, Row]] = {}
    for row in known:
        if name := series(row):
            drawn.setdefault(plain(name), {})[row["at"]] = row
    rows = [
        {"method": name, "n": int(n), "success": row["value"], "ci_low": row["ci_low"], "ci_high": row["ci_high"]}
        | {"tasks": row["n"], "tokens": tokens[n]["value"] if n in tokens else None}
        | {"gain_per_1000_tokens": gain(of.get(n - 1), row, tokens.get(n - 1), tokens.get(n))}
        for name, of in drawn.items()
        for n, row in of.items()
    ]
    if methods and max(row["n"] for row in rows) > 1:
        spent = "; the upper axis has the tokens that n trials take" if tokens else ""
        caption = (
            "Success of the best-scored of n trials, between a random trial (mean@n) and a choice that knows the "
            f"outcomes (oracle pass@n){spent}. The band is the 95% interval of {plain(methods[0])}."
        )
        found.drawings.append(Drawing("best-of-n", caption, rows, plots.best_of_n))
    else:
        found.left_out.append(f"The curves over n are left out: {measured.why_not()}.")
    return _add_heat_map(found, measured, "success", "step_agg")


def of_fa(measured: GroupMetrics, errors: Errors) -> Figures:
    """How far off each predictor is, how often it is right beside the baselines, and the aggregations.

    Args:
      measured: of the scenario `fa`.
      errors: of progress advantage, by predictor.
    """
    found = Figures()
    predicted = {name: {e: n for e, n in counts.items() if e is not None} for name, counts in errors.items()}
    rows = [
        {"predictor": predictor, "error": error, "count": count}
        for predictor, counts in predicted.items()
        for error, count in sorted(counts.items())
    ]
    if rows:
        right = {name: f"{counts.get(0, 0)} of {sum(errors[name].values())}" for name, counts in predicted.items()}
        exact = ", ".join(f"{name} {of}" for name, of in right.items())
        caption = f"Predicted minus labelled message, {MINE} with token mean. Exactly right: {exact}."
        found.drawings.append(Drawing("errors", caption, rows, plots.fa_errors))
    else:
        found.left_out.append(f"The histogram of errors is left out: {MINE} blames no labelled trajectory's step.")
    methods = {row["method"] for row in measured.drawn()}
    rows = [
        {"method": plain(row["method"]), "predictor": row["predictor"], "step_accuracy": row["value"]}
        | {"ci_low": row["ci_low"], "ci_high": row["ci_high"], "n": row["n"]}
        for row in measured.headline
        if row["metric"] == MAIN["fa"] and (row["method"] in methods or row["method"] == "baseline")
    ]
    if methods:
        caption = (
            "Share of labelled trajectories whose labelled step is found"
            f"{', 95% intervals' if any(row['ci_low'] is not None for row in rows) else ''}; "
            "lines are choices without a score."
        )
        found.drawings.append(Drawing("accuracy", caption, rows, plots.fa_accuracy))
    else:
        found.left_out.append(f"Accuracies are left out: {measured.why_not()}.")
    return _add_heat_map(found, measured, "step accuracy", "predictor")


def _add_heat_map(found: Figures, measured: GroupMetrics, value: str, columns: str) -> Figures:
    """The scenario's main metric of progress advantage in every cell."""
    cells = [row for row in measured.cells if row["method"] == MINE]
    rows = [{"token_agg": row["token_agg"], columns: row[columns], value: row["value"], "n": row["n"]} for row in cells]
    known = [row for row in cells if row["value"] is not None]
    if not known:
        found.left_out.append(f"The map of aggregations is left out: {measured.why_not()}.")
        return found
    best = max(known, key=lambda row: float(row["value"]))
    beforehand = "The mean of means was chosen beforehand; in" if columns == "step_agg" else "In"
    caption = (
        f"{_SAID[MAIN[measured.scenario]]} of {MINE} by aggregation. {beforehand} hindsight "
        f"{best['token_agg']} / {best[columns]} is highest, {best['value']:.3f}, which new data need not repeat."
    )
    draw = partial(plots.heat_map, columns=columns, value=value)
    found.drawings.append(Drawing("aggregations", caption, rows, draw))
    return found


def of_sweep(scenario: str, rows: Sequence[Row]) -> Drawing | None:
    """A scenario's main metric of progress advantage against alpha, a line a group and way to merge; None of a single
    alpha.

    Args:
      scenario: which.
      rows: as `swept` has them.
    """
    lines = list(dict.fromkeys(map(_line, rows)))
    named = titles(group for group, _ in lines)
    several = len({method for _, method in lines}) > 1
    metric = MAIN[scenario]
    table = [
        {"group": f"{named[group]}, {method}" if several else named[group], "alpha": row["alpha"], metric: row["value"]}
        | {"ci_low": row["ci_low"], "ci_high": row["ci_high"], "n": row["n"]}
        for group, method in lines[:MOST_SERIES]
        for row in sorted(rows, key=lambda row: float(row["alpha"]))
        if _line(row) == (group, method) and row["value"] is not None
    ]
    if len({row["alpha"] for row in table}) < 2:
        return None
    more = f" {len(lines) - MOST_SERIES} lines more are in metrics.parquet." if len(lines) > MOST_SERIES else ""
    which = {"uq": "", "best_of_n": " at the largest n", "fa": f" of {rows[0]['predictor']}"}[scenario]
    caption = (
        f"{_SAID[metric]}{which} of {MINE} against references merged with the policy "
        f"({', '.join(dict.fromkeys(method for _, method in lines))}), reference + alpha (policy - reference).{more}"
    )
    return Drawing(f"{scenario.replace('_', '-')}-alphas", caption, table, partial(plots.alphas, value=metric))


def _line(row: Row) -> tuple[Group, str]:
    return (row["benchmark"], row["domain"], row["behavior"]), row["merge_method"]
