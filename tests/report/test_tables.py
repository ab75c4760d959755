"""The terminal's tables: nothing cut, missing figures shown as missing, file names that are no markup."""

import io
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from pa_dist import schema
from pa_dist.report.terminal.metrics import show_metrics
from pa_dist.report.wording import finding
from pa_dist.store.folder import RunFolder


def shown(tmp_path, *rows: dict[str, Any], compared: tuple[dict[str, Any], ...] = ()) -> list[str]:
    folder = RunFolder(str(tmp_path))
    defaults = {"benchmark": "tau2", "domain": "airline", "token_agg": "mean", "step_agg": "mean", "n": 25}
    table = pa.Table.from_pylist([{**defaults, **row} for row in rows], schema.METRICS)
    folder.filesystem.create_dir(folder.path())
    pa.parquet.write_table(table, folder.path("metrics.parquet"))
    if compared:
        table = pa.Table.from_pylist([{**defaults, **row} for row in compared], schema.COMPARISONS)
        pa.parquet.write_table(table, folder.path("comparisons.parquet"))
    out = io.StringIO()
    show_metrics(str(tmp_path), Console(file=out))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_uq_has_an_interval_and_a_dash_for_what_is_missing(tmp_path):
    row = {"scenario": "uq", "method": "progress_advantage_per_token"}
    lines = shown(
        tmp_path,
        {**row, "metric": "auroc", "value": 0.8654, "ci_low": 0.751, "ci_high": 0.979},
        {**row, "metric": "spearman", "value": None, "note": "one class only"},
        {**row, "metric": "auroc", "token_agg": "max", "value": 0.999},
    )
    assert lines[0] == "uq: tau2 airline"
    assert "progress_advantage_per_token 0.865 [0.75, 0.98] -" in lines
    assert "n = 25, [95% interval]; one class only" in lines
    assert not any("0.999" in line for line in lines)


def test_best_of_n_shows_baselines_and_the_largest_n(tmp_path):
    rows = [
        {"scenario": "best_of_n", "method": method, "metric": metric, "at": float(n), "value": n / 10}
        for method, metric in (("progress_advantage", "success"), ("baseline", "oracle"))
        for n in range(1, 8)
    ]
    lines = shown(tmp_path, *rows)
    assert "method best of 1 best of 2 best of 4 best of 7" in lines
    assert "progress_advantage 0.100 0.200 0.400 0.700" in lines
    assert "oracle pass@n 0.100 0.200 0.400 0.700" in lines


def _of_n(method, metric, values, n=25):
    names = {"scenario": "best_of_n", "method": method, "metric": metric, "n": n}
    named = names if method != "baseline" else {**names, "token_agg": None, "step_agg": None}
    return [{**named, "at": float(at), "value": value} for at, value in values.items()]


def test_best_of_n_shows_votes_and_what_is_gained_for_tokens(tmp_path):
    rows = [
        *_of_n("progress_advantage", "success", {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.65}),
        *_of_n("progress_advantage", "weighted_vote", {4: 0.8}),
        *_of_n("entropy", "weighted_vote", {4: 0.9}),
        *_of_n("baseline", "vote", {4: 0.7}),
        *_of_n("baseline", "tokens", {1: 1000.0, 2: 2000.0, 3: 3000.0, 4: 4000.4}),
    ]
    lines = shown(tmp_path, *rows)
    assert "progress_advantage 0.500 0.600 0.650" in lines
    assert "progress_advantage, weighted vote 0.800" in lines
    assert "majority vote 0.700" in lines
    assert "tokens of n trials 1,000 2,000 4,000" in lines
    # 0.1 for the second 1,000 tokens, 0.05 for the 2,000 after these.
    assert "progress_advantage, gain a 1,000 tokens +0.100 +0.025" in lines
    assert not any("0.900" in line for line in lines)


