"""Figures of labelled steps: by hand, by scikit-learn, by plain loops, and of whole run folders."""

import itertools
import json
import math
import random

import numpy as np
import plain_reduce as plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import SETTINGS, metrics, pick, run_folder
from sklearn.metrics import average_precision_score, roc_auc_score

from pa_dist.config import Evaluate, Pair, Trajectories
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.ingest.tables import ingest
from pa_dist.models.loaded import tokenizer
from pa_dist.reduce.block.tables import reduce_block
from pa_dist.reduce.evaluate import evaluate
from pa_dist.reduce.metrics import labelled_steps
from pa_dist.reduce.metrics.intervals import Clusters
from pa_dist.reduce.metrics.labelled_steps import (
    LabelledSteps,
    at_lowest,
    detection,
    metric_names,
    pair_accuracy,
    step_estimates,
)
from pa_dist.reduce.metrics.uq import Outcomes, uncertainty
from pa_dist.score.rows import logprobs_table, sequences, tokenize_rows, with_columns
from pa_dist.store.folder import RunFolder

NAN = np.nan


def steps_of(*labels):
    """Labelled steps of trajectories, from the labels of each."""
    starts = np.cumsum([0, *map(len, labels)])
    return LabelledSteps(np.array([label for of in labels for label in of], np.int8), starts)


def clusters_of(n, n_tasks=None):
    return Clusters.of(np.arange(n) % (n_tasks or n), 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-2, -1, 0, 0.5, 3, NAN]), st.booleans()), min_size=1, max_size=60))
def test_ranking_is_scikit_learns_and_its_influences_are_those_of_uq(drawn):
    values, wrong = (np.array(column) for column in zip(*drawn, strict=True))
    clusters = clusters_of(len(values), 7)
    expected = uncertainty(-values, Outcomes(wrong.astype(float), wrong, clusters))[:2]
    for chunk in (1 << 20, 1, 3):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(labelled_steps, "_CHUNK", chunk)
            found = detection(values, wrong, clusters.bins, clusters.n_bins)
        known = ~np.isnan(values)
        if not 0 < wrong[known].sum() < known.sum():
            assert all(math.isnan(of.value) for of in found)
            continue
        scores = [score(wrong[known], -values[known]) for score in (roc_auc_score, average_precision_score)]
        assert [of.value for of in found] == pytest.approx(scores)
        for of, like in zip(found, expected, strict=True):
            assert of.parts == pytest.approx(like.parts, abs=1e-12)
            assert (of.clusters, of.n, of.rarer) == (like.clusters, like.n, like.rarer)
            assert of.edge == pytest.approx(like.edge)
            assert (of.notes != ()) == (not known.all())


def test_why_nothing_is_ranked():
    clusters = clusters_of(3)
    for values, wrong, why in (
        ([1.0, 2.0, 3.0], [True] * 3, "one class only: every labelled step is wrong"),
        ([1.0, 2.0, NAN], [False, False, True], "one class only: no labelled step is wrong"),
        ([NAN] * 3, [False, False, True], "no labelled step has a score"),
    ):
        for of in detection(np.array(values), np.array(wrong), clusters.bins, 3):
            assert why in of.figure("step_auroc", None).note
    assert not len(np.concatenate([of.parts for of in detection(np.empty(0), np.empty(0, bool), np.empty(0, int), 0)]))


