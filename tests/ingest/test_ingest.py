"""The stage as a whole: order, duplicates, limit, parts, reruns."""

import json
import os
import subprocess
import sys
from collections import Counter

import cloudpickle
import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pa_dist.config import Trajectories
from pa_dist.errors import ConfigError
from pa_dist.ingest import order, staging
from pa_dist.ingest import tables as stage
from pa_dist.ingest.sources import Source, natural
from pa_dist.ingest.stage import said_of
from pa_dist.ingest.tables import ingest
from pa_dist.store.folder import RunFolder

HI = {"role": "user", "content": "hi"}


def record(id=None, task=None, trial=None, **more):
    return {"id": id, "task_id": task, "trial": trial, "messages": [HI], **more}


def ids(result):
    return [row["trajectory_id"] for row in result.rows]


def test_order_is_benchmark_domain_task_trial_id(jsonl, run):
    records = [
        record("z", None), record("t10", "t10"), record("a", "t2"), record("t2-1", "t2", 1), record("t2-0", "t2", 0),
        record("n10", "10"), record("n2", "2"), record("n02", "02"), record("d", "9", domain="a"),
        record("b", "9", domain="z", benchmark="a"), record("y", None),
    ]  # fmt: skip
    got = ids(run("chat", jsonl("log.jsonl", *records)))
    # Benchmark a; then domain a; then domain log: numbers, t2 by trial (none last), t10, no task last and by id.
    assert got == ["b", "d", "n02", "n2", "n10", "t2-0", "t2-1", "a", "t10", "y", "z"]


def test_trial_of_the_folder_wins_and_ids_differ(jsonl, run, tmp_path):
    for i in (0, 1, 10):
        jsonl(f"trial_{i}/shop.jsonl", record(task="5", trial="not even a number" if i else 7))
    result = run("chat", tmp_path / "data")
    assert [row["trial"] for row in result.rows] == [0, 1, 10]
    assert len(set(ids(result))) == 3
    assert result.rejects == []


def test_a_trial_of_a_folder_beyond_32_bits(jsonl, run):
    result = run("chat", jsonl("trial_4294967296/a.jsonl", record()))
    assert result.reasons == ["trial of the folder is beyond 32 bits: 4294967296 (integer)"]


def test_ids_are_stable_when_a_corpus_moves(jsonl, run, tmp_path):
    jsonl("here/trial_0/a.jsonl", record(), record())
    jsonl("there/deeper/trial_0/a.jsonl", record(), record())
    here, there = ids(run("chat", tmp_path / "data/here")), ids(run("chat", tmp_path / "data/there"))
    assert here == there
    assert len(set(here)) == 2


def test_the_first_of_a_duplicate_id_wins(jsonl, run, tmp_path):
    shop = {"domain": "shop"}
    jsonl("f2.jsonl", record("a", "1", **shop), record("b", "2", **shop), record("b", "3", **shop))
    jsonl("f10.jsonl", record("a", "0", **shop), record("c", "4", **shop))
    result = run("chat", tmp_path / "data/*.jsonl")
    assert [(row["trajectory_id"], row["task_id"]) for row in result.rows] == [("a", "1"), ("b", "2"), ("c", "4")]
    path = tmp_path / "data/f2.jsonl"
    assert result.rejects == [
        ("f2.jsonl", "line 3", f"duplicate id 'b': first in {path}, line 2"),
        ("f10.jsonl", "line 1", f"duplicate id 'a': first in {path}, line 1"),
    ]
    assert result.counts == stage.Counts(sources=2, read=5, kept=3, rejected=2, left_out_by_limit=0)


def test_limit_goes_by_the_order_of_the_table(jsonl, run):
    path = jsonl("a.jsonl", record("c", "3"), record("b", "2"), record("a", "1"), record("a", "1"), {})
    result = run("chat", path, limit=2)
    assert ids(result) == ["a", "b"]
    assert result.counts == stage.Counts(sources=1, read=5, kept=2, rejected=2, left_out_by_limit=1)


def test_overrides(jsonl, run):
    path = jsonl("a.jsonl", record(domain="x", benchmark="y", behavior="z"))
    [row] = run("chat", path, domain="D", benchmark="B", behavior="H").rows
    assert (row["domain"], row["benchmark"], row["behavior"]) == ("D", "B", "H")


def test_nothing_usable_still_writes_both_tables(put, run):
    result = run("chat", put("a.jsonl", b"\n"))
    assert result.rows == []
    assert result.rejects == [("a.jsonl", "file", "no records")]
    clean = run("chat", put("a.jsonl", json.dumps(record())))
    assert clean.rejects == []
    assert clean.folder.parts("rejects") != []


