"""Benchmarks' own files: tau2, tau-bench, Who & When."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(os.environ.get("PA_DIST_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no published trajectories in {DATA}; set PA_DIST_DATA")

INFO = {
    "agent_info": {"llm": "gpt-x"},
    "environment_info": {"domain_name": "airline", "policy": "Be kind.", "tool_defs": {"f": {"name": "f"}}},
}
HI = {"role": "user", "content": "hi"}


def simulation(i, **more):
    return {"id": f"s{i}", "task_id": str(i), "trial": 0, "reward_info": {"reward": 0.5}, "messages": [HI], **more}


@pytest.mark.parametrize("info_last", [False, True])
def test_tau2(put, run, info_last):
    parts = {
        "info": INFO,
        "tasks": [{"a": "]"}],
        "simulations": [simulation(0, seed=3, termination_reason="user_stop")],
    }
    if info_last:
        parts = dict(reversed(parts.items()))
    [row] = run("tau2", put("x.json", parts)).rows
    assert row == {
        "trajectory_id": "s0", "benchmark": "tau2", "domain": "airline", "task_id": "0", "trial": 0,
        "behavior": "gpt-x",
        "messages": [{
            "role": "user", "name": None, "content": "hi", "reasoning": None, "tool_calls": None, "tool_call_id": None,
        }],
        "system": "Be kind.",
        "tools": '{"f": {"name": "f"}}', "reward": 0.5, "mistake_step": None, "mistake_agent": None,
        "pair_id": None, "step_labels": None,
        "answer": None, "extra": '{"termination_reason": "user_stop", "seed": 3}',
    }  # fmt: skip


def test_tau2_reasoning_is_in_what_the_server_said(put, run):
    raw = {"choices": [{"message": {"content": "yo", "reasoning_content": "hm"}}]}
    says = {"role": "assistant", "content": "yo", "raw_data": raw, "turn_idx": 1}
    result = run("tau2", put("x.json", {"simulations": [simulation(0, messages=[HI, says, {**says, "raw_data": {}}])]}))
    assert [message["reasoning"] for message in result.rows[0]["messages"]] == [None, "hm", None]
    assert result.counts.left_behind == {"turn_idx": 2, "raw_data": 1}


def test_tau_bench_reasoning(put, run):
    says = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": None}
    [row] = run("tau_bench", put("x.json", [{"task_id": 1, "traj": [HI, says]}])).rows
    assert [message["reasoning"] for message in row["messages"]] == [None, "hm"]


def test_tau2_without_info_or_reward(put, run):
    sims = [simulation(0, reward_info=None), simulation(1, reward_info={"reward": None}), simulation(2, id=None)]
    rows = run("tau2", put("shop.json", {"simulations": sims})).rows
    assert [(r["domain"], r["behavior"], r["reward"], r["extra"]) for r in rows] == [
        ("shop", None, None, None),
        ("shop", None, None, None),
        ("shop", None, 0.5, None),
    ]
    assert len(rows[2]["trajectory_id"]) == 32


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ({"info": INFO}, "file", "no simulations"),
        ({"info": INFO, "simulations": []}, "file", "no records"),
        ({"info": 3, "simulations": [simulation(0)]}, "info", "info is not an object but 3 (integer)"),
        ({"info": {"agent_info": []}, "simulations": []}, "info",
         "info.agent_info is not an object but [] (list)"),
        ({"info": {"environment_info": {"domain_name": 1}}}, "info",
         "info.environment_info.domain_name is not a string but 1 (integer)"),
        ('{"info": {"a": tru}, "simulations": []}', "info", "not JSON: Expecting value: line 1 column 7 (char 6)"),
        ({"simulations": None}, "byte 16", "expected '[', found b'n'; the rest of the file was not read"),
        ([], "byte 0", "expected '{', found b'['; the rest of the file was not read"),
        (b"", "byte 0", "the file is empty"),
        ({"simulations": [simulation(0, reward_info=1)]}, "simulations.0",
         "reward_info is not an object but 1 (integer)"),
        ({"simulations": [simulation(0, reward_info={"reward": "1"})]}, "simulations.0",
         'reward_info.reward is not a number but "1" (string)'),
        ({"simulations": [None]}, "simulations.0", "not a JSON object but null"),
    ],
)  # fmt: skip
def test_tau2_that_cannot_be_used(put, run, content, place, reason):
    result = run("tau2", put("x.json", content))
    assert result.rejects == [("x.json", place, reason)]
    assert result.rows == []


def test_a_bad_simulation_is_dropped_alone(put, run):
    # A NaN, a missing comma and a byte of another encoding, each inside one element.
    bad = [
        b'{"id": "nan", "reward_info": {"reward": NaN}, "messages": [{"role": "u"}]}',
        b'{"a": 1 "b": 2}',
        b'{"a": "\xe9"}',
    ]
    good = [json.dumps(simulation(i)).encode() for i in range(2)]
    data = b'{"simulations": [' + b",".join([good[0], *bad, good[1]]) + b"]}"
    result = run("tau2", put("x.json", b"\xef\xbb\xbf" + data))
    assert [row["trajectory_id"] for row in result.rows] == ["s0", "s1"]
    assert result.rejects == [
        ("x.json", "simulations.1", "reward_info.reward is not a finite number but NaN (number)"),
        ("x.json", "simulations.2", "not JSON: Expecting ',' delimiter: line 1 column 9 (char 8)"),
        ("x.json", "simulations.3", "not UTF-8 (byte 7 of the record)"),
    ]


def test_truncated(put, run):
    data = json.dumps({"info": INFO, "simulations": [simulation(i) for i in range(3)]}).encode()
    cut = data.index(b'"s2"')
    result = run("tau2", put("x.json", data[:cut]))
    assert [row["trajectory_id"] for row in result.rows] == ["s0", "s1"]
    assert result.rejects == [("x.json", f"byte {cut}", "truncated: the file ends inside the JSON document")]


def test_truncated_gzip_keeps_what_was_read(put, run):
    record = json.dumps({"messages": [{"role": "user", "content": os.urandom(3000).hex()}]}).encode() + b"\n"
    lines = b"".join(record.replace(b"user", f"user{i}".encode()) for i in range(900))  # several chunks
    result = run("chat", put("a.jsonl.gz", gzip.compress(lines)[:-20]))
    [(name, place, reason)] = result.rejects
    assert (name, place) == ("a.jsonl.gz", "file")
    assert reason.startswith(f"cannot be read after {result.counts.kept} records: EOFError")
    assert 0 < result.counts.kept < 900


@pytest.mark.parametrize(
    ("name", "behavior", "domain"),
    [
        ("gpt-4o-airline.json", "gpt-4o", "airline"),
        ("sonnet-3.5-new-retail.json", "sonnet-3.5-new", "retail"),
        ("my-domain.json", None, "my-domain"),
        ("airline.json", None, "airline"),
        ("-airline.json", None, "-airline"),
    ],
)
def test_tau_bench(put, run, name, behavior, domain):
    runs = [
        {
            "task_id": 3,
            "trial": 1,
            "reward": 1.0,
            "traj": [HI],
            "info": {"task": {"user_id": "u", "instruction": "go"}},
        },
        {"task_id": 3, "trial": 0, "reward": 0, "traj": [HI], "info": {}},
        {"task_id": 3, "trial": 2, "reward": 0.0, "traj": [{"content": "x"}]},
    ]
    result = run("tau_bench", put(name, runs))
    got = [
        (r["benchmark"], r["domain"], r["behavior"], r["task_id"], r["trial"], r["reward"], r["extra"])
        for r in result.rows
    ]
    assert got == [
        ("tau_bench", domain, behavior, "3", 0, 0.0, None),
        ("tau_bench", domain, behavior, "3", 1, 1.0, '{"instruction": "go", "user_id": "u"}'),
    ]
    assert result.rejects == [(name, "item 2", "traj[0] has no role")]


FAILED = {"question": "q", "question_ID": "Q1", "mistake_agent": "Coder", "mistake_step": "1", "level": 2}


@pytest.mark.parametrize(
    ("name", "message", "domain"),
    [
        ("Hand-Crafted/1.json", {**HI, "name": "A"}, "Hand-Crafted"),
        ("Algorithm-Generated/1.json", HI, "Algorithm-Generated"),
        ("other/1.json", {**HI, "name": "A"}, "Algorithm-Generated"),
        ("other/1.json", HI, "Hand-Crafted"),
    ],
)
def test_who_and_when(put, run, name, message, domain):
    [row] = run("who_and_when", put(name, {**FAILED, "history": [message, {"role": "x", "content": ""}]})).rows
    assert (row["benchmark"], row["domain"], row["task_id"]) == ("who_and_when", domain, "Q1")
    assert (row["mistake_step"], row["mistake_agent"], row["reward"]) == (1, "Coder", None)
    assert [(m["name"], m["content"]) for m in row["messages"]] == [(message.get("name"), "hi"), (None, "")]
    assert json.loads(row["extra"]) == {"question": "q", "level": 2}


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ({**FAILED, "history": [HI]}, "file", "mistake_step 1 is outside the history of 1 messages"),
        (
            {**FAILED, "history": [HI], "mistake_step": "one"},
            "file",
            'mistake_step is not an integer but "one" (string)',
        ),
        (FAILED, "file", "no messages"),
        ([FAILED], "byte 0", "expected '{', found b'['; the rest of the file was not read"),
        (json.dumps(FAILED).encode("utf-16"), "file", "text in UTF-16; expected UTF-8"),
        (json.dumps(FAILED)[:-1], "byte 96", "truncated: the file ends inside the JSON document"),
    ],
)
def test_who_and_when_that_cannot_be_used(put, run, content, place, reason):
    assert run("who_and_when", put("1.json", content)).rejects == [("1.json", place, reason)]


# Counts below are those of data/README.md.


@needs_data
def test_published_tau2(run):
    result = run("tau2", DATA / "tau2/toolorchestra")
    assert Counter(row["reward"] for row in result.rows) == {1.0: 28, 0.0: 22}
    assert [row["task_id"] for row in result.rows] == [str(i) for i in range(50)]
    assert result.rejects == []
    smoke = run("tau2", DATA / "tau2/activegraph")
    assert (smoke.counts.sources, smoke.counts.kept, smoke.counts.rejected) == (16, 29, 0)


@needs_data
def test_published_tau_bench(run):
    result = run("tau_bench", DATA / "tau_bench")
    assert Counter(row["reward"] for row in result.rows) == {1.0: 36, 0.0: 84}
    labels = [(row["behavior"], row["domain"], row["task_id"], row["trial"]) for row in result.rows]
    tasks = sorted({int(label[2]) for label in labels})
    assert len(tasks) == 30
    assert labels == [("gpt-4o", "airline", str(task), trial) for task in tasks for trial in range(4)]
    published = json.loads((DATA / "tau_bench/gpt-4o-airline.json").read_bytes())
    texts = {(str(r["task_id"]), r["trial"]): [m["content"] for m in r["traj"]] for r in published}
    assert {(r["task_id"], r["trial"]): [m["content"] for m in r["messages"]] for r in result.rows} == texts


@needs_data
def test_published_who_and_when(run):
    result = run("who_and_when", DATA / "who_and_when")
    assert Counter(row["domain"] for row in result.rows) == {"Algorithm-Generated": 80, "Hand-Crafted": 29}
    assert result.rejects == []
    assert all(0 <= row["mistake_step"] < len(row["messages"]) for row in result.rows)
    for row in result.rows:
        assert any(m["name"] is not None for m in row["messages"]) == (row["domain"] == "Algorithm-Generated")