def test_a_gain_is_of_the_same_tasks(tmp_path):
    rows = [
        *_of_n("progress_advantage", "success", {1: 0.5}),
        *_of_n("progress_advantage", "success", {2: 0.6}, n=20),
        *_of_n("baseline", "tokens", {1: 1000.0}),
        *_of_n("baseline", "tokens", {2: 3000.0}, n=20),
    ]
    assert not any("gain a 1,000" in line for line in shown(tmp_path, *rows))


def test_without_a_reward_there_is_the_cost_alone(tmp_path):
    why = "no task has a trial with a reward"
    rows = [
        {"scenario": "best_of_n", "method": method, "metric": metric, "at": None, "n": 0, "note": why}
        for method, metric in (("progress_advantage", "success"), ("baseline", "mean"))
    ]
    lines = shown(tmp_path, *rows, *_of_n("baseline", "tokens", {1: 10.0, 2: 20.0}))
    assert "tokens of n trials 10 20" in lines
    assert f"n = 0; {why}" in lines
    assert not any(line.startswith(("progress_advantage", "mean@n")) for line in lines)
    assert finding("best_of_n", rows) == why


def test_fa_has_a_column_a_predictor_and_its_baselines_below(tmp_path):
    row = {"scenario": "fa", "step_agg": None, "metric": "step_accuracy"}
    mine = {**row, "method": "progress_advantage"}
    lines = shown(
        tmp_path,
        {**row, "method": "baseline", "token_agg": None, "predictor": "random", "value": 0.125},
        {**mine, "predictor": "min_cumulative", "value": 0.25, "ci_low": 0.1, "ci_high": 0.4},
        {**mine, "predictor": "sharpest_drop", "value": 0.5},
        {**mine, "predictor": "sharpest_drop", "metric": "step_accuracy_within", "at": 3.0, "value": 0.75},
    )
    assert "method min_cumulative sharpest_drop" in lines
    assert "progress_advantage 0.250 [0.10, 0.40] 0.500" in lines
    assert "n = 25, [95% interval]; random 0.125" in lines


def test_fa_has_a_column_for_labelled_steps(tmp_path):
    row = {"scenario": "fa", "step_agg": None, "method": "progress_advantage"}
    exact = {**row, "metric": "step_accuracy", "predictor": "sharpest_drop", "value": 0.5}
    steps = {**row, "metric": "step_auroc", "value": 0.75, "ci_low": 0.7, "ci_high": 0.8, "n": 90}
    recall = {**row, "metric": "recall_at", "at": 3.0, "value": 0.4}
    lines = shown(tmp_path, exact, steps, recall)
    assert lines[0] == "fa: tau2 airline, step accuracy"
    assert "method sharpest_drop step AUROC" in lines
    assert "progress_advantage 0.500 0.750 [0.70, 0.80]" in lines
    assert "n = 25, [95% interval]; step AUROC of 90 labelled steps" in lines
    lines = shown(tmp_path, steps, recall)
    assert lines[0] == "fa: tau2 airline"
    assert "progress_advantage 0.750 [0.70, 0.80]" in lines
    assert "n = 90, [95% interval]" in lines
    found = finding("fa", [{**of, "n": of.get("n", 25)} for of in (exact | {"ci_low": None}, steps)])
    assert found.endswith("sharpest_drop 0.500; step AUROC 0.750 [0.70, 0.80] over 90 labelled steps")
    assert finding("fa", [steps]) == "step AUROC 0.750 [0.70, 0.80] over 90 labelled steps"


def test_labels_that_cannot_be_hit_are_left_out_beside_the_figure(tmp_path):
    row = {"scenario": "fa", "step_agg": None, "method": "progress_advantage", "predictor": "sharpest_drop"}
    hit = {**row, "metric": "step_accuracy_reachable", "value": 0.6, "n": 20}
    exact = {**row, "metric": "step_accuracy", "value": 0.48}
    said = "progress_advantage: over the 20 labels on scored steps alone: sharpest_drop 0.600"
    assert f"n = 25; {said}" in " ".join(shown(tmp_path, exact, hit))
    assert "alone" not in " ".join(shown(tmp_path, exact, {**hit, "n": 25}))
    none = {**hit, "value": None, "n": 0}
    assert "n = 25; progress_advantage: no label is on a scored step" in " ".join(shown(tmp_path, exact, none))


