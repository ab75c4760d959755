"""What is not there, or cannot be hit, is null with a reason and counted."""

import json
import subprocess
import sys

import plain_reduce as plain
import pytest
from run_folders import CHECK_RUN, SETTINGS, corpus, metrics, pick, run_folder

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce import evaluate as stage
from pa_dist.reduce.block.methods import OTHER_TOKENS
from pa_dist.reduce.evaluate import evaluate


def test_left_out_rows_are_counted_in_notes(done):
    note = pick(done[2], scenario="best_of_n", metric="oracle", at=1)[0]["note"]
    assert "1 trajectories without a task left out; 1 trials without a reward left out" in note


def test_named_scenarios_say_why_they_cannot_be(tmp_path):
    folder = run_folder(tmp_path, [row for row in corpus() if row["benchmark"] is None])
    summary = evaluate(Evaluate(scenarios=["uq", "best_of_n", "fa"], resamples=10), folder, map)
    records = metrics(folder)
    assert summary.scenarios == ("uq", "best_of_n", "fa")
    for scenario, note in (("uq", "reward"), ("best_of_n", "no task"), ("fa", "mistake")):
        of_scenario = pick(records, scenario=scenario)
        assert {r["method"] for r in of_scenario} >= {"progress_advantage", "perplexity"}
        assert all(r["value"] is None and r["n"] == 0 and note in r["note"] for r in of_scenario)
    # Predictions are wanted even where nothing can judge them.
    attributions = folder.dataset("attributions").to_table()
    assert len(attributions) == 12 * 36 * 3
    assert attributions["correct"].null_count == len(attributions)


@pytest.mark.parametrize("rows", [[], [row for row in corpus() if row["benchmark"] is None]])
def test_without_labels_there_are_tables_and_a_reason(tmp_path, rows):
    folder = run_folder(tmp_path, rows)
    summary = evaluate(SETTINGS, folder, map)
    assert (summary.metrics, summary.scenarios, metrics(folder)) == (0, (), [])
    assert summary.note.startswith("no metrics: no trajectory")
    assert folder.count("scores") == len(rows)
    assert folder.count("attributions") == len(schema.PREDICTORS) * len(rows)
    for name in stage.OUTPUTS:
        assert folder.parts(name), name


