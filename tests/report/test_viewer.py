"""What the viewer's data holds, against the tables by hand."""

import base64
import gzip
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from small_run import message, rows, trajectory, write_run
from tiny_models import save_tokenizer

from pa_dist import schema
from pa_dist.report.viewer import chunks as viewer
from pa_dist.report.viewer.chunks import about, packed, write_viewer
from pa_dist.report.viewer.selection import score_columns, task_numbers
from pa_dist.report.viewer.trajectory import blamed, suspicious


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("viewer")
    tokenizer = save_tokenizer(root / "policy", bos=True)
    return write_run(str(root / "run"), rows(), tokenizer, str(root / "policy"))


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_the_index_is_the_tables(run):
    index = unpacked(write_viewer(run, 100, map).index)
    scores = {row["trajectory_id"]: row for row in run.dataset("scores").to_table().to_pylist()}
    assert index["id"] == [f"run-{task}-{trial}" for task in range(3) for trial in range(4)]
    assert index["success"] == [trial == 0 for _ in range(3) for trial in range(4)]
    assert index["mistake_step"] == [3 if trial == 1 else None for _ in range(3) for trial in range(4)]
    # Message 3 is the second action; the most suspicious one is where the table's advantage is lowest, below zero.
    assert index["labelled"] == [2 if trial == 1 else None for _ in range(3) for trial in range(4)]
    values = {key: [] for key in index["id"]}
    for row in run.dataset("steps").to_table().to_pylist():
        values[row["trajectory_id"]].append(row["progress_advantage__mean"])
    lowest = [1 + v.index(min(v)) if min(v) < 0 else None for v in values.values()]
    assert index["suspicious"] == lowest
    assert None in lowest
    assert index["groups"] == [["desk", "orders"]]
    assert (index["total"], index["tasks_left_out"]) == (12, 0)
    assert [index["abouts"][i] for i in index["about"]][::4] == [
        f"Cancel order {n}, please." for n in (4700, 4701, 4702)
    ]
    for name, values in index["scores"].items():
        assert values == pytest.approx([scores[key][name] for key in index["id"]], rel=1e-5)
    best = [
        max(range(4 * t, 4 * t + 4), key=lambda i: scores[index["id"][i]]["progress_advantage__mean__mean"])
        for t in range(3)
    ]
    assert [i for i, chosen in enumerate(index["chosen"]) if chosen] == best


def test_a_chunk_holds_the_columns_in_thousandths_and_texts_once(run):
    made = write_viewer(run, 100, map)
    (text,) = made.chunks.values()
    chunk = unpacked(text)
    tables = {name: run.dataset(name).to_table().to_pylist() for name in ("logprobs", "steps", "trajectories")}
    row, scored, given = chunk["rows"][5], tables["logprobs"][5], tables["trajectories"][5]
    assert row["trajectory_id"] == scored["trajectory_id"] == "run-1-1"
    for i, step in enumerate(row["steps"]):
        assert step["policy"] == [round(1000 * value) for value in scored["policy_logprob"][i]]
        assert step["reference"] == [round(1000 * value) for value in scored["reference_logprob"][i]]
        difference = np.subtract(scored["policy_logprob"][i], scored["reference_logprob"][i]).mean()
        assert step["value"] == pytest.approx(difference, abs=1e-6)
        sizes = [len(dict(step["joined"]).get(place, [0])) for place in range(len(step["pieces"]))]
        assert sum(sizes) == len(scored["token_ids"][i])
    assert "".join(row["steps"][1]["pieces"]) == "\n[assistant]: It has shipped – çà, 中文 😀 1."
    assert [chunk["texts"][m["content"]] for m in row["messages"]] == [m["content"] or "" for m in given["messages"]]
    assert max(Counter(chunk["texts"]).values()) == 1


def test_of_more_than_the_limit_whole_tasks_are_drawn(run):
    index = unpacked(write_viewer(run, 9, map).index)
    assert sorted(Counter(index["task"]).values()) == [4, 4]
    assert (index["total"], index["tasks_left_out"]) == (12, 1)
    assert unpacked(write_viewer(run, 9, map).index)["id"] == index["id"]
    assert len(unpacked(write_viewer(run, 3, map).index)["id"]) == 3


def test_chunks_are_files_where_they_are_large(run, monkeypatch):
    embedded = write_viewer(run, 100, map)
    monkeypatch.setattr(viewer, "_EMBEDDED_BYTES", 100)
    apart = write_viewer(run, 100, map)
    assert apart.chunks == {}
    assert apart.index == embedded.index
    script = run.read("report/data/00000.js").decode()
    assert script == f'viewerChunk(0,"{embedded.chunks[0]}");\n'


