"""AgentDojo, inspect_ai, Parquet, trial folders, and recognising each; samples written from their schemas."""

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DATA = Path(os.environ.get("PA_DIST_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no published trajectories in {DATA}; set PA_DIST_DATA")

HI = {"role": "user", "content": "hi"}
DOJO = {
    "suite_name": "banking", "pipeline_name": "gpt-x", "user_task_id": "user_task_3", "injection_task_id": None,
    "attack_type": None, "injections": {}, "error": None, "utility": True, "security": False, "duration": 1.5,
    "messages": [
        {"role": "system", "content": [{"type": "text", "content": "Be "}, {"type": "text", "content": "kind."}]},
        HI,
        {"role": "assistant", "content": None, "tool_calls": [
            {"function": "pay", "args": {"amount": 2}, "id": "c1", "placeholder_args": None}]},
        {"role": "tool", "content": "paid", "tool_call_id": "c1", "tool_call": {"function": "pay"}, "error": None},
    ],
}  # fmt: skip


def test_agentdojo_shows_the_model_an_error_instead_of_the_content(put, run):
    failed = {**DOJO["messages"][-1], "error": "ValueError: no such account"}
    [row] = run("agentdojo", put("a.json", {**DOJO, "messages": [*DOJO["messages"], failed]})).rows
    assert [message["content"] for message in row["messages"][-2:]] == ["paid", "ValueError: no such account"]


def test_agentdojo(put, run, tmp_path):
    put("a.json", DOJO)
    put("b.json", {**DOJO, "injection_task_id": "injection_task_1", "utility": False})
    put("c.json", {**DOJO, "utility": None})
    plain, unknown, attacked = run("agentdojo", tmp_path / "data").rows
    assert [r["task_id"] for r in (plain, attacked)] == ["user_task_3", "user_task_3/injection_task_1"]
    assert sorted([plain["reward"] or -1, unknown["reward"] or -1]) == [-1, 1.0]
    assert attacked["reward"] == 0.0
    assert (plain["benchmark"], plain["domain"], plain["behavior"]) == ("agentdojo", "banking", "gpt-x")
    system, _, call, tool = plain["messages"]
    assert system["content"] == "Be kind."
    assert call["tool_calls"] == [{"id": "c1", "name": "pay", "arguments": '{"amount": 2}'}]
    assert (tool["content"], tool["tool_call_id"]) == ("paid", "c1")
    assert json.loads(plain["extra"])["security"] is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"utility": 1}, "utility is not true or false but 1 (integer)"),
        ({"messages": None}, "no messages"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
         "messages[0].content[0] is not a text part but 'image'"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]},
         "messages[0].tool_calls[0] is not an object but 3 (integer)"),
    ],
)  # fmt: skip
def test_agentdojo_that_cannot_be_used(put, run, change, reason):
    assert run("agentdojo", put("a.json", {**DOJO, **change})).rejects == [("a.json", "file", reason)]


def sample(i, epoch=1, value="C", **more):
    return {
        "id": i, "epoch": epoch, "uuid": f"u{i}-{epoch}", "scores": {"match": {"value": value}, "other": {"value": 9}},
        "attachments": {"abc": "a long text"},
        "messages": [
            {"role": "user", "content": "attachment://abc", "source": "input"},
            {"role": "assistant", "content": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "ok"}],
             "tool_calls": [{"id": "c", "function": "bash", "arguments": {"cmd": "attachment://abc"}}]},
            {"role": "tool", "content": "done", "tool_call_id": "c", "function": "bash"},
        ],
        **more,
    }  # fmt: skip


EVAL = {"task": "ctf", "model": "openai/gpt-x"}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as log:
        for name, value in members.items():
            log.writestr(name, value if isinstance(value, bytes) else json.dumps(value))
    return buffer.getvalue()


