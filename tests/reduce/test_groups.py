"""What is measured together: benchmark, domain, behavior, task and trial."""

import json
import pickle
import random
from pathlib import Path

import pyarrow.parquet as pq
from run_folders import SETTINGS, corpus, metrics, pick, rollout, run_folder

from pa_dist.config import Evaluate
from pa_dist.reduce.evaluate import evaluate
from pa_dist.reduce.metrics import gather, survey


def test_behaviors_are_groups_of_their_own(tmp_path):
    # `old` fails where its score is high, and `new` succeeds there. Two trials a task of each: never four.
    rows = [
        rollout(behavior, f"t{task}", trial, float((trial == 0) == (behavior == "new")), 1.0 - trial)
        for behavior in ("old", "new")
        for task in range(3)
        for trial in range(2)
    ]
    together = run_folder(tmp_path / "both", rows)
    evaluate(SETTINGS, together, map)
    records = metrics(together)
    wanted = {"method": "progress_advantage", "token_agg": "mean", "step_agg": "mean"}
    for behavior, auroc, success in (("new", 1.0, 1.0), ("old", 0.0, 0.0)):
        (found,) = pick(records, metric="auroc", behavior=behavior, **wanted)
        assert (found["value"], found["n"]) == (auroc, 6)
        best = pick(records, metric="success", behavior=behavior, **wanted)
        assert [(r["at"], r["n"]) for r in best] == [(1.0, 3), (2.0, 3)]
        assert best[-1]["value"] == success
        # Its figures are those of a run of its own.
        alone = run_folder(tmp_path / behavior, [row for row in rows if row["behavior"] == behavior])
        evaluate(SETTINGS, alone, map)
        for table in ("metrics", "comparisons"):
            of_both, of_one = (json.loads(folder.read(f"{table}.json")) for folder in (together, alone))
            assert pick(of_both, behavior=behavior) == of_one
    assert {r["behavior"] for r in records} == {"new", "old"}
    selections = together.dataset("selections").to_table().to_pylist()
    assert {(r["behavior"], r["n_trials"]) for r in selections} == {("new", 2), ("old", 2)}


def test_repeated_trials_are_said_and_kept_apart(tmp_path):
    # Three rollouts say they are trial 0 of a task, one is trial 1: best of two, never of four. By trajectory_id the
    # first of the three stands for them; it fails, though the others succeed.
    rows = [
        rollout("a", "t", 0, 0.0, 3.0),
        rollout("b", "t", 0, 1.0, 2.0),
        rollout("c", "t", 0, 1.0, 1.0),
        rollout("d", "t", 1, 1.0, 0.0),
        # Without a number each is a trial of its own.
        rollout("e", "u", None, 1.0, 1.0),
        rollout("f", "u", None, 0.0, 0.0),
    ]
    rows = [row | {"behavior": None} for row in rows]
    folder = run_folder(tmp_path, rows)
    summary = evaluate(SETTINGS, folder, map)
    assert summary.note == "2 rollouts repeat a task and trial and take no part in best-of-n"
    records = metrics(folder)
    best = pick(records, metric="success", method="progress_advantage", token_agg="mean", step_agg="mean")
    # Best of one: of t a half, of u a half. Best of two: the pick of t fails, that of u succeeds.
    assert [(r["at"], r["value"], r["n"]) for r in best] == [(1.0, 0.5, 2), (2.0, 0.5, 2)]
    assert all("2 rollouts that repeat a task and trial left out" in r["note"] for r in best)
    selections = folder.dataset("selections").to_table().to_pylist()
    assert {(r["task_id"], r["n_trials"]) for r in selections} == {("t", 2), ("u", 2)}
    (auroc,) = pick(records, metric="auroc", method="progress_advantage", token_agg="mean", step_agg="mean")
    assert auroc["n"] == 6
    # All are one trial: there is no choice to make, and that is said.
    alone = run_folder(tmp_path / "alone", rows[:3])
    summary = evaluate(SETTINGS, alone, map)
    assert (summary.scenarios, summary.note[:18]) == (("uq", "prefix"), "2 rollouts repeat ")


