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
from run_folders import CHECK_RUN, SETTINGS, corpus, metrics, pick, run_folder
from sklearn.metrics import roc_auc_score

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce import evaluate as stage
from pa_dist.reduce.block.methods import cells
from pa_dist.reduce.evaluate import evaluate
from pa_dist.reduce.metrics import survey


def _pickled(function, items):
    """Runs tasks the way another process would see them, last one first."""
    sent = [pickle.loads(pickle.dumps((function, item))) for item in items]
    done = [pickle.loads(pickle.dumps(f(item))) for f, item in reversed(sent)]
    return iter(done)


def test_the_run_folder_keeps_the_contract(done):
    folder, summary, records = done
    schemas = {"steps": schema.STEPS, "selections": schema.SELECTIONS, "attributions": schema.ATTRIBUTIONS}
    names = dict.fromkeys(cell.method for cell in cells("published"))
    schemas["prefixes"] = schema.prefixes(list(names), SETTINGS.prefix_steps)
    schemas["scores"] = schema.scores([cell.column for cell in cells("published")])
    for name, expected in schemas.items():
        assert folder.dataset(name).to_table().schema.equals(expected), name
    scores = folder.dataset("scores").to_table()
    assert sorted(scores["trajectory_id"].to_pylist()) == [row["trajectory_id"] for row in corpus()]
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
    assert summary.scenarios == ("uq", "prefix", "best_of_n", "fa")
    groups = {(r["scenario"], r["benchmark"], r["domain"]) for r in records}
    assert groups == {*((name, "tau", "airline") for name in ("uq", "prefix", "best_of_n")), ("fa", "who", None)}
    rows = corpus()
    assert summary.trajectories == len(rows)
    assert summary.steps == sum(len(row["step"]) for row in rows)
    assert summary.scored_steps == sum(bool(step) for row in rows for step in row["policy_logprob"])


def test_figures_are_those_of_the_tables(done):
    folder, _, records = done
    scores = folder.dataset("scores").to_table().to_pylist()
    for column, sign in (("progress_advantage__min__bottom10", 1), ("entropy__sum__max", -1)):
        known = [s for s in scores if s["reward"] is not None and s[column] is not None]
        method, token_agg, step_agg = column.split("__")
        (auroc,) = pick(records, metric="auroc", method=method, token_agg=token_agg, step_agg=step_agg)
        expected = roc_auc_score([s["reward"] for s in known], [sign * s[column] for s in known])
        assert math.isclose(auroc["value"], expected)
        assert auroc["n"] == len(known)
        tasks = {}
        for s in (s for s in scores if s["reward"] is not None and s["task_id"] is not None):
            tasks.setdefault(s["task_id"], []).append(s)
        most = max(map(len, tasks.values()))
        (last,) = pick(records, metric="success", method=method, token_agg=token_agg, step_agg=step_agg, at=most)
        picked = [_best(task, column, sign) for task in tasks.values() if len(task) == most]
        assert math.isclose(last["value"], sum(s["reward"] for s in picked) / len(picked))
        # Chosen is among all trials, rated or not.
        every = {s["task_id"]: [] for s in scores if s["benchmark"] == "tau" and s["task_id"] is not None}
        for s in (s for s in scores if s["benchmark"] == "tau" and s["task_id"] is not None):
            every[s["task_id"]].append(s)
        wanted = {s["task_id"]: s["trajectory_id"] for s in (_best(task, column, sign) for task in every.values())}
        selected = folder.dataset("selections").to_table().to_pylist()
        chosen = pick(selected, method=method, token_agg=token_agg, step_agg=step_agg)
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


def test_nothing_depends_on_files_order_or_where_tasks_run(done, tmp_path, monkeypatch):
    rows = corpus()
    random.Random(1).shuffle(rows)
    folder = run_folder(tmp_path, rows, per_file=5)
    monkeypatch.setattr(stage, "_TASK_BYTES", 1)
    monkeypatch.setattr(stage, "_BLOCK_BYTES", 2000)
    assert evaluate(SETTINGS, folder, _pickled) == done[1]
    assert len(folder.parts("scores")) > len(folder.parts("logprobs")) > 1
    assert metrics(folder) == done[2]
    assert folder.read("comparisons.json") == done[0].read("comparisons.json")


def test_row_groups_of_a_large_file_are_tasks_of_their_own(done, tmp_path, monkeypatch):
    folder = run_folder(tmp_path, [])
    Path(folder.path("logprobs")).mkdir()
    pq.write_table(plain.table(corpus()), folder.path("logprobs", "part-0.parquet"), row_group_size=10)
    monkeypatch.setattr(stage, "_TASK_BYTES", 1)
    assert evaluate(SETTINGS, folder, map) == done[1]
    assert len(folder.parts("scores")) == 4
    assert metrics(folder) == done[2]