def test_a_rerun_replaces_only_its_own(jsonl, run, tmp_path):
    first = run("chat", jsonl("a.jsonl", record("a"), {}, record("a")))
    assert first.counts.rejected == 2
    score = first.folder.dataset("rejects").to_table().slice(0, 0)
    first.folder.write("rejects", "score-00000", score)
    (tmp_path / "run/staging").mkdir()
    (tmp_path / "run/staging/rows-00000.jsonl").write_text("left by a crash")
    second = run("chat", jsonl("a.jsonl", record("b")))
    assert ids(second) == ["b"]
    assert second.rejects == []
    assert len(second.folder.parts("rejects", "score-")) == 1


def test_a_file_that_cannot_be_opened(jsonl, tmp_path, run):
    good = jsonl("a.jsonl", record("a"))
    config = Trajectories(format="chat", paths=[str(good)])

    def vanish(function, items):
        # The file goes away between listing and reading.
        good.unlink(missing_ok=True)
        return map(function, items)

    folder = RunFolder(str(tmp_path / "gone"))
    counts = ingest(config, folder, vanish)
    assert (counts.kept, counts.rejected) == (0, 1)
    [row] = folder.dataset("rejects").to_table().to_pylist()
    assert row["reason"].startswith("cannot be read after 0 records: FileNotFoundError")


def test_from_memory(run):
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/trial_1/shop.jsonl", json.dumps(record("m")).encode())
    try:
        result = run("chat", "memory://set/trial_*/*.jsonl")
        assert [(row["trajectory_id"], row["trial"], row["domain"]) for row in result.rows] == [
            ("m/trial_1", 1, "shop")
        ]
    finally:
        memory.rm("/set", recursive=True)


def test_no_match_leaves_the_folder_alone(jsonl, run, tmp_path):
    before = run("chat", jsonl("a.jsonl", record("a")))
    with pytest.raises(ConfigError, match="nothing matches"):
        run("chat", tmp_path / "none.jsonl")
    assert ids(before) == ["a"]


def small_tasks(monkeypatch):
    """Bounds so low that a few rows need several groups, flushes and parts."""
    monkeypatch.setattr(stage, "GROUP_FILES", 2)
    monkeypatch.setattr(order, "PART_ROWS", 3)
    monkeypatch.setattr(order, "FLUSH_ROWS", 2)
    monkeypatch.setattr(staging, "FLUSH_ROWS", 2)
    monkeypatch.setattr(staging, "GAP_BYTES", 300)


CASES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 12), st.none() | st.integers(0, 30).map(str), st.none() | st.integers(0, 2)),
        max_size=6,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES, st.none() | st.integers(1, 9))
def test_parts_hold_what_sorting_in_memory_gives(run, jsonl, tmp_path, monkeypatch, files, limit):
    small_tasks(monkeypatch)
    for path in (tmp_path / "data").glob("*"):
        path.unlink()
    for i, rows in enumerate(files):
        jsonl(f"{i}.jsonl", *(record(f"id{n}", task, trial, text=f"{i}") for n, task, trial in rows))
    result = run("chat", tmp_path / "data", limit=limit, domain="d")
    seen: dict[tuple, tuple] = {}
    for i, rows in enumerate(files):
        for n, task, trial in rows:
            seen.setdefault((n, trial), (f"id{n}", task, trial, f'{{"text": "{i}"}}'))
    # An id of several trials has the trial in it, but where that is null.
    times = Counter(n for n, _ in seen)
    for (n, trial), row in seen.items():
        if times[n] > 1 and trial is not None:
            seen[n, trial] = (f"id{n}/trial_{trial}", *row[1:])
    last = float("inf")
    expected = sorted(
        seen.values(), key=lambda r: (last if r[1] is None else int(r[1]), last if r[2] is None else r[2], r[0])
    )
    names = ("trajectory_id", "task_id", "trial", "extra")
    assert [tuple(row[name] for name in names) for row in result.rows] == expected[:limit]
    n_empty = sum(not rows for rows in files)
    assert result.counts.read == sum(map(len, files)) + n_empty
    assert max(part.count_rows() for part in result.folder.dataset("trajectories").get_fragments()) <= 3


