import json
import math
import pickle
import random
import subprocess
import sys
from pathlib import Path

import plain_reduce as plain
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce import stage, survey
from pa_dist.reduce.methods import cells
from pa_dist.reduce.stage import evaluate
from pa_dist.run import RunFolder

CHECK_RUN = Path(__file__).parents[3] / "shared" / "tools" / "check_run.py"
SETTINGS = Evaluate(resamples=40)


def _corpus(n=36):
    """Three groups: one with rewards and trials (N differs, some trial numbers null), one with mistakes, one bare."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        steps = [
            [(*(-rng.randrange(64) / 8 for _ in range(3)), 1.0, 2.0) for _ in range(rng.randrange(5))]
            for _ in range(rng.randrange(7))
        ]
        kind = i % 3
        row = plain.row(f"id{i:03d}", steps, benchmark=["tau", "who", None][kind], domain=["airline", None, None][kind])
        if kind == 0:
            labels = {"task_id": f"t{i % 5}", "trial": None if i % 4 == 0 else i, "reward": float(rng.random() < 0.5)}
            row |= labels | ({"task_id": None} if i == 3 else {"reward": None} if i == 6 else {})
        if kind == 1:
            row |= {"task_id": f"q{i}", "mistake_step": 3, "mistake_agent": "assistant"}
        rows.append(row)
    return rows


def _folder(path, rows, per_file=100):
    """A run folder as ingest and scoring leave it."""
    folder = RunFolder(str(path))
    folder.start("score", {})
    folder.finish("score")
    columns = set(schema.TRAJECTORIES.names)
    trajectories = [{key: value for key, value in row.items() if key in columns} for row in rows]
    rejected = plain.row("rejected", [])
    kept = [*trajectories, {key: value for key, value in rejected.items() if key in columns}]
    folder.write("trajectories", "part-0", pa.Table.from_pylist(kept, schema.TRAJECTORIES))
    reject = {"source": "x", "place": "line 1", "trajectory_id": "rejected", "stage": "score", "reason": "no action"}
    folder.write("rejects", "part-0", pa.Table.from_pylist([reject], schema.REJECTS))
    for start in range(0, len(rows), per_file):
        folder.write("logprobs", f"part-{start:05d}", plain.table(rows[start : start + per_file]))
    return folder


def _pickled(function, items):
    """Runs tasks the way another process would see them, last one first."""
    sent = [pickle.loads(pickle.dumps((function, item))) for item in items]
    done = [pickle.loads(pickle.dumps(f(item))) for f, item in reversed(sent)]
    return iter(done)


def _metrics(folder):
    return json.loads(Path(folder.path("metrics.json")).read_text(), parse_constant=pytest.fail)


def _pick(records, **wanted):
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = _folder(tmp_path_factory.mktemp("run"), _corpus())
    return folder, evaluate(SETTINGS, folder, map), _metrics(folder)


def test_the_run_folder_keeps_the_contract(done):
    folder, summary, records = done
    schemas = {"steps": schema.STEPS, "selections": schema.SELECTIONS, "attributions": schema.ATTRIBUTIONS}
    schemas["scores"] = schema.scores([cell.column for cell in cells("published")])
    for name, expected in schemas.items():
        assert folder.dataset(name).to_table().schema.equals(expected), name
    scores = folder.dataset("scores").to_table()
    assert sorted(scores["trajectory_id"].to_pylist()) == [row["trajectory_id"] for row in _corpus()]
    assert pq.read_table(folder.path("metrics.parquet")).to_pylist() == records
    assert pq.read_schema(folder.path("metrics.parquet")).equals(schema.METRICS)
    assert len({tuple(list(r.values())[:10]) for r in records}) == len(records) == summary.metrics
    for r in records:
        assert list(r) == schema.METRICS.names
        assert r["note"] if r["value"] is None else r["n"] > 0
        assert (r["ci_low"] is None) == (r["ci_high"] is None)
        assert r["ci_low"] is None or r["ci_low"] <= r["ci_high"]
        assert r["ci_low"] is not None or r["note"]


def test_check_run_passes(done):
    if not CHECK_RUN.exists():
        pytest.skip(f"{CHECK_RUN} is not beside this checkout")
    checked = subprocess.run([sys.executable, str(CHECK_RUN), done[0].uri], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_auto_takes_what_the_labels_allow(done):
    _, summary, records = done
    assert summary.scenarios == ("uq", "best_of_n", "fa")
    groups = {(r["scenario"], r["benchmark"], r["domain"]) for r in records}
    assert groups == {("uq", "tau", "airline"), ("best_of_n", "tau", "airline"), ("fa", "who", None)}
    rows = _corpus()
    assert summary.trajectories == len(rows)
    assert summary.steps == sum(len(row["step"]) for row in rows)
    assert summary.scored_steps == sum(bool(step) for row in rows for step in row["policy_logprob"])


def test_figures_are_those_of_the_tables(done):
    folder, _, records = done
    scores = folder.dataset("scores").to_table().to_pylist()
    for column, sign in (("progress_advantage__min__bottom10", 1), ("entropy__sum__max", -1)):
        known = [s for s in scores if s["reward"] is not None and s[column] is not None]
        method, token_agg, step_agg = column.split("__")
        (auroc,) = _pick(records, metric="auroc", method=method, token_agg=token_agg, step_agg=step_agg)
        expected = roc_auc_score([s["reward"] for s in known], [sign * s[column] for s in known])
        assert math.isclose(auroc["value"], expected)
        assert auroc["n"] == len(known)
        tasks = {}
        for s in (s for s in scores if s["reward"] is not None and s["task_id"] is not None):
            tasks.setdefault(s["task_id"], []).append(s)
        most = max(map(len, tasks.values()))
        (last,) = _pick(records, metric="success", method=method, token_agg=token_agg, step_agg=step_agg, at=most)
        picked = [_best(task, column, sign) for task in tasks.values() if len(task) == most]
        assert math.isclose(last["value"], sum(s["reward"] for s in picked) / len(picked))
        wanted = {s["task_id"]: s["trajectory_id"] for s in (_best(task, column, sign) for task in tasks.values())}
        selected = folder.dataset("selections").to_table().to_pylist()
        chosen = _pick(selected, method=method, token_agg=token_agg, step_agg=step_agg)
        assert {s["task_id"]: s["trajectory_id"] for s in chosen} == wanted
        assert all(
            s["score"] == next(x for x in scores if x["trajectory_id"] == s["trajectory_id"])[column] for s in chosen
        )


def _best(task, column, sign):
    """Highest score, then lowest trial, then trajectory_id; no score and no trial number come last."""
    return min(
        task,
        key=lambda s: (
            math.inf if s[column] is None else -sign * s[column],
            math.inf if s["trial"] is None else s["trial"],
            s["trajectory_id"],
        ),
    )


def test_left_out_rows_are_counted_in_notes(done):
    note = _pick(done[2], scenario="best_of_n", metric="oracle", at=1)[0]["note"]
    assert "1 trajectories without a task left out; 1 trials without a reward left out" in note


def test_nothing_depends_on_files_order_or_where_tasks_run(done, tmp_path, monkeypatch):
    rows = _corpus()
    random.Random(1).shuffle(rows)
    folder = _folder(tmp_path, rows, per_file=5)
    monkeypatch.setattr(stage, "_TASK_BYTES", 1)
    monkeypatch.setattr(stage, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(stage, "_TASK_SCORES", 36 * 7)
    assert evaluate(SETTINGS, folder, _pickled) == done[1]
    assert len(folder.parts("scores")) > len(folder.parts("logprobs")) > 1
    assert _metrics(folder) == done[2]
    assert folder.read("comparisons.json") == done[0].read("comparisons.json")


def test_row_groups_of_a_large_file_are_tasks_of_their_own(done, tmp_path, monkeypatch):
    folder = _folder(tmp_path, [])
    Path(folder.path("logprobs")).mkdir()
    pq.write_table(plain.table(_corpus()), folder.path("logprobs", "part-0.parquet"), row_group_size=10)
    monkeypatch.setattr(stage, "_TASK_BYTES", 1)
    assert evaluate(SETTINGS, folder, map) == done[1]
    assert len(folder.parts("scores")) == 4
    assert _metrics(folder) == done[2]


def test_the_seed_decides_and_a_rerun_replaces(done, tmp_path):
    folder = _folder(tmp_path, _corpus(), per_file=10)
    folder.write("scores", "part-stale", pa.table({"x": [1]}))
    evaluate(Evaluate(resamples=40, seed=1), folder, map)
    other = _metrics(folder)
    assert [r["value"] for r in other] == [r["value"] for r in done[2]]
    assert [r["ci_low"] for r in other] != [r["ci_low"] for r in done[2]]
    evaluate(SETTINGS, folder, map)
    first = Path(folder.path("metrics.parquet")).read_bytes()
    evaluate(SETTINGS, folder, map)
    assert _metrics(folder) == done[2]
    assert Path(folder.path("metrics.parquet")).read_bytes() == first


def test_named_scenarios_say_why_they_cannot_be(tmp_path):
    folder = _folder(tmp_path, [row for row in _corpus() if row["benchmark"] is None])
    summary = evaluate(Evaluate(scenarios=["uq", "best_of_n", "fa"], resamples=10), folder, map)
    records = _metrics(folder)
    assert summary.scenarios == ("uq", "best_of_n", "fa")
    for scenario, note in (("uq", "reward"), ("best_of_n", "no task"), ("fa", "mistake")):
        of_scenario = _pick(records, scenario=scenario)
        assert {r["method"] for r in of_scenario} >= {"progress_advantage", "perplexity"}
        assert all(r["value"] is None and r["n"] == 0 and note in r["note"] for r in of_scenario)
    # Predictions are wanted even where nothing can judge them.
    attributions = folder.dataset("attributions").to_table()
    assert len(attributions) == 12 * 36 * 3
    assert attributions["correct"].null_count == len(attributions)


@pytest.mark.parametrize("rows", [[], [row for row in _corpus() if row["benchmark"] is None]])
def test_without_labels_there_are_tables_and_a_reason(tmp_path, rows):
    folder = _folder(tmp_path, rows)
    summary = evaluate(SETTINGS, folder, map)
    assert (summary.metrics, summary.scenarios, _metrics(folder)) == (0, (), [])
    assert summary.note.startswith("no metrics: no trajectory")
    assert folder.count("scores") == len(rows)
    for name in stage.OUTPUTS:
        assert folder.parts(name), name


def test_one_trajectory(tmp_path):
    row = plain.row("only", [[(-1.0, -2.0, -3.0, 1.0, 2.0)]], reward=1.0, task_id="t", mistake_step=1)
    folder = _folder(tmp_path, [row])
    evaluate(Evaluate(scenarios=["auto", "best_of_n"], resamples=10), folder, map)
    records = _metrics(folder)
    (success,) = _pick(records, metric="success", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert (success["value"], success["ci_low"], success["note"]) == (1.0, None, "fewer than ten tasks: no interval")
    (auroc,) = _pick(records, metric="auroc", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert auroc["note"] == "one class only: every trajectory succeeded"
    (agent,) = _pick(records, metric="agent_accuracy", method="baseline", predictor="random")
    assert (agent["value"], agent["note"]) == (None, "no trajectory has a mistake_agent")


def test_empty_columns_are_null_and_select_nothing(tmp_path):
    rows = [
        row | {"token_ids_reference": [[1] * len(step) for step in row["token_ids"]]}
        for row in _corpus()
        if row["benchmark"] == "tau"
    ]
    folder = _folder(tmp_path, rows)
    evaluate(Evaluate(resamples=10), folder, map)
    per_token = _pick(_metrics(folder), method="progress_advantage_per_token")
    assert {r["value"] for r in per_token} == {None}
    selections = folder.dataset("selections").to_table().to_pylist()
    assert not _pick(selections, method="progress_advantage_per_token")
    assert _pick(selections, method="progress_advantage")


def test_survey_counts_labels(done):
    facts = {fact.group: fact for fact in survey.facts(done[0], SETTINGS)}
    assert facts["who", None, None].n_mistakes == 12
    assert facts["tau", "airline", None].n_rewards == 11
    assert facts[None, None, None].most_trials == 0


def _rollout(behavior, task, trial, reward, advantage):
    """One step of one token, whose advantage is as given."""
    return plain.row(
        f"{behavior}-{task}-{trial}",
        [[(-2.0 + advantage, -2.0, -3.0, 1.0, 2.0)]],
        behavior=behavior,
        task_id=task,
        trial=trial,
        reward=reward,
    )


def test_behaviors_are_groups_of_their_own(tmp_path):
    # `old` fails where its score is high, and `new` succeeds there. Two trials a task of each: never four.
    rows = [
        _rollout(behavior, f"t{task}", trial, float((trial == 0) == (behavior == "new")), 1.0 - trial)
        for behavior in ("old", "new")
        for task in range(3)
        for trial in range(2)
    ]
    together = _folder(tmp_path / "both", rows)
    evaluate(SETTINGS, together, map)
    records = _metrics(together)
    wanted = {"method": "progress_advantage", "token_agg": "mean", "step_agg": "mean"}
    for behavior, auroc, success in (("new", 1.0, 1.0), ("old", 0.0, 0.0)):
        (found,) = _pick(records, metric="auroc", behavior=behavior, **wanted)
        assert (found["value"], found["n"]) == (auroc, 6)
        best = _pick(records, metric="success", behavior=behavior, **wanted)
        assert [(r["at"], r["n"]) for r in best] == [(1.0, 3), (2.0, 3)]
        assert best[-1]["value"] == success
        # Its figures are those of a run of its own.
        alone = _folder(tmp_path / behavior, [row for row in rows if row["behavior"] == behavior])
        evaluate(SETTINGS, alone, map)
        for table in ("metrics", "comparisons"):
            of_both, of_one = (json.loads(folder.read(f"{table}.json")) for folder in (together, alone))
            assert _pick(of_both, behavior=behavior) == of_one
    assert {r["behavior"] for r in records} == {"new", "old"}
    selections = together.dataset("selections").to_table().to_pylist()
    assert {(r["behavior"], r["n_trials"]) for r in selections} == {("new", 2), ("old", 2)}


def test_methods_without_their_column_are_missing_with_the_reason(tmp_path):
    null = [f"{model}_{name}" for model in schema.MODELS for name in ("entropy", "self_certainty")]
    whole = _folder(tmp_path / "whole", _corpus())
    folder = _folder(tmp_path / "lacking", [row | dict.fromkeys(null, [None] * len(row["step"])) for row in _corpus()])
    folder.finish("score", null_columns={"entropy": "no entropy here", "self_certainty": "nor this"})
    evaluate(SETTINGS, whole, map)
    evaluate(SETTINGS, folder, map)
    others = [row for row in _metrics(whole) if row["method"] not in ("entropy", "self_certainty")]
    records = _metrics(folder)
    assert [row for row in records if row["method"] not in ("entropy", "self_certainty")] == others
    for method, reason in (("entropy", "no entropy here"), ("self_certainty", "nor this")):
        found = _pick(records, method=method)
        assert {row["scenario"] for row in found} == {"uq", "best_of_n", "fa"}
        assert all((row["value"], row["n"], row["note"]) == (None, 0, reason) for row in found)
    assert "entropy" not in folder.dataset("attributions").to_table()["method"].to_pylist()
    scores = folder.dataset("scores").to_table()
    assert scores["entropy__mean__mean"].null_count == len(scores)
    given = [name for name in scores.column_names if not name.startswith(("entropy", "self_certainty"))]
    assert scores.select(given) == whole.dataset("scores").to_table(columns=given)
    # The preset `paper` reads the top-k mean under the name of self-certainty.
    evaluate(Evaluate(resamples=0, preset="paper"), folder, map)
    assert any(row["value"] is not None for row in _pick(_metrics(folder), method="self_certainty"))
    if CHECK_RUN.exists():
        checked = subprocess.run([sys.executable, str(CHECK_RUN), folder.uri], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_comparisons_beside_the_metrics(done):
    folder, _, metrics = done
    rows = json.loads(Path(folder.path("comparisons.json")).read_text(), parse_constant=pytest.fail)
    table = pq.read_table(folder.path("comparisons.parquet"))
    assert table.schema.equals(schema.COMPARISONS)
    assert table.to_pylist() == rows
    assert all(r["value"] is not None or r["note"] for r in rows)
    for scenario, metric in (("uq", "auroc"), ("best_of_n", "success"), ("fa", "step_accuracy")):
        own = _pick(rows, scenario=scenario, metric=metric, against=None)
        plain_rows = _pick(metrics, scenario=scenario, metric=metric, method="progress_advantage")
        at = max((r["at"] or 0 for r in plain_rows), default=0) or None
        values = [r["value"] for r in plain_rows if r["at"] == at]
        (best,) = _pick(own, choice="hindsight", method="progress_advantage")
        assert best["value"] == pytest.approx(max(values))
        for r in _pick(own, choice="headline"):
            keys = ("scenario", "benchmark", "domain", "method", "token_agg", "step_agg", "predictor", "metric", "at")
            (same,) = _pick(metrics, **{key: r[key] for key in keys})
            found = [r[key] for key in ("value", "ci_low", "ci_high", "n")]
            assert found == pytest.approx([same[key] for key in ("value", "ci_low", "ci_high", "n")])
    (crossed,) = _pick(rows, scenario="fa", choice="cross_fitted", method="progress_advantage", against=None)
    assert 0 <= crossed["value"] <= _pick(own, choice="hindsight", method="progress_advantage")[0]["value"]
    assert "chosen on other tasks: " in crossed["note"]
    # The difference is that of the plain figures, and all differences of a family were adjusted together.
    (apart,) = _pick(rows, scenario="best_of_n", choice="headline", against="mean")
    (success,) = _pick(rows, scenario="best_of_n", choice="headline", against=None, method="progress_advantage")
    (mean,) = _pick(metrics, metric="mean", at=apart["at"])
    assert apart["value"] == pytest.approx(success["value"] - mean["value"])
    family = _pick(rows, scenario="fa", choice="headline", method="progress_advantage", predictor="sharpest_drop")
    family = [r for r in family if r["against"]]
    assert {r["against"] for r in family} >= {"random", "first_step", "last_step", "entropy"}
    assert {r["comparisons"] for r in family} == {len(family)}
    assert all(r["p_value"] <= r["p_holm"] <= 1 for r in family)


def test_repeated_trials_are_said_and_kept_apart(tmp_path):
    # Three rollouts say they are trial 0 of a task, one is trial 1: best of two, never of four. By trajectory_id the
    # first of the three stands for them; it fails, though the others succeed.
    rows = [
        _rollout("a", "t", 0, 0.0, 3.0),
        _rollout("b", "t", 0, 1.0, 2.0),
        _rollout("c", "t", 0, 1.0, 1.0),
        _rollout("d", "t", 1, 1.0, 0.0),
        # Without a number each is a trial of its own.
        _rollout("e", "u", None, 1.0, 1.0),
        _rollout("f", "u", None, 0.0, 0.0),
    ]
    rows = [row | {"behavior": None} for row in rows]
    folder = _folder(tmp_path, rows)
    summary = evaluate(SETTINGS, folder, map)
    assert summary.note == "2 rollouts repeat a task and trial and take no part in best-of-n"
    records = _metrics(folder)
    best = _pick(records, metric="success", method="progress_advantage", token_agg="mean", step_agg="mean")
    # Best of one: of t a half, of u a half. Best of two: the pick of t fails, that of u succeeds.
    assert [(r["at"], r["value"], r["n"]) for r in best] == [(1.0, 0.5, 2), (2.0, 0.5, 2)]
    assert all("2 rollouts that repeat a task and trial left out" in r["note"] for r in best)
    selections = folder.dataset("selections").to_table().to_pylist()
    assert {(r["task_id"], r["n_trials"]) for r in selections} == {("t", 2), ("u", 2)}
    (auroc,) = _pick(records, metric="auroc", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert auroc["n"] == 6
    # All are one trial: there is no choice to make, and that is said.
    alone = _folder(tmp_path / "alone", rows[:3])
    summary = evaluate(SETTINGS, alone, map)
    assert (summary.scenarios, summary.note[:18]) == (("uq",), "2 rollouts repeat ")


def test_labels_on_no_scored_step_are_counted_and_left_out(tmp_path):
    token = (-1.0, -2.0, -3.0, 1.0, 2.0)
    worse = (-3.0, -2.0, -3.0, 1.0, 2.0)
    # Actions are messages 1, 3 and 5, with advantages 1, -1 and none: the last one's tokens were cut.
    row = {"task_id": "q", "mistake_agent": None}
    rows = [plain.row(f"id{label}", [[token], [worse], []], mistake_step=label, **row) for label in (1, 2, 3, 5, 9)]
    folder = _folder(tmp_path, rows)
    evaluate(SETTINGS, folder, map)
    wanted = {"method": "progress_advantage", "token_agg": "mean", "predictor": "sharpest_drop"}
    (exact,) = _pick(_metrics(folder), metric="step_accuracy", **wanted)
    (reachable,) = _pick(_metrics(folder), metric="step_accuracy_reachable", **wanted)
    # Message 3 is blamed: right once of five; of the labels 1 and 3, which are on scored steps, once of two.
    assert (exact["value"], exact["n"]) == (1 / 5, 5)
    assert (reachable["value"], reachable["n"]) == (1 / 2, 2)
    said = "3 of 5 labels are on no scored step (2 on a message that is no action, 1 in a step whose tokens truncation"
    assert exact["note"].startswith(f"{said} removed): they count as misses")
    assert reachable["note"].startswith(f"{said} removed): left out")
    names = [r["metric"] for r in _pick(_metrics(folder), **wanted)]
    assert names[:3] == ["step_accuracy", "step_accuracy_reachable", "step_accuracy_within"]
    # At random among messages 1, 3 and 5: a third of those two labels.
    (random_,) = _pick(_metrics(folder), metric="step_accuracy_reachable", method="baseline", predictor="random")
    assert (random_["value"], random_["n"]) == (pytest.approx(1 / 3), 2)
    attributions = _pick(folder.dataset("attributions").to_table().to_pylist(), **wanted)
    why = {r["mistake_step"]: r["unreachable"] for r in attributions}
    assert why == {1: None, 2: "no action", 3: None, 5: "truncated", 9: "no action"}
    rows = json.loads(folder.read("comparisons.json"))
    assert said in _pick(rows, choice="headline", against=None, **wanted)[0]["note"]


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
    folder = _folder(tmp_path, rows)
    evaluate(Evaluate(preset="paper", resamples=0), folder, map)
    scores = {row["trajectory_id"]: row for row in folder.dataset("scores").to_table().to_pylist()}
    for method, expected in (("progress_advantage", (-0.5, 0.0, 0.5)), ("self_certainty", (-4.0, -3.0, -2.0))):
        assert tuple(scores[key][f"{method}__mean__mean"] for key in "abc") == expected
    records = _metrics(folder)
    cell = {"token_agg": "mean", "step_agg": "mean"}
    for method in ("progress_advantage", "self_certainty"):
        # UQ: the success `a` is below the failure `b`, and `c` takes no part.
        (auroc,) = _pick(records, metric="auroc", benchmark="b", method=method, **cell)
        assert (auroc["value"], auroc["n"]) == (0.0, 2)
        # Best of three: `c` is picked, whose reward counts as 0.0. Best of two: of the pairs ab, ac and bc none picks
        # `a`. Best of one: a third.
        best = _pick(records, metric="success", benchmark="b", method=method, **cell)
        assert [(r["at"], r["value"]) for r in best] == [(1.0, pytest.approx(1 / 3)), (2.0, 0.0), (3.0, 0.0)]
    (mean,) = _pick(records, metric="mean", at=1.0)
    (oracle,) = _pick(records, metric="oracle", at=3.0)
    assert (mean["value"], oracle["value"]) == (pytest.approx(1 / 3), 1.0)
    # FA of advantages: of `d` -1, -1, 0, whose running sums -1, -2, -2 are lowest at message 3; of `e` 1, 0, 1, whose
    # lowest running sum is 1 at message 1, and whose largest fall is to message 3.
    # Of top-k means: of `d` -4, -4, 0, running sums -4, -8, -8; of `e` -2, 0, -2, running sums -2, -2, -4, lowest at
    # message 5, lowest value at message 1, and the only fall to message 5, which is there only as 0.0 is valid.
    steps = {
        (r["trajectory_id"], r["method"], r["predictor"]): r["step"]
        for r in _pick(folder.dataset("attributions").to_table().to_pylist(), token_agg="mean")
    }
    by_hand = {
        ("d", "progress_advantage"): (3, 1, 1),
        ("e", "progress_advantage"): (1, 1, 3),
        ("d", "self_certainty"): (3, 1, 1),
        ("e", "self_certainty"): (5, 1, 5),
    }
    for (key, method), blamed in by_hand.items():
        assert tuple(steps[key, method, predictor] for predictor in schema.PREDICTORS) == blamed
    (drop,) = _pick(
        records, metric="step_accuracy", method="progress_advantage", token_agg="mean", predictor="sharpest_abs_drop"
    )
    assert drop["value"] == 0.5  # `e`: the fall is to the labelled step, which has no tokens
    # What is missing stays null on disk.
    on_disk = folder.dataset("steps").to_table().to_pylist()
    cut = [row["progress_advantage__mean"] for row in on_disk if not row["n_tokens"]]
    assert cut == [None] * 4
    picked = _pick(folder.dataset("selections").to_table().to_pylist(), method="progress_advantage", **cell)
    assert [(r["trajectory_id"], r["reward"]) for r in picked] == [("c", None)]


def test_few_tasks_have_no_interval_and_no_p_value(done, tmp_path):
    folder = _folder(tmp_path, [row for row in _corpus() if row["benchmark"] == "tau"])  # five tasks
    evaluate(SETTINGS, folder, map)
    for table in ("metrics", "comparisons"):
        records = json.loads(folder.read(f"{table}.json"))
        known = [r for r in records if r["value"] is not None]
        assert known
        for r in known:
            assert (r["ci_low"], r["ci_high"], r.get("p_value"), r.get("p_holm")) == (None,) * 4
            assert "fewer than ten tasks: no interval" in r["note"]
    # Twelve labelled questions are enough, for p-values too.
    records = json.loads(done[0].read("comparisons.json"))
    assert any(r["p_holm"] is not None for r in _pick(records, scenario="fa"))


def test_the_driver_gathers_counts_however_many_groups(tmp_path, monkeypatch):
    """What tasks are sent and what they return does not grow with groups, and slices change no byte."""
    monkeypatch.setattr(survey, "_SLICE_FIGURES", 100)  # two groups a slice

    def run(n_groups, name):
        moved = []

        def counting(function, items):
            for item in items:
                result = pickle.loads(pickle.dumps(function(item)))
                moved.append((len(pickle.dumps(item)), len(pickle.dumps(result))))
                yield result

        rows = [
            _rollout(f"domain {k:02d}", f"t{task}", trial, float(trial == task), trial / 4) | {"mistake_step": 1}
            for k in range(n_groups)
            for task in range(2)
            for trial in range(2)
        ]
        rows = [row | {"domain": row["behavior"], "behavior": None} for row in rows]
        folder = _folder(tmp_path / name, rows)
        return folder, evaluate(Evaluate(scenarios=["best_of_n", "fa"], resamples=5), folder, counting), moved

    few, summary_of_few, moved_of_few = run(2, "few")
    many, summary, moved = run(6, "many")
    per_group = summary_of_few.metrics // 2
    assert (summary.metrics, len(_metrics(many))) == (6 * per_group, 6 * per_group)
    # A job's name and a few numbers more, not a row more.
    assert max(sent for sent, _ in moved) <= max(sent for sent, _ in moved_of_few) + 16
    assert max(got for _, got in moved) < 400
    assert not Path(many.path("reducing")).exists()
    # In order, and each group's rows are those that it has alone, whichever slice they went through.
    records = _metrics(many)
    where = [(stage_, r["domain"]) for r in records for stage_ in [("best_of_n", "fa").index(r["scenario"])]]
    assert where == sorted(where)
    for table in ("metrics", "comparisons"):
        of_few, of_many = (json.loads(folder.read(f"{table}.json")) for folder in (few, many))
        assert [r for r in of_many if r["domain"] in ("domain 00", "domain 01")] == of_few
        assert pq.read_table(many.path(f"{table}.parquet")).to_pylist() == of_many
    monkeypatch.setattr(survey, "_SLICE_FIGURES", 10**6)
    whole, _, _ = run(6, "whole")
    for name in ("metrics.json", "comparisons.json", "metrics.parquet", "comparisons.parquet"):
        assert Path(whole.path(name)).read_bytes() == Path(many.path(name)).read_bytes()
