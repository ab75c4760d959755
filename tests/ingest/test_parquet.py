"""Columns of Parquet files as people have them: padded structs, floats for integers, UUIDs, and rows without end."""

import json
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pa_dist.ingest.arrow_sizes import sizes
from pa_dist.ingest.padding import unpadded

HI = {"role": "user", "content": "hi"}


@pytest.fixture
def parquet(put):
    """`parquet(**columns)` writes a file of these columns; `messages` is added."""

    def written(**columns):
        n = len(next(iter(columns.values())))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"messages": pa.array([[HI]] * n), **columns}), sink)
        return put("d.parquet", sink.getvalue().to_pybytes())

    return written


def call(name, **arguments):
    return {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": name, "arguments": arguments}}]}


def test_nulls_that_pad_structs_are_left_out_and_written_ones_stay(parquet, run):
    histories = [[call("find", number=7, where={"city": "A"}, days=[{"d": 1}, {"e": None, "d": 2}])], [call("list")]]
    parameters = [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "integer"}}}]
    tools = [[{"name": f"f{i}", "parameters": p}] for i, p in enumerate(parameters)]
    rows = run("parquet", parquet(messages=histories, tools=tools, task_id=[0, 1])).rows
    arguments = [json.loads(row["messages"][0]["tool_calls"][0]["arguments"]) for row in rows]
    assert arguments == [{"number": 7, "where": {"city": "A"}, "days": [{"d": 1}, {"d": 2}]}, {}]
    assert [json.loads(row["tools"]) for row in rows] == tools
    # As text, or as a map, only what was written is there.
    text = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": null}'}}]}]
    assert (
        run("parquet", parquet(messages=[text])).rows[0]["messages"][0]["tool_calls"][0]["arguments"] == '{"a": null}'
    )
    assert unpadded({"a": None, "b": [None]}, pa.map_(pa.string(), pa.list_(pa.int8()))) == {"a": None, "b": [None]}


def test_numbers_of_any_type(parquet, run):
    path = parquet(
        task_id=pa.array([3.0, 4.0]),
        trial=pa.array([0.0, None]),
        mistake_step=pa.array([Decimal("0.00"), None], pa.decimal256(40, 2)),
        reward=pa.array([True, False]),
    )
    got = [(r["task_id"], r["trial"], r["mistake_step"], r["reward"]) for r in run("parquet", path).rows]
    assert got == [("3", 0, 0, 1.0), ("4", None, None, 0.0)]
    for reward in (pa.array([Decimal("0.5")]), pa.array(np.array([0.5], np.float16)), pa.array([0.5], pa.float32())):
        assert run("parquet", parquet(reward=reward)).rows[0]["reward"] == 0.5


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("trial", pa.array([0.5]), "trial is not an integer but 0.5 (number)"),
        ("trial", pa.array([True]), "trial is not an integer but true (boolean)"),
        ("trial", pa.array([2**40]), "trial is beyond 32 bits: 1099511627776 (integer)"),
        ("reward", pa.array(["1.0"]), 'reward is not a number but "1.0" (string)'),
        ("reward", pa.array([float("nan")]), "reward is not a finite number but NaN (number)"),
        ("created", pa.array([2**62], pa.timestamp("us")), "column 'created' cannot be read: OverflowError"),
    ],
)
def test_what_cannot_be_used_shows_value_and_type(parquet, run, name, column, reason):
    both = pa.concat_arrays([column, pa.nulls(1, column.type)])
    result = run("parquet", parquet(**{name: both}))
    assert [(place, why[: len(reason)]) for _, place, why in result.rejects] == [("row 0", reason)]
    assert result.counts.kept == 1


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())])
def test_texts_of_any_type(parquet, run, text):
    ids = pa.array(["a", "b"])
    path = parquet(id=ids.dictionary_encode().cast(text) if pa.types.is_dictionary(text) else ids.cast(text))
    assert [row["trajectory_id"] for row in run("parquet", path).rows] == ["a", "b"]


@pytest.mark.parametrize("type", [pa.binary(16), pa.uuid()])
def test_uuids(parquet, run, type):
    given = uuid.UUID(int=7)
    [row] = run("parquet", parquet(id=pa.array([given.bytes], type))).rows
    assert row["trajectory_id"] == str(given)


def test_a_row_beyond_the_limit_is_never_made(parquet, run):
    # 3 MB of a text that the file holds once; a row of it is as large as it would be as JSON.
    long = [{"role": "user", "content": "x" * 300_000}] * 10
    path = parquet(messages=[[HI], long, [HI]], task_id=[0, 1, 2])
    assert path.stat().st_size < 50_000
    result = run("parquet", path, max_record_mib=1)
    assert [row["task_id"] for row in result.rows] == ["0", "2"]
    reason = "longer than 1 MiB, the largest record that is read (trajectories.max_record_mib)"
    assert result.rejects == [("d.parquet", "row 1", reason)]
    assert run("parquet", path).counts.kept == 3


def test_sizes_count_each_row_of_slices_and_dictionaries():
    rows = [["ab", None], None, [], ["abc"], ["d", "e"]]
    array = pa.array(rows, pa.list_(pa.string()))
    as_dictionary = array.cast(pa.list_(pa.large_string()))
    assert sizes(array).tolist() == [2, 0, 0, 3, 2]
    assert sizes(as_dictionary.slice(3)).tolist() == [3, 2]
    assert sizes(pa.array(["ab", None, "ab", "c"]).dictionary_encode()).tolist() == [2, 0, 2, 1]
    assert sizes(pa.array([{"a": "xy", "b": 1}, {"a": None, "b": 2}])).tolist() == [10, 8]
    assert sizes(pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))).tolist() == [9, 0]