def zstd(members):
    """The same by hand with compression 93, which this Python's zipfile cannot write."""
    body, directory = b"", b""
    for name, value in members.items():
        raw = json.dumps(value).encode()
        halves, label = (raw[: len(raw) // 2], raw[len(raw) // 2 :]), name.encode()
        data = b"".join(pa.Codec("zstd").compress(half, asbytes=True) for half in halves)  # frames follow each other
        sizes = struct.pack("<HHHHIIIHH", 0, 93, 0, 33, zlib.crc32(raw), len(data), len(raw), len(label), 0)
        entry = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\x01\x02" + struct.pack("<HH", 63, 63) + sizes + entry + label
        body += b"PK\x03\x04" + struct.pack("<H", 63) + sizes + label + data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


MEMBERS = {
    "header.json": {"version": 2, "eval": EVAL},
    "samples/1_epoch_1.json": sample(1),
    "samples/1_epoch_2.json": sample(1, epoch=2, value="I"),
    "summaries.json": [],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.json", {"version": 2, "status": "success", "eval": EVAL, "samples": [sample(1), sample(1, 2, "I")]}),
        ("l.json", {"samples": [sample(1), sample(1, 2, "I")], "eval": EVAL}),
        ("l.eval", zipped(MEMBERS)),
        ("l.eval", zstd(MEMBERS)),
    ],
    ids=["json", "eval last", "zip", "zstd"],
)
@pytest.mark.parametrize("format", ["inspect_log", "auto"])
def test_inspect_log(put, run, name, content, format):
    result = run(format, put(name, content))
    assert result.rejects == []
    assert [(r["trajectory_id"], r["task_id"], r["trial"], r["reward"]) for r in result.rows] == [
        ("u1-1", "1", 0, 1.0),
        ("u1-2", "1", 1, 0.0),
    ]
    row = result.rows[0]
    assert (row["benchmark"], row["domain"], row["behavior"]) == ("inspect", "ctf", "openai/gpt-x")
    user, assistant, tool = row["messages"]
    assert (user["content"], assistant["content"], tool["content"]) == ("a long text", "ok", "done")
    assert [message["reasoning"] for message in (user, assistant, tool)] == [None, "hm", None]
    assert result.counts.left_behind == {"function": 2, "source": 2}
    assert assistant["tool_calls"] == [{"id": "c", "name": "bash", "arguments": '{"cmd": "a long text"}'}]


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        ("C", 1.0),
        ("P", 0.5),
        ("I", 0.0),
        ("N", 0.0),
        (True, 1.0),
        (0.25, 0.25),
        (float("nan"), None),
        ("B-", None),
        ({"a": 1}, None),
    ],
)
def test_inspect_scores(put, run, value, reward):
    [row] = run("inspect_log", put("l.json", {"eval": EVAL, "samples": [sample(1, value=value)]})).rows
    assert row["reward"] == reward


TOO_LONG = "longer than 1 MiB, the largest record that is read (trajectories.max_record_mib)"


def test_inspect_header_too_large(put, run):
    large = {**MEMBERS, "header.json": {"version": 2, "eval": {**EVAL, "note": "x" * (1 << 20)}}}
    result = run("inspect_log", put("l.eval", zipped(large)), max_record_mib=1)
    assert result.rejects == [("l.eval", "eval", TOO_LONG)]


@pytest.mark.parametrize("pack", [zipped, zstd])
def test_inspect_samples_too_large_are_never_unpacked(put, run, pack):
    members = {
        "header.json": {"eval": EVAL},
        "samples/1.json": sample(1),
        "samples/2.json": sample(2, x="x" * 3_000_000),
    }
    data = pack(members)
    assert len(data) < 30_000
    result = run("inspect_log", put("l.eval", data), max_record_mib=1)
    assert [row["task_id"] for row in result.rows] == ["1"]
    assert result.rejects == [("l.eval", "samples/2.json", TOO_LONG)]


def test_inspect_samples_larger_than_they_say(put, run):
    # The archive's directory says that 3 MB are 1,000 bytes.
    data = zipped({"header.json": {"eval": EVAL}, "samples/2.json": sample(2, x="x" * 3_000_000)})
    with zipfile.ZipFile(io.BytesIO(data)) as log:
        size = log.getinfo("samples/2.json").file_size
    forged = data.replace(struct.pack("<I", size), struct.pack("<I", 1000))
    [(_, place, reason)] = run("inspect_log", put("l.eval", forged), max_record_mib=1).rejects
    assert (place, reason.partition(" for ")[0]) == ("samples/2.json", "cannot be read: BadZipFile: Bad CRC-32")


def test_inspect_logs_that_cannot_be_used(put, run, tmp_path):
    put("a.json", {"eval": EVAL, "samples": [sample(1, attachments={}), sample(2)]})
    put("b.json", {"eval": 3, "samples": []})
    put("c.eval", zipped(MEMBERS)[:-30])
    put("d.eval", zipped({"header.json": b"{", "samples/1.json": sample(1)}))
    put(
        "e.eval", zstd({"samples/9.json": sample(9)}).replace(pa.Codec("zstd").compress(b"", asbytes=True)[:4], b"0000")
    )
    result = run("inspect_log", tmp_path / "data")
    assert [row["task_id"] for row in result.rows] == ["2"]
    (a, b, c, d, e) = result.rejects
    assert a == ("a.json", "samples.0", 'attachment "abc" is not in the log')
    assert b == ("b.json", "eval", "eval is not an object but 3 (integer)")
    assert c == ("c.eval", "file", "cannot be read after 0 records: BadZipFile: File is not a zip file")
    assert d[:2] == ("d.eval", "eval")
    assert d[2].startswith("not JSON")
    assert e[:2] == ("e.eval", "samples/9.json")
    assert e[2].startswith("cannot be read: OSError")


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("format", ["parquet", "auto"])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_parquet(put, run, format, column):
    histories = [[HI], [{"role": "assistant", "content": "yes"}], []]
    data = parquet(**{column: histories}, id=["a", "b", "c"], reward=[1.0, None, 0.0], source=["x", "y", "z"])
    result = run(format, put("d.parquet", data))
    assert [(r["trajectory_id"], r["reward"], r["extra"]) for r in result.rows] == [
        ("a", 1.0, '{"source": "x"}'),
        ("b", None, '{"source": "y"}'),
    ]
    assert result.rejects == [("d.parquet", "row 2", "no messages")]