def test_a_run_without_its_tokenizer_says_why(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    folder = write_run(str(tmp_path / "run"), rows(1, 1), tokenizer, str(tmp_path / "moved"))
    made = write_viewer(folder, 100, map)
    assert unpacked(made.index)["run"]["without_pieces"].startswith("the policy's tokenizer could not be loaded")
    assert [step["pieces"] for step in unpacked(made.chunks[0])["rows"][0]["steps"]] == [None, None]


def test_texts_that_are_no_utf8_survive():
    assert unpacked(packed(json.dumps(["\ud800", "</script>", "😀"]))) == ["\ud800", "</script>", "😀"]


def test_predictors_by_hand():
    # Sums 0.5, 0.1, 0.2, -0.1: the lowest at the last. Lowest value -0.4; the falls are 0.9 to it, and 0.4 to the last.
    values = [0.5, -0.4, 0.1, None, -0.3]
    assert blamed(values) == {"min_cumulative": 4, "sharpest_drop": 1, "sharpest_abs_drop": 1}
    assert suspicious(blamed(values)) == 1


def test_predictors_that_found_nothing_blame_nothing():
    # No step is below zero, and the only fall is from the first to the second.
    assert blamed([0.3, 0.1, None, 0.2]) == {"sharpest_abs_drop": 1}
    assert blamed([0.1, 0.2]) == blamed([None, None]) == blamed([]) == {}
    assert suspicious(blamed([0.3, 0.1])) is None
    assert blamed([-0.2]) == {"min_cumulative": 0, "sharpest_drop": 0}


def test_tasks_of_other_domains_and_none_are_apart():
    keys = [("a", None, "1"), ("a", None, "1"), ("a", "x", "1"), ("b", "x", "1"), ("b", "x", None), ("b", "x", None)]
    names = ("benchmark", "domain", "task_id")
    given = [{**dict(zip(names, key, strict=True)), "behavior": None} for key in keys]
    given += [{**given[3], "behavior": policy} for policy in ("p", "p", "q")]
    table = pa.Table.from_pylist(given, pa.schema([*schema.GROUP, pa.field("task_id", pa.string())]))
    assert task_numbers(table).tolist() == [0, 0, 1, 2, 3, 4, 5, 5, 6]


def test_rollouts_of_two_policies_are_no_trials_of_one_task(tmp_path):
    """Best-of-N takes one of each, so that a task whose trials mix them would have two that are chosen."""
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [
        {**row, "trajectory_id": f"{row['trajectory_id']}/{policy}", "behavior": policy}
        for row in rows(1, 2)
        for policy in ("p", None)
    ]
    index = unpacked(
        write_viewer(write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy")), 9, map).index
    )
    assert index["behavior"] == ["p", "p", None, None]
    assert index["group"] == [0, 0, 1, 1]
    assert index["groups"] == [["desk", "orders", "p"], ["desk", "orders", "a policy without a name"]]
    assert [sum(index["chosen"][i : i + 2]) for i in (0, 2)] == [1, 1]


def test_scores_that_the_list_offers():
    names = [
        "trajectory_id",
        "entropy__mean__mean",
        "entropy__min__mean",
        "judge__none__none",
        "deepconf_tail__mean__last",
    ]
    found = score_columns([*names, "progress_advantage__mean__mean"])
    assert found == [
        "progress_advantage__mean__mean",
        "entropy__mean__mean",
        "judge__none__none",
        "deepconf_tail__mean__last",
    ]


def test_how_a_task_begins():
    assert about([message("system", "You are."), message("user", "  Two\n words ")]) == "Two words"
    assert about([message("Orchestrator", "plan"), message("assistant", None)]) == "plan"
    assert about([message("user", None)]) == ""


def test_a_trajectory_whose_steps_were_cut(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [trajectory("a", None, None, [message("assistant", "one"), message("assistant", "two")])]
    folder = write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy"))
    table = folder.dataset("logprobs").to_table().to_pylist()
    for name in ("token_ids", *(f"{m}_{c}" for m in schema.MODELS for c in schema.TOKEN_COLUMNS)):
        table[0][name][0] = []
    table[0]["truncated"] = [True, False]
    folder.write("logprobs", "part-00000", pa.Table.from_pylist(table, schema.LOGPROBS))
    steps = folder.dataset("steps").to_table().to_pylist()
    steps[0] |= {"reason": "truncated", "progress_advantage__mean": None}
    folder.write(
        "steps",
        folder.parts("steps")[0].split("/")[-1].removesuffix(".parquet"),
        pa.Table.from_pylist(steps, schema.STEPS),
    )
    first, second = unpacked(write_viewer(folder, 9, map).chunks[0])["rows"][0]["steps"]
    assert (first["cut"], first["why"], first["value"], first["pieces"]) == (True, "truncated", None, [])
    assert (second["cut"], second["why"]) == (False, None)


def test_tokens_that_only_one_model_reads_have_no_scale():
    same, apart = {"policy": [-1000, -5000], "reference": [-3000, -5000]}, {"policy": [-1000, -2000], "reference": None}
    assert viewer._largest({"steps": [apart, {"policy": None, "reference": [-1]}]}) == []
    # Differences of 2 and 0 nats: the 95th percentile is 0.95 of the way between.
    assert viewer._largest({"steps": [apart, same]}) == [pytest.approx(1.9)]
