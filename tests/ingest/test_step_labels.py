"""Labels of steps and pairs of actions, in chat and Parquet files and in AgentProcessBench's layout."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pa_dist.ingest.stage import said_of

DATA = Path(os.environ.get("PA_DIST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "formats"
TALK = [{"role": role, "content": role} for role in ("user", "assistant", "tool", "assistant", "assistant")]


def talk(**more):
    return {"messages": TALK, **more}


@pytest.mark.parametrize(
    ("given", "labels", "mistake"),
    [
        ([1, 0, -1], [None, 1, None, 0, -1], 4),
        (["right", "incorrect", None], [None, 1, None, -1, None], 3),
        ([True, False, False], [None, 1, None, -1, -1], 3),
        ([None, 1.0, None, "neutral", "correct"], [None, 1, None, 0, 1], None),  # of each message
        ({"3": -1, "1": "wrong", "2": 1}, [None, -1, 1, -1, None], 1),
        ({"1": 1, "99": None}, [None, 1, None, None, None], None),
        ([None, None, None], None, None),
        ([], None, None),
        ({}, None, None),
    ],
)
def test_labels_in_their_forms(jsonl, run, given, labels, mistake):
    [row] = run("chat", jsonl("a.jsonl", talk(step_labels=given))).rows
    assert (row["step_labels"], row["mistake_step"], row["extra"]) == (labels, mistake, None)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([1, 1], "step_labels has 2 entries for 3 assistant messages, of 5 in all"),
        ([1, 2, 1], "step_labels[1] is no label but 2 (integer); 1, 0, -1, right, neutral, wrong, true or false"),
        (
            [1, "bad", 1],
            'step_labels[1] is no label but "bad" (string); 1, 0, -1, right, neutral, wrong, true or false',
        ),
        ([1, 0.5, 1], "step_labels[1] is not an integer but 0.5 (number)"),
        ([1, [1], 1], "step_labels[1] is no label but [1] (list); 1, 0, -1, right, neutral, wrong, true or false"),
        ({"5": 1}, 'step_labels has "5" (string), which is no index of its 5 messages'),
        ({"-1": 1}, 'step_labels has "-1" (string), which is no index of its 5 messages'),
        ({"one": 1}, 'step_labels has "one" (string), which is no index of its 5 messages'),
        ({"1": 10**400}, "step_labels['1'] is beyond 32 bits: 1" + "0" * 39 + "... (integer)"),
        ("wrong", 'step_labels is neither a list nor an object but "wrong" (string)'),
        (-1, "step_labels is neither a list nor an object but -1 (integer)"),
    ],
)
def test_labels_that_cannot_be_used(jsonl, run, given, reason):
    result = run("chat", jsonl("a.jsonl", talk(), talk(step_labels=given)))
    assert result.rejects == [("a.jsonl", "line 2", reason)]


def test_a_mistake_step_that_is_given_stays_and_what_was_taken_for_one_is_said(jsonl, run):
    records = [
        talk(step_labels=[-1, 1, -1], mistake_step=4),
        talk(step_labels=[1, -1, 0]),
        talk(step_labels=[1, 1, 1]),
        talk(),
    ]
    result = run("chat", jsonl("a.jsonl", *records))
    assert sorted(row["mistake_step"] or 0 for row in result.rows) == [0, 0, 3, 4]
    said = "step labels of 3 trajectories: 5 right, 1 neutral, 3 wrong; of 1 the first wrong one is the mistake_step"
    assert list(said_of(result.counts)) == [said]


def test_columns_of_parquet_and_tables_of_ours(put, run):
    def written(name, **columns):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        return put(name, sink.getvalue().to_pybytes())

    forms = {
        "list": pa.array([[1, None, -1]], pa.list_(pa.int64())),
        "struct": pa.array([{"1": 1, "4": -1, "7": None}]),
        "map": pa.array([[("1", 1), ("4", -1)]], pa.map_(pa.string(), pa.int8())),
        "text": pa.array(['{"1": 1, "4": -1}']),
    }
    for name, labels in forms.items():
        result = run("auto", written(f"{name}.parquet", messages=pa.array([TALK]), step_labels=labels))
        assert [row["step_labels"] for row in result.rows] == [[None, 1, None, None, -1]], name
    table = result.folder.dataset("trajectories").to_table()
    again = run("auto", written("ours.parquet", **{name: table[name] for name in ("messages", "step_labels")}))
    assert again.rows[0]["step_labels"] == [None, 1, None, None, -1]


PROMPT = [{"role": "user", "content": "Cancel it."}, {"role": "assistant", "content": "Which?"}, TALK[0]]
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("Done.", "No."))


@pytest.mark.parametrize("form", ["prompt", "whole", "text", "parquet"])
def test_a_pair_is_two_trajectories_that_part_at_one_action(put, jsonl, run, form):
    begin = PROMPT if form in ("whole", "text") else []
    record = {"id": "p1", "chosen": [*begin, GOOD, TALK[0]], "rejected": [*begin, BAD]}
    record |= {"whole": {}, "text": {"prompt": "Cancel it."}}.get(form, {"prompt": PROMPT})
    if form == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([record]), sink)
        path = put("a.parquet", sink.getvalue().to_pybytes())
    else:
        path = jsonl("a.jsonl", record)
    rows = run("auto", path).rows
    assert [row["trajectory_id"] for row in rows] == ["p1/chosen", "p1/rejected"]
    assert [row["step_labels"] for row in rows] == [[None, None, None, 1, None], [None, None, None, -1]]
    assert [len(row["messages"]) for row in rows] == [5, 4]
    assert [(row["pair_id"], row["task_id"], row["mistake_step"]) for row in rows] == [
        ("p1", "p1", None),
        ("p1", "p1", 3),
    ]
    assert rows[0]["extra"] == ('{"prompt": "Cancel it."}' if form == "text" else None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": [GOOD], "rejected": [GOOD]}, "chosen and rejected do not part at an assistant message"),
        ({"chosen": [GOOD], "rejected": []}, "chosen and rejected do not part at an assistant message"),
        ({"chosen": [TALK[0]], "rejected": [BAD]}, "chosen and rejected do not part at an assistant message"),
        ({"chosen": ["a"], "rejected": [BAD]}, "chosen and rejected do not part at an assistant message"),
        ({"chosen": "a", "rejected": "b"}, 'chosen is not a list of messages but "a" (string)'),
        (
            {"chosen": [GOOD], "rejected": [BAD], "step_labels": [1]},
            "step_labels beside chosen and rejected, of which it would be one",
        ),
        ({"chosen": [GOOD], "rejected": [BAD, 3]}, "messages[1] is not an object but 3 (integer)"),
        (talk(pair_id=[1]), "pair_id is neither a string nor an integer but [1] (list)"),
    ],
)
def test_pairs_that_cannot_be_used(jsonl, run, record, reason):
    result = run("chat", jsonl("a.jsonl", {"chosen": [GOOD], "rejected": [BAD]}, record))
    assert result.rejects == [("a.jsonl", "line 2", reason)]
    first, second = result.rows
    assert first["pair_id"] == second["pair_id"] == first["trajectory_id"].removesuffix("/chosen")


def bench(**more):
    record = {"messages": TALK, "data_source": "tau2_airline", "query_index": 3, "sample_index": 1, "total_index": 16}
    return {**record, "final_label": -1, "step_labels": {"1": 1, "3": -1, "4": -1}, "question": "Q", **more}


def test_agentprocessbench(put, jsonl, run):
    lost, won = bench(), bench(final_label=1, sample_index=2)
    result = run("auto", jsonl("tau2.jsonl", lost, won, bench(final_label="x"), bench(step_labels={"9": 1})))
    assert result.counts.formats == {"agentprocessbench": 1}
    first, second = result.rows
    assert (first["trajectory_id"], first["benchmark"], first["domain"], first["task_id"], first["trial"]) == (
        "tau2_airline/3/1", "agentprocessbench", "tau2_airline", "tau2_airline/3", 1,
    )  # fmt: skip
    assert [(row["reward"], row["mistake_step"]) for row in (first, second)] == [(0.0, 3), (1.0, None)]
    assert first["step_labels"] == second["step_labels"] == [None, 1, None, -1, -1]
    assert json.loads(first["extra"]) == {"question": "Q", "total_index": 16}
    assert result.rejects == [
        ("tau2.jsonl", "line 3", 'final_label is not a number but "x" (string)'),
        ("tau2.jsonl", "line 4", 'step_labels has "9" (string), which is no index of its 5 messages'),
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([lost, won]), sink)
    assert run("auto", put("a.parquet", sink.getvalue().to_pybytes())).rows == result.rows


@pytest.mark.skipif(not (DATA / "agentprocessbench").is_dir(), reason=f"no samples in {DATA}; set PA_DIST_DATA")
def test_a_published_part_of_agentprocessbench(run):
    result = run("auto", DATA / "agentprocessbench")
    assert (result.counts.kept, result.counts.rejected, result.counts.left_behind) == (15, 0, {})
    assert result.counts.step_labels == {"trajectories": 15, "right": 36, "neutral": 0, "wrong": 5, "mistakes": 3}
    for row in result.rows:
        labelled = [i for i, label in enumerate(row["step_labels"]) if label is not None]
        assert labelled == [i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    assert sum(row["reward"] for row in result.rows) == 12
    assert len({row["task_id"] for row in result.rows}) == 3