def test_the_seed_decides_and_a_rerun_replaces(done, tmp_path):
    folder = run_folder(tmp_path, corpus(), per_file=10)
    folder.write("scores", "part-stale", pa.table({"x": [1]}))
    evaluate(Evaluate(resamples=40, seed=1), folder, map)
    other = metrics(folder)
    assert [r["value"] for r in other] == [r["value"] for r in done[2]]
    crossed = [
        [r["value"] for r in json.loads(of.read("comparisons.json")) if r["choice"] == "cross_fitted"]
        for of in (folder, done[0])
    ]
    assert crossed[0] != crossed[1]  # of other folds
    evaluate(SETTINGS, folder, map)
    first = Path(folder.path("metrics.parquet")).read_bytes()
    evaluate(SETTINGS, folder, map)
    assert metrics(folder) == done[2]
    assert Path(folder.path("metrics.parquet")).read_bytes() == first


def test_survey_counts_labels(done):
    read = survey.group_labels(done[0])
    facts = {group: survey.facts_of(group, labels, SETTINGS) for group, _, labels in read}
    assert facts["who", None, None].n_mistakes == 12
    assert facts["tau", "airline", None].n_rewards == 11
    assert facts[None, None, None].most_trials == 0


def test_comparisons_beside_the_metrics(done):
    folder, _, records = done
    rows = json.loads(Path(folder.path("comparisons.json")).read_text(), parse_constant=pytest.fail)
    table = pq.read_table(folder.path("comparisons.parquet"))
    assert table.schema.equals(schema.COMPARISONS)
    assert table.to_pylist() == rows
    assert all(r["value"] is not None or r["note"] for r in rows)
    for scenario, metric in (("uq", "auroc"), ("best_of_n", "success"), ("fa", "step_accuracy")):
        own = pick(rows, scenario=scenario, metric=metric, against=None)
        plain_rows = pick(records, scenario=scenario, metric=metric, method="progress_advantage")
        at = max((r["at"] or 0 for r in plain_rows), default=0) or None
        values = [r["value"] for r in plain_rows if r["at"] == at]
        (best,) = pick(own, choice="hindsight", method="progress_advantage")
        assert best["value"] == pytest.approx(max(values))
        for r in pick(own, choice="headline"):
            keys = ("scenario", "benchmark", "domain", "method", "token_agg", "step_agg", "predictor", "metric", "at")
            (same,) = pick(records, **{key: r[key] for key in keys})
            found = [r[key] for key in ("value", "ci_low", "ci_high", "n")]
            assert found == pytest.approx([same[key] for key in ("value", "ci_low", "ci_high", "n")])
    (crossed,) = pick(rows, scenario="fa", choice="cross_fitted", method="progress_advantage", against=None)
    assert 0 <= crossed["value"] <= pick(own, choice="hindsight", method="progress_advantage")[0]["value"]
    assert "chosen on other tasks: " in crossed["note"]
    # The difference is that of the plain figures, and all differences of a family were adjusted together.
    (apart,) = pick(rows, scenario="best_of_n", choice="headline", against="mean")
    (success,) = pick(rows, scenario="best_of_n", choice="headline", against=None, method="progress_advantage")
    (mean,) = pick(records, metric="mean", at=apart["at"])
    assert apart["value"] == pytest.approx(success["value"] - mean["value"])
    family = pick(rows, scenario="fa", choice="headline", method="progress_advantage", predictor="sharpest_drop")
    family = [r for r in family if r["against"]]
    assert {r["against"] for r in family} >= {"random", "first_step", "last_step", "entropy"}
    assert {r["comparisons"] for r in family} == {len(family)}
    assert all(r["p_value"] <= r["p_holm"] <= 1 for r in family)


def test_what_has_no_label_has_its_suspicious_steps_and_changes_no_figure(tmp_path):
    rows = [row | {"reward": None} for row in corpus() if row["benchmark"] is not None]
    labelled = [row["trajectory_id"] for row in rows if row.get("mistake_step") is not None]
    folder, alone = run_folder(tmp_path / "run", rows, per_file=7), tmp_path / "alone"
    evaluate(SETTINGS, folder, map)
    attributions = folder.dataset("attributions").to_table().to_pylist()
    assert {a["trajectory_id"] for a in attributions} == {row["trajectory_id"] for row in rows}
    assert {a["trajectory_id"] for a in attributions if a["labelled"]} == set(labelled)
    others = [a for a in attributions if not a["labelled"]]
    assert {(a["method"], a["token_agg"]) for a in others} == {schema.HEADLINE}
    assert len(others) == len(schema.PREDICTORS) * (len(rows) - len(labelled))
    assert all(a[name] is None for a in others for name in ("mistake_step", "correct", "agent_correct", "unreachable"))
    only = run_folder(alone, [row for row in rows if row["trajectory_id"] in labelled])
    evaluate(SETTINGS, only, map)
    of_fa = pick(metrics(folder), scenario="fa")
    assert of_fa == pick(metrics(only), scenario="fa")
    assert {r["metric"] for r in of_fa} >= {"step_accuracy", "mae"}