def test_parquet_with_a_column_named_and_json_text(put, run):
    path = put("d.parquet", parquet(dialogue=[json.dumps([HI]), "not JSON"]))
    result = run("parquet", path, messages_column="dialogue")
    assert [row["messages"][0]["content"] for row in result.rows] == ["hi"]
    assert result.rejects == [("d.parquet", "row 1", 'messages is not a list but "not JSON" (string)')]
    [(_, place, reason)] = run("parquet", path).rejects
    assert place == "file"
    assert reason.startswith("no column messages or conversations or")
    assert reason.endswith("among dialogue")
    [(_, _, reason)] = run("parquet", put("d.parquet", b"PAR1 and no more")).rejects
    assert reason.startswith("cannot be read after 0 records: ArrowInvalid")


def test_auto_says_what_it_took_each_file_for(put, run, tmp_path):
    tau2 = {"simulations": [{"id": "s", "messages": [HI]}]}
    put("a", tau2)  # names say nothing, and a folder is not asked for: each file is named
    put("b", [{"task_id": 1, "traj": [HI]}])
    put("c", DOJO)
    put("d", {"history": [HI], "mistake_step": "0"})
    put("e", "{broken\n" + json.dumps({"messages": [HI]}))
    put("f", {"weather": 1, "wind": 2})
    put("g", [1])
    put("h", b"\x00\x01")
    result = run("auto", tmp_path / "data" / "*")
    assert result.counts.formats == {"tau2": 1, "tau_bench": 1, "agentdojo": 1, "who_and_when": 1, "chat": 1}
    assert result.counts.kept == 5
    assert [(name, reason) for name, _, reason in result.rejects if name != "e"] == [
        ("f", "no format recognised: an object of weather, wind"),
        ("g", "no format recognised: a list, but not of objects with traj"),
        ("h", "no format recognised: no JSON object"),
    ]


@pytest.mark.parametrize("benchmark", ["webshop", "bfcl"])
def test_published_trials_are_told_apart_by_their_folders_and_duplicates_are_not(benchmark, put, run, tmp_path):
    simulations = {"simulations": [{"id": "s", "task_id": "1", "messages": [HI]}]}
    for trial in range(3):
        put(f"{benchmark}/bon8/pair/trial_{trial}/{benchmark}.json", simulations)
    # A file of another name would be another domain.
    put(f"{benchmark}/bon8/pair/trial_2/copy/trial_2/{benchmark}.json", simulations)
    result = run("tau2", tmp_path / "data", benchmark=benchmark)
    assert {(row["benchmark"], row["domain"]) for row in result.rows} == {(benchmark,) * 2}
    got = [(r["benchmark"], r["domain"], r["trajectory_id"], r["trial"]) for r in result.rows]
    assert sorted(row[2:] for row in got) == [("s/trial_0", 0), ("s/trial_1", 1), ("s/trial_2", 2)]
    [(name, _, reason)] = result.rejects
    assert name == f"{benchmark}.json"
    assert reason.startswith("duplicate id 's/trial_2': first in")
    alone = run("tau2", tmp_path / f"data/{benchmark}/bon8/pair/trial_1", benchmark=benchmark)
    assert [row["trajectory_id"] for row in alone.rows] == ["s/trial_1"]


@needs_data
def test_published_files_are_recognised(run):
    result = run("auto", *(DATA / name for name in ("tau2", "tau_bench", "who_and_when")))
    assert result.counts.formats == {"tau2": 17, "tau_bench": 1, "who_and_when": 109}
    assert (result.counts.kept, result.rejects) == (50 + 29 + 120 + 109, [])


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("format", "name", "content"),
    [
        ("inspect_log", "a.json", '{"eval": ' + DEEP + ', "samples": []}'),
        ("parquet", "a.parquet", parquet(messages=[DEEP])),
        ("auto", "a.json", "[" + DEEP + "]"),
    ],
)
def test_nested_too_deeply_is_a_reject(put, run, format, name, content):
    [reject] = run(format, put(name, content)).rejects
    assert "nested too deeply" in reject[2] or reject[2].startswith("no format recognised: a list")