def test_brackets_are_explained_where_there_are_some(tmp_path):
    row = {"scenario": "uq", "method": "entropy", "metric": "auroc", "value": 0.5}
    assert "n = 25" in shown(tmp_path, row)
    # Of a figure without its interval in the table nothing is explained either.
    assert "n = 25" in shown(tmp_path, row, {**row, "metric": "aurc", "ci_low": 0.4, "ci_high": 0.6})


def test_names_from_files_send_no_escape(tmp_path):
    named = {"domain": "\x1b[2J\u202e", "note": "\x9b2J", "method": "entropy", "metric": "auroc", "value": 0.5}
    lines = shown(tmp_path, {"scenario": "uq", **named})
    assert lines[0] == "uq: tau2 ␛[2J‹U+202E›"
    assert not any(mark in line for line in lines for mark in "\x1b\x9b\u202e")


@pytest.mark.parametrize("name", ["[/x]", "[red]desk"])
def test_names_from_files_are_no_markup(tmp_path, name):
    lines = shown(tmp_path, {"scenario": "uq", "domain": name, "method": "entropy", "metric": "auroc", "value": 0.5})
    assert lines[0] == f"uq: tau2 {name}"


def test_what_would_hold_on_other_tasks_stands_below(tmp_path):
    row = {"scenario": "uq", "method": "progress_advantage", "metric": "auroc"}
    crossed = {**row, "choice": "cross_fitted", "ci_low": 0.6, "ci_high": 0.8}
    less = {**crossed, "p_holm": 0.04, "comparisons": 8, "ci_low": 0.01, "ci_high": 0.09}
    compared = (
        {**crossed, "value": 0.7},
        {**row, "choice": "hindsight", "value": 0.85},
        {**less, "against": "entropy", "value": 0.05},
        {**less, "against": "perplexity", "value": 0.25},
        {**less, "against": "self_certainty", "value": None},
        {**less, "against": "policy_logprob", "value": -0.5, "choice": "headline"},
    )
    lines = shown(tmp_path, {**row, "value": 0.75}, compared=compared)
    said = "progress_advantage, its cell chosen on other tasks: auroc 0.700 [0.60, 0.80]"
    assert f"{said}; the best cell in hindsight: 0.850" in lines
    assert "less entropy, the best of the others: +0.050 [+0.010, +0.090], p 0.040 (Holm, 8 comparisons)" in lines
    assert not any("perplexity" in line or "policy" in line for line in lines)


def test_of_many_groups_some_are_shown_and_the_rest_counted(tmp_path):
    row = {"scenario": "uq", "method": "entropy", "metric": "auroc", "value": 0.5}
    lines = shown(tmp_path, *({**row, "domain": f"d{k:02d}"} for k in range(30)))
    assert sum(line.startswith("uq: tau2 d") for line in lines) == 12
    assert [line for line in lines if "groups more" in line] == [f"uq: 18 groups more, in {tmp_path}/metrics.parquet"]


def test_behaviors_are_named_where_several_share_a_domain(tmp_path):
    row = {"scenario": "uq", "method": "entropy", "metric": "auroc", "value": 0.5}
    behaviors = ({"behavior": "gpt"}, {"behavior": None}, {"domain": "retail", "behavior": "gpt"})
    lines = shown(tmp_path, *({**row, **behavior} for behavior in behaviors))
    titles = [line for line in lines if line.startswith("uq:")]
    assert titles == ["uq: tau2 retail", "uq: tau2 airline, by gpt", "uq: tau2 airline, by a policy without a name"]