def test_parts_are_bounded_by_bytes(jsonl, run, monkeypatch):
    monkeypatch.setattr(order, "PART_BYTES", 20_000)
    sizes = [1000, 1000, 50_000, 1000, 9000, 9000, 9000]
    path = jsonl("a.jsonl", *(record(f"{i}", str(i), text="x" * n) for i, n in enumerate(sizes)))
    result = run("chat", path)
    # A row is its text and some 1,500 bytes of keys and offsets; the one of 50,000 is over the bound and stands alone.
    parts = [part.count_rows() for part in result.folder.dataset("trajectories").get_fragments()]
    assert parts == [2, 1, 2, 1, 1]
    assert ids(result) == [str(i) for i in range(7)]


def test_small_files_share_a_task(monkeypatch):
    monkeypatch.setattr(stage, "GROUP_BYTES", 100)
    sources = [Source(str(i), "", "", size) for i, size in enumerate([40, 60, 1, 500, 10, 10])]
    groups = [[s.name for s in group.sources] for group in stage.grouped(sources)]
    assert groups == [["0", "1"], ["2"], ["3"], ["4", "5"]]


def test_tasks_survive_pickling(jsonl, tmp_path):
    """As Ray would send them."""

    def remote(function, items):
        return (cloudpickle.loads(cloudpickle.dumps(function))(cloudpickle.loads(cloudpickle.dumps(i))) for i in items)

    config = Trajectories(format="chat", paths=[str(jsonl("a.jsonl", record("a"), {}))])
    counts = ingest(config, RunFolder(f"file://{tmp_path}/run"), remote)
    assert (counts.kept, counts.rejected) == (1, 1)


@pytest.mark.parametrize("value", ["a", "é", "t1", "", "1a2"])
def test_natural_keeps_equal_equal(value):
    assert natural(value) == natural(value.replace("1", "01"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A file of 64 MB and one of 16 MB peak alike; measured in a process of its own."""
    script = """
import json, resource, sys
from pa_dist.ingest.read import read
from pa_dist.ingest.sources import expand
path, n = sys.argv[1], int(sys.argv[2])
row = json.dumps({"id": "a", "messages": [{"role": "user", "content": "x" * 1000}] * 100})
with open(path, "w") as file:
    file.write('{"simulations": [' + row)
    for _ in range(n - 1):
        file.write("," + row)
    file.write("]}")
assert sum(1 for _ in read("tau2", expand([path])[0])) == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

    def peak(n):
        command = [sys.executable, "-c", script, str(tmp_path / "big.json"), str(n)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout)

    assert peak(640) < peak(160) + 16


@pytest.mark.parametrize(
    ("format", "wrap"),
    [("chat", "%s\n"), ("tau2", '{"simulations": [%s]}'), ("tau_bench", "[%s]"), ("agentdojo", "%s"),
     ("inspect_log", '{"eval": {}, "samples": [%s]}')],
)  # fmt: skip
def test_a_record_beyond_the_bound_is_not_parsed(put, run, format, wrap):
    long = json.dumps({"messages": [{"role": "user", "content": "x" * (1 << 20)}], "traj": [HI]})
    [(_, _, reason)] = run(format, put("a.json", wrap % long), max_record_mib=1).rejects
    assert reason == "longer than 1 MiB, the largest record that is read (trajectories.max_record_mib)"
    assert "longer than" not in "".join(run(format, put("a.json", wrap % long), max_record_mib=2).reasons)


def test_memory_of_a_record_beyond_the_bound(tmp_path):
    """One record of 80 MB, small objects, parsed took 2 GB; measured in a process of its own."""
    script = """
import resource, sys
from pa_dist import stages
from pa_dist.config import Trajectories
from pa_dist.ingest.tables import ingest
from pa_dist.store.folder import RunFolder
with open(sys.argv[1], "w") as file:
    file.write('{"messages": [')
    for _ in range(80):
        file.write('{"role":"a"}, ' * 75_000)
    file.write('{"role":"a"}]}')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = ingest(Trajectories(format="chat", paths=[sys.argv[1]], max_record_mib=8), RunFolder(sys.argv[2]), map)
assert counts.rejected == 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "big.jsonl"), str(tmp_path / "run")]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout) < 4 * 8 + 64


def test_what_ingest_says_of_the_table(jsonl, run):
    says = {**HI, "audio": 1, "refusal": "no", "cost": 2}
    counts = run(
        "chat", jsonl("a.jsonl", record("a", trial=0, messages=[says, HI]), record("a", trial=1, success=1))
    ).counts
    assert list(said_of(counts)) == [
        "ids that several trajectories share were told apart: by trial 2",
        "left behind of messages: audio 1, cost 1, refusal 1; of records, kept in extra only: success 1",
    ]
    assert list(said_of(run("chat", jsonl("a.jsonl", record("a"))).counts)) == []