def test_precision_and_recall_by_hand():
    steps = steps_of([-1, 1, -1, 0], [1, 1], [-1], [1, -1, -1])
    # The lowest two of the first: its second and third step, of which one is wrong, of two that are.
    values = np.array([5.0, 1.0, 2.0, 3.0, 0.0, 0.0, NAN, 4.0, 4.0, NAN])
    found, missed = at_lowest(values, steps.labels == -1, steps.starts, [1, 2, 5])
    # Nothing is wrong in the second, and nothing known of the third. Of the last, two steps have a value, the same.
    assert found[0].tolist() == [0, 1 / 2, 2 / 4, 0, 1 / 2, 1]
    assert np.isnan(found[1]).all()
    assert found[2].tolist() == [0] * 6
    assert found[3].tolist() == [0, 1 / 2, 1 / 2, 0, 1 / 2, 1 / 2]
    assert missed == 1
    assert at_lowest(values, steps.labels == -1, steps.starts, [])[0].shape == (4, 0)
    names = metric_names([1, 2, 5], pairs=False)
    figures = [
        of.figure(*name)
        for name, of in zip(
            names, step_estimates(values, steps, np.full(4, -1), clusters_of(4), [1, 2, 5]), strict=True
        )
    ]
    assert {(f.metric, f.at): f.value for f in figures}["recall_at", 5] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert all(f.n == 3 for f in figures[2:])
    assert "1 trajectories without a score of a labelled step" in figures[2].note


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, NAN]), st.booleans()), max_size=6), max_size=8),
    st.sampled_from([1, 4, 1 << 20]),
)
def test_precision_and_recall_agree_with_loops(trajectories, chunk):
    flat = list(itertools.chain(*trajectories))
    values, wrong = np.array([v for v, _ in flat], float), np.array([w for _, w in flat], bool)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(labelled_steps, "_CHUNK", chunk)
        found, missed = at_lowest(values, wrong, np.cumsum([0, *map(len, trajectories)]), [1, 3])
    assert missed == sum(any(w for _, w in of) and all(math.isnan(v) for v, _ in of) for of in trajectories)
    for row, of in zip(found, trajectories, strict=True):
        known = sorted((value, place) for place, (value, _) in enumerate(of) if not math.isnan(value))
        n_wrong = sum(w for _, w in of)
        expected = []
        for k in (1, 3):
            hits = sum(of[place][1] for _, place in known[:k])
            expected.append((hits / max(1, len(known[:k])), hits / n_wrong if n_wrong else NAN))
        expected = [pair[side] for side in (0, 1) for pair in expected] if n_wrong else [NAN] * 4
        assert row.tolist() == pytest.approx(expected, nan_ok=True)


def test_pairs_by_hand():
    steps = steps_of([-1, 1], [-1], [1], [-1], [1], [-1], [-1], [1], [0], [], [1])
    values = np.array([9.0, 2.0, 1.0, 3.0, 3.0, 4.0, 5.0, 1.0, 1.0, 0.0, NAN])
    # The first pair's right action is above the wrong one; the second's are equal; the third's is above one of two.
    pair = np.array([7, 7, 2, 2, 3, 3, 3, 5, 5, 5, 6])
    estimate = pair_accuracy(values, steps, pair, clusters_of(11))
    assert estimate.value == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert estimate.n == 3
    assert estimate.notes == ("1 actions without a score left out",)
    alone = pair_accuracy(values, steps, np.arange(11), clusters_of(11)).figure("pair_accuracy", None)
    assert alone.value is None
    assert alone.note == "no pair has a right and a wrong action with a score"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([1, 0, -1]), st.sampled_from([0.0, 1.0, 2.0, NAN]))))
def test_pairs_agree_with_loops(drawn):
    values = np.array([value for *_, value in drawn], float)
    steps = steps_of(*([label] for _, label, _ in drawn))
    shares = []
    for number in range(4):
        right, wrong = (
            [value for of, label, value in drawn if of == number and label == side and not math.isnan(value)]
            for side in (1, -1)
        )
        outcomes = [(r > w) + (r == w) / 2 for r in right for w in wrong]
        shares += [np.mean(outcomes)] if outcomes else []
    found = pair_accuracy(values, steps, np.array([of for of, *_ in drawn], int), clusters_of(len(drawn)))
    assert found.value == pytest.approx(np.mean(shares) if shares else NAN, nan_ok=True)
    assert found.n == len(shares)