def test_few_tasks_have_no_interval_and_no_p_value(done, tmp_path):
    folder = run_folder(tmp_path, [row for row in corpus() if row["benchmark"] == "tau"])  # five tasks
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
    assert any(r["p_holm"] is not None for r in pick(records, scenario="fa"))


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
            rollout(f"domain {k:02d}", f"t{task}", trial, float(trial == task), trial / 4) | {"mistake_step": 1}
            for k in range(n_groups)
            for task in range(2)
            for trial in range(2)
        ]
        rows = [row | {"domain": row["behavior"], "behavior": None} for row in rows]
        folder = run_folder(tmp_path / name, rows)
        return folder, evaluate(Evaluate(scenarios=["best_of_n", "fa"], resamples=10), folder, counting), moved

    few, summary_of_few, moved_of_few = run(2, "few")
    many, summary, moved = run(6, "many")
    per_group = summary_of_few.metrics // 2
    assert (summary.metrics, len(metrics(many))) == (6 * per_group, 6 * per_group)
    # A job's name and a few numbers more, not a row more.
    assert max(sent for sent, _ in moved) <= max(sent for sent, _ in moved_of_few) + 16
    assert max(got for _, got in moved) < 400
    assert not Path(many.path("reducing")).exists()
    # In order, and each group's rows are those that it has alone, whichever slice they went through.
    records = metrics(many)
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
    # More than anyone reads as text is in Parquet alone.
    monkeypatch.setattr(gather, "JSON_ROWS", len(records) - 1)
    evaluate(Evaluate(scenarios=["best_of_n", "fa"], resamples=10), many, map)
    assert pq.read_table(many.path("metrics.parquet")).to_pylist() == records
    assert not Path(many.path("metrics.json")).exists()
    assert Path(many.path("comparisons.json")).exists()


def test_trials_are_chosen_without_any_reward(tmp_path):
    """The choice is the same with rewards, with some and with none; what needs them is null, and says so."""
    rng = random.Random(1)
    rated = [
        rollout("b", f"t{task}", trial, float(trial == 0), rng.random()) for task in range(4) for trial in range(3)
    ]
    some = [
        row | {"reward": None if i % 4 == 0 or row["task_id"] == "t3" else row["reward"]} for i, row in enumerate(rated)
    ]
    none = [row | {"reward": None} for row in rated]
    chosen, records, notes = {}, {}, {}
    for name, rows in (("rated", rated), ("some", some), ("none", none)):
        folder = run_folder(tmp_path / name, rows)
        summary = evaluate(SETTINGS, folder, map)
        records[name], notes[name] = metrics(folder), (summary.scenarios, summary.note)
        chosen[name] = folder.dataset("selections").to_table().to_pylist()
    assert notes["none"] == (("best_of_n",), "no trial has a reward: selections are filled, success is null")
    assert notes["some"] == notes["rated"] == (("uq", "prefix", "best_of_n"), None)
    best = {
        task: max((r for r in rated if r["task_id"] == task), key=_advantage) for task in {r["task_id"] for r in rated}
    }
    wanted = {"method": "progress_advantage", "token_agg": "mean", "step_agg": "mean"}
    for name, rows in (("rated", rated), ("some", some), ("none", none)):
        rewards = {row["trajectory_id"]: row["reward"] for row in rows}
        picks = pick(chosen[name], **wanted)
        assert {r["task_id"]: r["trajectory_id"] for r in picks} == {t: r["trajectory_id"] for t, r in best.items()}
        assert all(r["n_trials"] == 3 and r["reward"] == rewards[r["trajectory_id"]] for r in picks)
    # Figures are those of the rated trials alone, as if the others were not there.
    alone = run_folder(tmp_path / "alone", [row for row in some if row["reward"] is not None])
    evaluate(SETTINGS, alone, map)
    of_some, of_alone = (
        {(*list(r.values())[:10],): r["value"] for r in of} for of in (records["some"], metrics(alone))
    )
    assert of_some == of_alone
    missing = [r for r in records["none"] if r["metric"] != "tokens"]
    assert {r["metric"] for r in missing} == {"success", "reward", "mean", "oracle"}
    assert {(r["value"], r["note"]) for r in missing} == {(None, "no task has a trial with a reward")}
    tokens = [r["value"] for r in pick(records["none"], metric="tokens")]
    assert tokens == [r["value"] for r in pick(records["rated"], metric="tokens")] == [1, 2, 3]
    # One trial a task is no choice.
    single = run_folder(tmp_path / "single", [row for row in none if row["trial"] == 0])
    summary = evaluate(SETTINGS, single, map)
    assert (summary.scenarios, summary.metrics) == ((), 0)
    assert summary.note.startswith("no metrics: ")


def _advantage(row):
    return row["policy_logprob"][0][0] - row["reference_logprob"][0][0]