def test_one_trajectory(tmp_path):
    row = plain.row("only", [[(-1.0, -2.0, -3.0, 1.0, 2.0)]], reward=1.0, task_id="t", mistake_step=1)
    folder = run_folder(tmp_path, [row])
    evaluate(Evaluate(scenarios=["auto", "best_of_n"], resamples=10), folder, map)
    records = metrics(folder)
    (success,) = pick(records, metric="success", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert (success["value"], success["ci_low"], success["note"]) == (1.0, None, "fewer than ten tasks: no interval")
    (auroc,) = pick(records, metric="auroc", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert auroc["note"] == "one class only: every trajectory succeeded"
    (agent,) = pick(records, metric="agent_accuracy", method="baseline", predictor="random")
    assert (agent["value"], agent["note"]) == (None, "no trajectory has a mistake_agent")


def test_empty_columns_are_null_and_select_nothing(tmp_path):
    rows = [
        row | {"token_ids_reference": [[1] * len(step) for step in row["token_ids"]]}
        for row in corpus()
        if row["benchmark"] == "tau"
    ]
    folder = run_folder(tmp_path, rows)
    evaluate(Evaluate(resamples=10), folder, map)
    per_token = pick(metrics(folder), method="progress_advantage_per_token")
    assert {r["value"] for r in per_token} == {None}
    selections = folder.dataset("selections").to_table().to_pylist()
    assert not pick(selections, method="progress_advantage_per_token")
    assert pick(selections, method="progress_advantage")
    # What is not defined says why, and the figure chosen beforehand is one that is.
    undefined = pick(metrics(folder), method="progress_advantage", token_agg="mean")
    assert {(r["value"], r["note"]) for r in undefined} == {(None, OTHER_TOKENS)}
    assert any(r["value"] is not None for r in pick(metrics(folder), method="progress_advantage", token_agg="sum"))
    compared = pick(json.loads(folder.read("comparisons.json")), choice="headline", method="progress_advantage")
    assert {r["token_agg"] for r in compared} == {"sum"}


def test_other_tokens_in_some_trajectories_cost_these_alone(tmp_path):
    rows = [row for row in corpus() if row["benchmark"] == "tau"]
    apart = rows[0] | {"token_ids_reference": [[1] * len(step) for step in rows[0]["token_ids"]]}
    folder = run_folder(tmp_path, [apart, *rows[1:]])
    assert evaluate(Evaluate(resamples=10), folder, map).apart == 1
    mean = pick(metrics(folder), metric="auroc", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert any("without a score left out" in (r["note"] or "") for r in mean)


def test_methods_without_their_column_are_missing_with_the_reason(tmp_path):
    null = [f"{model}_{name}" for model in schema.MODELS for name in ("entropy", "self_certainty")]
    whole = run_folder(tmp_path / "whole", corpus())
    folder = run_folder(
        tmp_path / "lacking", [row | dict.fromkeys(null, [None] * len(row["step"])) for row in corpus()]
    )
    folder.finish("score", null_columns={"entropy": "no entropy here", "self_certainty": "nor this"})
    evaluate(SETTINGS, whole, map)
    evaluate(SETTINGS, folder, map)
    others = [row for row in metrics(whole) if row["method"] not in ("entropy", "self_certainty")]
    records = metrics(folder)
    assert [row for row in records if row["method"] not in ("entropy", "self_certainty")] == others
    for method, reason in (("entropy", "no entropy here"), ("self_certainty", "nor this")):
        found = pick(records, method=method)
        assert {row["scenario"] for row in found} == {"uq", "prefix", "best_of_n", "fa"}
        assert all((row["value"], row["n"], row["note"]) == (None, 0, reason) for row in found)
    assert "entropy" not in folder.dataset("attributions").to_table()["method"].to_pylist()
    scores = folder.dataset("scores").to_table()
    assert scores["entropy__mean__mean"].null_count == len(scores)
    given = [name for name in scores.column_names if not name.startswith(("entropy", "self_certainty"))]
    assert scores.select(given) == whole.dataset("scores").to_table(columns=given)
    # The preset `paper` reads the top-k mean under the name of self-certainty.
    evaluate(Evaluate(intervals="none", preset="paper"), folder, map)
    assert any(row["value"] is not None for row in pick(metrics(folder), method="self_certainty"))
    if CHECK_RUN.exists():
        checked = subprocess.run([sys.executable, str(CHECK_RUN), folder.uri], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_labels_on_no_scored_step_are_counted_and_left_out(tmp_path):
    token = (-1.0, -2.0, -3.0, 1.0, 2.0)
    worse = (-3.0, -2.0, -3.0, 1.0, 2.0)
    # Actions are messages 1, 3 and 5, with advantages 1, -1 and none: the last one's tokens were cut.
    row = {"task_id": "q", "mistake_agent": None}
    rows = [plain.row(f"id{label}", [[token], [worse], []], mistake_step=label, **row) for label in (1, 2, 3, 5, 9)]
    folder = run_folder(tmp_path, rows)
    evaluate(SETTINGS, folder, map)
    wanted = {"method": "progress_advantage", "token_agg": "mean", "predictor": "sharpest_drop"}
    (exact,) = pick(metrics(folder), metric="step_accuracy", **wanted)
    (reachable,) = pick(metrics(folder), metric="step_accuracy_reachable", **wanted)
    # Message 3 is blamed: right once of five; of the labels 1 and 3, which are on scored steps, once of two.
    assert (exact["value"], exact["n"]) == (1 / 5, 5)
    assert (reachable["value"], reachable["n"]) == (1 / 2, 2)
    said = "3 of 5 labels are on no scored step (2 on a message that is no action, 1 in a step whose tokens truncation"
    assert exact["note"].startswith(f"{said} removed): they count as misses")
    assert reachable["note"].startswith(f"{said} removed): left out")
    names = [r["metric"] for r in pick(metrics(folder), **wanted)]
    assert names[:3] == ["step_accuracy", "step_accuracy_reachable", "step_accuracy_within"]
    # At random among messages 1, 3 and 5: a third of those two labels.
    (random_,) = pick(metrics(folder), metric="step_accuracy_reachable", method="baseline", predictor="random")
    assert (random_["value"], random_["n"]) == (pytest.approx(1 / 3), 2)
    attributions = pick(folder.dataset("attributions").to_table().to_pylist(), **wanted)
    why = {r["mistake_step"]: r["unreachable"] for r in attributions}
    assert why == {1: None, 2: "no action", 3: None, 5: "truncated", 9: "no action"}
    rows = json.loads(folder.read("comparisons.json"))
    assert said in pick(rows, choice="headline", against=None, **wanted)[0]["note"]


def test_preset_paper_reads_what_is_missing_as_the_released_code_does(tmp_path):
    """METHOD.md by hand: a truncated step of a method of log-probs is 0.0 everywhere; one of a certainty method is left
    out in UQ and best-of-N, and is 0.0 in FA; a null reward is 0.0 in best-of-N."""
    low, high = (-2.0, -1.0, -4.0, 1.0, 2.0), (-1.0, -2.0, -2.0, 1.0, 2.0)  # advantages -1 and 1, top-k -4 and -2
    rows = [
        # One task of three trials, the last without a reward.
        plain.row("a", [[low], []], task_id="t", trial=0, reward=1.0),  # advantage (-1 + 0) / 2, top-k -4
        plain.row("b", [[low], [high]], task_id="t", trial=1, reward=0.0),  # advantage (-1 + 1) / 2, top-k -3
        plain.row("c", [[high], []], task_id="t", trial=2, reward=None),  # advantage (1 + 0) / 2, top-k -2
        # Two failures labelled at their truncated steps, messages 5 and 3.
        plain.row("d", [[low], [low], []], benchmark="who", task_id="q", mistake_step=5),
        plain.row("e", [[high], [], [high]], benchmark="who", task_id="r", mistake_step=3),
    ]
    folder = run_folder(tmp_path, rows)
    evaluate(Evaluate(preset="paper", intervals="none"), folder, map)
    scores = {row["trajectory_id"]: row for row in folder.dataset("scores").to_table().to_pylist()}
    for method, expected in (("progress_advantage", (-0.5, 0.0, 0.5)), ("self_certainty", (-4.0, -3.0, -2.0))):
        assert tuple(scores[key][f"{method}__mean__mean"] for key in "abc") == expected
    records = metrics(folder)
    cell = {"token_agg": "mean", "step_agg": "mean"}
    for method in ("progress_advantage", "self_certainty"):
        # UQ: the success `a` is below the failure `b`, and `c` takes no part.
        (auroc,) = pick(records, metric="auroc", benchmark="b", method=method, **cell)
        assert (auroc["value"], auroc["n"]) == (0.0, 2)
        # Best of three: `c` is picked, whose reward counts as 0.0. Best of two: of the pairs ab, ac and bc none picks
        # `a`. Best of one: a third.
        best = pick(records, metric="success", benchmark="b", method=method, **cell)
        assert [(r["at"], r["value"]) for r in best] == [(1.0, pytest.approx(1 / 3)), (2.0, 0.0), (3.0, 0.0)]
    (mean,) = pick(records, metric="mean", at=1.0)
    (oracle,) = pick(records, metric="oracle", at=3.0)
    assert (mean["value"], oracle["value"]) == (pytest.approx(1 / 3), 1.0)
    # FA of advantages: of `d` -1, -1, 0, whose running sums -1, -2, -2 are lowest at message 3; of `e` 1, 0, 1, whose
    # lowest running sum is 1 at message 1, and whose largest fall is to message 3.
    # Of top-k means: of `d` -4, -4, 0, running sums -4, -8, -8; of `e` -2, 0, -2, running sums -2, -2, -4, lowest at
    # message 5, lowest value at message 1, and the only fall to message 5, which is there only as 0.0 is valid.
    steps = {
        (r["trajectory_id"], r["method"], r["predictor"]): r["step"]
        for r in pick(folder.dataset("attributions").to_table().to_pylist(), token_agg="mean")
    }
    by_hand = {
        ("d", "progress_advantage"): (3, 1, 1),
        ("e", "progress_advantage"): (1, 1, 3),
        ("d", "self_certainty"): (3, 1, 1),
        ("e", "self_certainty"): (5, 1, 5),
    }
    for (key, method), blamed in by_hand.items():
        assert tuple(steps[key, method, predictor] for predictor in schema.PREDICTORS) == blamed
    (drop,) = pick(
        records, metric="step_accuracy", method="progress_advantage", token_agg="mean", predictor="sharpest_abs_drop"
    )
    assert drop["value"] == 0.5  # `e`: the fall is to the labelled step, which has no tokens
    # What is missing stays null on disk.
    on_disk = folder.dataset("steps").to_table().to_pylist()
    cut = [row["progress_advantage__mean"] for row in on_disk if not row["n_tokens"]]
    assert cut == [None] * 4
    picked = pick(folder.dataset("selections").to_table().to_pylist(), method="progress_advantage", **cell)
    assert [(r["trajectory_id"], r["reward"]) for r in picked] == [("c", None)]