def labelled_corpus(n=40, seed=0):
    """Trajectories of two tasks each; three in four have labels of all or some messages, others pairs."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        steps = [
            [(*(-rng.randrange(64) / 8 for _ in range(3)), 1.0, 2.0) for _ in range(rng.randrange(4))]
            for _ in range(rng.randrange(1, 7))
        ]
        labels = [rng.choice([1, 0, -1, None]) for _ in range(2 * len(steps) + 1)]
        row = plain.row(f"id{i:03d}", steps, task_id=f"t{i % 20}", step_labels=labels if i % 4 else None)
        row |= {"mistake_step": 1} if i % 3 else {}
        row |= {"pair_id": f"p{i // 4}"} if i % 4 > 1 else {}
        rows.append(row)
    return rows


@pytest.mark.parametrize("preset", ["published", "paper"])
def test_blocks_hold_each_methods_values_against_the_labels(preset):
    rows = labelled_corpus()
    reduced = reduce_block(plain.table(rows), Evaluate(preset=preset))
    of_steps = [(row, i, (row["step_labels"] or [None] * 99)[at]) for row in rows for i, at in enumerate(row["step"])]
    assert reduced.steps["label"].to_pylist() == [label for *_, label in of_steps]
    named = [(row, i, label) for row, i, label in of_steps if label is not None]
    assert reduced.labelled["label"].to_pylist() == [label for *_, label in named]
    for name in reduced.labelled.column_names[1:]:
        method, agg = name.split("__")
        sign = -1 if method in ("entropy", "perplexity") else 1
        values = [plain.step_values(row, method, agg, preset, fa=True)[i] for row, i, _ in named]
        assert reduced.labelled[name].to_pylist() == pytest.approx([None if v is None else sign * v for v in values])
    scores = reduced.scores.to_pylist()
    for row, score in zip(rows, scores, strict=True):
        labels = row["step_labels"] or []
        assert score["first_wrong"] == (labels.index(-1) if -1 in labels else None)
        assert score["n_labelled_steps"] == sum(labels[at] is not None for at in row["step"] if labels)
    for blamed in reduced.attributions.to_pylist():
        labels = rows[int(blamed["trajectory_id"][2:])]["step_labels"]
        assert blamed["label"] == (None if labels is None or blamed["step"] is None else labels[blamed["step"]])
    assert len({a["trajectory_id"] for a in reduced.attributions.to_pylist()}) == sum(
        row.get("mistake_step") is not None or -1 in (row["step_labels"] or []) for row in rows
    )


def test_figures_of_a_run_folder_are_those_of_its_tables(tmp_path):
    rows = labelled_corpus()
    folder = run_folder(tmp_path / "run", rows)
    summary = evaluate(SETTINGS, folder, map)
    records = metrics(folder)
    assert summary.scenarios == ("best_of_n", "fa")
    assert len({tuple(list(r.values())[:10]) for r in records}) == len(records)
    steps = [s for s in folder.dataset("steps").to_table().to_pylist() if s["label"] is not None]
    cell = {"method": "progress_advantage", "token_agg": "min", "predictor": None}
    known = [s for s in steps if s["progress_advantage__min"] is not None]
    wrong, value = [s["label"] == -1 for s in known], [-s["progress_advantage__min"] for s in known]
    for name, score in (("step_auroc", roc_auc_score), ("step_auprc", average_precision_score)):
        (figure,) = pick(records, metric=name, **cell)
        assert figure["value"] == pytest.approx(score(wrong, value))
        assert (figure["n"], figure["scenario"]) == (len(known), "fa")
        assert figure["ci_low"] < figure["value"] < figure["ci_high"]
        assert figure["note"] == f"{len(steps) - len(known)} steps without a score left out"
    blamed = folder.dataset("attributions").to_table().to_pylist()
    first = {row["trajectory_id"]: row["step_labels"].index(-1) for row in rows if -1 in (row["step_labels"] or [])}
    for predictor in ("min_cumulative", "sharpest_drop"):
        (figure,) = pick(records, metric="first_error_accuracy", **(cell | {"predictor": predictor}))
        right = [a["step"] == first[a["trajectory_id"]] for a in pick(blamed, **(cell | {"predictor": predictor}))
                 if a["trajectory_id"] in first]  # fmt: skip
        assert figure["value"] == pytest.approx(np.mean(right))
        assert figure["n"] == len(first) == len(right)
    (figure,) = pick(records, metric="first_error_accuracy", method="baseline", predictor="first_step")
    right = [first[row["trajectory_id"]] == row["step"][0] for row in rows if row["trajectory_id"] in first]
    assert figure["value"] == pytest.approx(np.mean(right))
    # What has a mistake_step is measured as if no step had a label.
    bare = run_folder(tmp_path / "bare", [{**row, "step_labels": None} for row in rows])
    evaluate(SETTINGS, bare, map)
    new = ("first_error_accuracy", *labelled_steps.METRICS)
    assert [r for r in records if r["metric"] not in new] == metrics(bare)
    assert bare.read("comparisons.json") == folder.read("comparisons.json")
    assert {r["metric"] for r in records} >= set(new)


def test_nothing_depends_on_files_and_order(tmp_path):
    rows = labelled_corpus()
    one = run_folder(tmp_path / "one", rows)
    evaluate(SETTINGS, one, map)
    random.Random(1).shuffle(rows)
    other = run_folder(tmp_path / "other", [{**row, "domain": None} for row in rows], per_file=7)
    evaluate(SETTINGS, other, map)
    assert metrics(one) == metrics(other)


def test_steps_alone_are_enough_for_figures_and_too_little_for_others(tmp_path):
    rows = [{**row, "mistake_step": None} for row in labelled_corpus()]
    for row in rows:
        row["step_labels"] = [abs(label or 1) for label in row["step_labels"] or []] or None
    folder = run_folder(tmp_path, rows)
    summary = evaluate(SETTINGS, folder, map)
    records = metrics(folder)
    assert summary.scenarios == ("best_of_n", "fa")
    of_steps = pick(records, scenario="fa")
    assert {r["metric"] for r in of_steps} == set(labelled_steps.METRICS)
    assert all(r["value"] is None and r["note"] for r in of_steps)
    # A scenario that is not asked for has none.
    assert evaluate(Evaluate(scenarios=["uq"]), folder, map).scenarios == ("uq",)


def test_methods_that_a_run_lacks_are_null_with_the_reason(tmp_path):
    rows = labelled_corpus()
    for row in rows:
        row["policy_entropy"] = None
    folder = run_folder(tmp_path, rows)
    folder.finish("score", null_columns={"entropy": "not given by this engine"})
    evaluate(SETTINGS, folder, map)
    found = pick(metrics(folder), method="entropy", metric="step_auroc")
    assert [r["note"] for r in found] == ["not given by this engine"] * 5
    (kept,) = pick(metrics(folder), method="policy_logprob", metric="step_auroc", token_agg="mean")
    assert kept["value"] is not None


def test_from_files_to_figures(tmp_path, pair):
    """A chat file with labels and pairs, scored by tiny models in this process."""
    lines = []
    for i in range(12):
        begin = [
            {"role": "user", "content": f"Cancel order {i}."},
            {"role": "assistant", "content": "Which one is it?"},
        ]
        end = [{"role": "user", "content": "The first."}, {"role": "assistant", "content": "It has shipped already."}]
        lines.append(
            {"id": f"run-{i}", "task_id": str(i), "messages": begin + end, "step_labels": [1, -1 if i % 2 else 0]}
        )
        other = [{"role": "assistant", "content": "I cannot."}]
        lines.append({"id": f"pair-{i}", "prompt": begin + end[:1], "chosen": end[1:], "rejected": other})
    path = tmp_path / "desk.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = RunFolder(str(tmp_path / "run"))
    counts = ingest(Trajectories(format="auto", paths=[str(path)]), folder, map)
    assert counts.kept == 36
    assert counts.step_labels["wrong"] == 18
    engines = {model: HFEngine(load_model(name, device="cpu", dtype="float32")) for model, name in pair.items()}
    table, rejects = tokenize_rows(
        folder.dataset("trajectories").to_table(), [tokenizer(Pair(**pair), "policy")], [10_000], "assistant", 500
    )
    assert not len(rejects)
    for model, engine in engines.items():
        table = with_columns(table, model, "policy", engine.score(sequences(table, "policy")))
    folder.write("logprobs", "part-0", logprobs_table(table))
    folder.start("score", {})
    folder.finish("score")
    evaluate(SETTINGS, folder, map)
    records = metrics(folder)
    steps = [s for s in folder.dataset("steps").to_table().to_pylist() if s["label"] is not None]
    assert len(steps) == 12 * 4
    cell = {"method": "progress_advantage", "token_agg": "mean"}
    (figure,) = pick(records, metric="step_auroc", **cell)
    wrong, values = [s["label"] == -1 for s in steps], [-s["progress_advantage__mean"] for s in steps]
    assert figure["value"] == pytest.approx(roc_auc_score(wrong, values))
    value = {(s["trajectory_id"], s["step"]): s["progress_advantage__mean"] for s in steps}
    above = [value[f"pair-{i}/chosen", 3] > value[f"pair-{i}/rejected", 3] for i in range(12)]
    (figure,) = pick(records, metric="pair_accuracy", **cell)
    assert (figure["value"], figure["n"]) == (pytest.approx(np.mean(above)), 12)
    (figure,) = pick(records, metric="recall_at", at=1, **cell)
    assert figure["n"] == 18
    (figure,) = pick(records, metric="step_accuracy", predictor="sharpest_drop", **cell)
    assert figure["n"] == 18
