"""Whole files and whole blocks, spread over a corpus; totals and their errors by hand."""

import itertools
import json
import math

import pyarrow as pa
import pytest

from pa_dist import config, schema
from pa_dist.plan.estimate import Estimate, total
from pa_dist.plan.sample import FRAME, blocks, characters, kind, read_corpus
from pa_dist.store.folder import RunFolder


def corpus(paths, folder, read_bytes=1 << 20, **settings):
    section = config.Trajectories(format="chat", paths=paths, **settings)
    return read_corpus(section, RunFolder(str(folder)), 100, read_bytes)


def conversation(row_id, task):
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    return json.dumps({"id": row_id, "task_id": task, "messages": messages})


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_small_corpus_is_read_whole_as_ingest_reads_it(tmp_path):
    write(tmp_path / "a.jsonl", [conversation("x", "10"), conversation("y", "2"), "{broken", conversation("x", "3")])
    found = corpus([str(tmp_path / "a.jsonl")], tmp_path / "out")
    assert found.whole
    assert (found.read, found.rows) == (4, 2)
    assert found.table["trajectory_id"].to_pylist() == ["y", "x"]
    assert sorted(found.rejects.values()) == [1, 1]
    assert "duplicate id …" in found.rejects
    limited = corpus([str(tmp_path / "a.jsonl")], tmp_path / "out2", limit=1)
    assert limited.rows == 1
    assert limited.table["trajectory_id"].to_pylist() == ["y"]


def test_of_a_large_corpus_whole_files_are_read(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.jsonl", [conversation(f"{i}-{j}", "1") for j in range(3)] + ["{bad"])
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    found = corpus([str(tmp_path)], tmp_path / "out", read_bytes=size // 5)
    assert (found.files, found.read_files, found.whole) == (10, 2, False)
    # Files of equal size: what two of ten hold, five times.
    assert found.rows == pytest.approx(30)
    assert found.read == pytest.approx(40)
    assert list(found.rejects.values()) == [pytest.approx(10)]
    # The third and the eighth: the middle of each half.
    assert {row[0] for row in found.table["trajectory_id"].to_pylist()} == {"2", "7"}
    assert corpus([str(tmp_path)], tmp_path / "out2", read_bytes=size // 5, limit=20).rows == 20


def test_trials_of_a_task_are_read_together(tmp_path):
    for trial in range(3):
        for name in ("a", "b"):
            write(tmp_path / f"trial_{trial}" / f"{name}.jsonl", [conversation(name, "1")])
    found = corpus([str(tmp_path)], tmp_path / "out", read_bytes=1)
    assert found.read_files == 3
    assert len({row.partition("/")[0] for row in found.table["trajectory_id"].to_pylist()}) == 1
    assert found.rows == pytest.approx(6)


@pytest.mark.parametrize(("n", "per_block", "sample"), [(1000, 4, 40), (1001, 16, 60), (97, 1, 10), (10_000, 16, 200)])
def test_runs_are_spread_apart_and_follow_what_is_before_them(n, per_block, sample):
    table = pa.table({"at": range(n)})
    runs = blocks(table, per_block, sample)
    counted = [at for run in runs for block in run if block.counts for at in block.rows["at"].to_pylist()]
    assert sample <= len(counted) <= sample + 2 * per_block
    assert len(set(counted)) == len(counted)
    assert [run[0].counts for run in runs] == [False] * len(runs)
    for run in runs:
        ends = [(block.rows["at"][0].as_py(), block.rows["at"][-1].as_py()) for block in run]
        assert all(start % per_block == 0 for start, _ in ends)
        assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(ends))
        assert [block.follows for block in run] == [False, *[True] * (len(run) - 1)]
    gaps = [b[0].rows["at"][0].as_py() - a[0].rows["at"][0].as_py() for a, b in itertools.pairwise(runs)]
    assert max(gaps) - min(gaps) <= 2 * per_block


@pytest.mark.parametrize(("n", "sample"), [(0, 200), (7, 200), (200, 200), (60, 20)])
def test_what_is_hardly_more_than_the_sample_is_taken_whole(n, sample):
    runs = blocks(pa.table({"at": range(n)}), 4, sample)
    assert [at for run in runs for block in run for at in block.rows["at"].to_pylist()] == list(range(n))
    assert all(block.counts and block.follows for run in runs for block in run)


def test_reasons_that_differ_by_a_name_are_one():
    assert kind("token id 312 is outside the model's vocabulary of 300") == kind(
        "token id 5 is outside the model's vocabulary of 300"
    )
    assert kind("duplicate id 'a': first in x.jsonl, line 3") == kind("duplicate id 'b': first in y.jsonl, line 9")


def test_a_total_by_hand():
    runs = [{"rows": 2, "tokens": 10}, {"rows": 2, "tokens": 14}, {"rows": 4, "tokens": 24}]
    # 48 tokens of 8 rows are 6 a row; residuals -2, 2, 0; s^2 = 8 / 2; mean rows 8/3; a tenth of 80 rows was seen.
    found = total(runs, "tokens", "rows", 80)
    assert found.value == pytest.approx(480)
    assert found.standard_error == pytest.approx(80 / (8 / 3) * math.sqrt(0.9 * 4 / 3))
    assert total(runs, "tokens", "rows", 8) == Estimate(48.0, 0.0)
    assert total(runs[:1], "tokens", "rows", 80) == Estimate(400.0, None)
    assert total(runs, "tokens", "rows", 4) == Estimate(24.0, None)  # a limit below what was read
    assert total(runs, "never seen", "rows", 80).value == 0
    assert total([], "tokens", "rows", 0) == Estimate(0.0, 0.0)


def test_the_size_of_a_row_is_that_of_its_texts():
    call = {"id": None, "name": "look", "arguments": '{"id": 7}'}
    rows = [
        {"trajectory_id": "a", "messages": [{"role": "user", "content": "Hello"}, {"role": "user", "content": None}]},
        {"trajectory_id": "b", "messages": [{"role": "assistant", "content": "abc", "tool_calls": [call, call]}]},
    ]
    table = pa.Table.from_pylist(rows, schema.TRAJECTORIES)
    assert characters(table).tolist() == [2 * FRAME + 5, FRAME + 3 + 2 * 9]
    assert characters(table.slice(1)).tolist() == [FRAME + 21]
    assert len(characters(table.slice(2))) == 0
