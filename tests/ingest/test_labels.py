"""Files of labels that came later: what they hold, whose labels they are, and what becomes of each row."""

import gzip
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pa_dist import schema
from pa_dist.errors import ConfigError
from pa_dist.ingest.labels.files import rows
from pa_dist.ingest.labels.join import Job, join
from pa_dist.ingest.labels.match import NONE, SEVERAL, match
from pa_dist.ingest.labels.said import joined, said, together
from pa_dist.ingest.labels.stage import LabelsStage
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.sources import expand
from pa_dist.store.folder import RunFolder

ROLES = ["user", "assistant", "user", "assistant"]
MESSAGES = [{"role": role} for role in ROLES]


def read(path):
    (source,) = expand([str(path)])
    return [(place, str(row) if isinstance(row, Unusable) else row) for place, row in rows(source)]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    wanted = [
        {"id": "7", "trial": 0, "reward": 0.5, "step_labels": [1, -1], "mistake_agent": "a, b"},
        {"id": "x", "trial": None, "reward": True, "step_labels": None, "mistake_agent": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in wanted))
    (tmp_path / "b.json").write_text(json.dumps(wanted, indent=1))
    table = 'id,trial,reward,step_labels,mistake_agent\r\n7,0,0.5,"[1, -1]","a, b"\r\nx,,true,,\r\n'
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(table.encode()))
    (tmp_path / "e.tsv").write_text(
        "id\ttrial\treward\tstep_labels\tmistake_agent\n7\t0\t0.5\t[1, -1]\ta, b\nx\t\ttrue\t\t\n"
    )
    for name in ("a.jsonl", "b.json", "c.csv", "d.csv.gz", "e.tsv"):
        assert [row for _, row in read(tmp_path / name)] == wanted, name
    floats = [{**row, "reward": float(row["reward"])} for row in wanted]
    pq.write_table(pa.Table.from_pylist(floats), tmp_path / "f.parquet")
    assert [row for _, row in read(tmp_path / "f.parquet")] == floats


def test_parquet_as_ingest_reads_it(tmp_path):
    columns = {
        "id": pa.array([1, 2]),
        "reward": pa.array([Decimal("0.25"), None], pa.decimal128(4, 2)),
        "step_labels": ['{"3": -1}', None],
        "text": ["is no label", "of anything"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        ("row 0", {"id": 1, "reward": 0.25, "step_labels": {"3": -1}}),
        ("row 1", {"id": 2, "reward": None, "step_labels": None}),
    ]


def test_rows_that_cannot_be_read_say_where(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a"}\n[1]\n{"id": \n')
    assert [place for place, _ in read(tmp_path / "a.jsonl")] == ["line 1", "line 2", "line 3"]
    assert read(tmp_path / "a.jsonl")[1][1] == "not a JSON object but [1] (list)"
    (tmp_path / "b.csv").write_text("id,reward\na,1,2\nb,1\n")
    assert read(tmp_path / "b.csv") == [
        ("row 1", "3 cells in a row, for 2 columns"),
        ("row 2", {"id": "b", "reward": 1}),
    ]
    (tmp_path / "c.csv").write_bytes(b"id,reward\na,1\n\xff,1\n" + b"b,1\n" * 9999)
    assert [place for place, _ in read(tmp_path / "c.csv")] == ["file"]
    (tmp_path / "d.csv").write_text("id,id\na,b\n")
    assert read(tmp_path / "d.csv") == [("file", "cannot be read: two columns id")]


def test_a_row_nested_too_deeply_is_dropped_alone(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "a.jsonl").write_text(f'{{"id": "a", "step_labels": {deep}}}\n{{"id": "b"}}\n')
    assert read(tmp_path / "a.jsonl") == [("line 1", "nested too deeply"), ("line 2", {"id": "b"})]
    deep = deep[50_000:-50_000]  # a cell is shorter
    (tmp_path / "a.csv").write_text(f"id,step_labels\na,{deep}\nb,\n")
    assert read(tmp_path / "a.csv") == [("row 1", "nested too deeply"), ("row 2", {"id": "b", "step_labels": None})]


def test_the_keys_of_a_row_must_mean_one_trajectory():
    names = ("trajectory_id", "benchmark", "domain", "task_id", "trial", "behavior")

    def table(*found):
        of = pa.schema([field.with_nullable(True) for field in schema.KEYS])
        return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in found], of)

    keys = table(
        ("a", "tau", "air", "1", 0, "m"),
        ("b", "tau", "air", "1", 1, "m"),
        ("c", "tau", "air", "1", 1, "n"),
        ("d", "tau", "shop", "2", None, None),
    )
    given = table(
        ("c", "other", None, None, 9, None),  # the id alone decides
        ("z", None, None, "1", 0, "m"),
        (None, None, None, "1", 0, None),
        (None, None, None, "1", 1, None),
        (None, None, None, "1", 1, "n"),
        (None, "tau", "air", "1", 1, "m"),
        (None, None, None, "2", None, None),
        (None, None, None, "2", 0, None),
        (None, None, None, "3", None, None),
    )
    assert match(given, keys).tolist() == [2, NONE, 0, SEVERAL, 2, 1, 3, NONE, NONE]
    assert match(given, keys.slice(0, 0)).tolist() == [NONE] * len(given)


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"reward": True}, {"reward": 1.0}),
        ({"reward": 0.25, "success": True}, {"reward": 0.25}),
        ({"success": "Pass"}, {"reward": 1.0}),
        ({"success": " failed "}, {"reward": 0.0}),
        ({"success": 0}, {"reward": 0.0}),
        ({"mistake_step": "3"}, {"mistake_step": 3}),
        ({"step_labels": ["right", "wrong"]}, {"step_labels": [None, 1, None, -1]}),
        (
            {"step_labels": {"3": False}, "mistake_agent": "b"},
            {"step_labels": [None, None, None, -1], "mistake_agent": "b"},
        ),
        ({"reward": None, "step_labels": []}, {}),
    ],
)
def test_labels_as_records_give_them(row, labels):
    assert said(row, MESSAGES) == labels


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"success": "maybe"}, 'success is not a number but "maybe" (string)'),
        ({"mistake_step": 4}, "mistake_step 4 is outside the history of 4 messages"),
        ({"step_labels": [1, 1, 1]}, "step_labels has 3 entries for 2 assistant messages, of 4 in all"),
    ],
)
def test_labels_that_cannot_be(row, reason):
    with pytest.raises(Unusable) as raised:
        said(row, MESSAGES)
    assert str(raised.value) == reason


def test_rows_of_one_trajectory():
    assert together([{"reward": 1.0}, {"mistake_step": 3}, {"reward": 1.0}]) == {"reward": 1.0, "mistake_step": 3}
    with pytest.raises(Unusable, match="another mistake_step"):
        together([{"reward": 1.0, "mistake_step": 1}, {"mistake_step": 3}])


def test_a_mistake_that_nobody_gave_goes_with_its_step_labels():
    bare = {"reward": None, "mistake_step": None, "mistake_agent": None, "step_labels": None}
    later = {"step_labels": [None, 1, None, -1]}
    assert joined(bare, later)["mistake_step"] == 3
    assert joined(bare | {"mistake_step": 1}, later)["mistake_step"] == 1
    assert joined(bare | {"mistake_step": 1, "step_labels": [None, -1, None, None]}, later)["mistake_step"] == 3
    right = {"step_labels": [None, 1, None, 1]}
    assert joined(bare | {"mistake_step": 1, "step_labels": [None, -1, None, None]}, right)["mistake_step"] is None
    assert joined(bare, {"step_labels": [None, -1, None, -1], "mistake_step": 3})["mistake_step"] == 3


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    of = {"benchmark": "b", "domain": "d", "messages": MESSAGES, "reward": 0.0}
    rows = [{**of, "trajectory_id": f"t{i}", "task_id": str(i // 2), "trial": i % 2} for i in range(6)]
    folder.write("trajectories", "part-0", pa.Table.from_pylist(rows[:4], schema.TRAJECTORIES))
    folder.write("trajectories", "part-1", pa.Table.from_pylist(rows[4:], schema.TRAJECTORIES))
    return folder


def joins(folder, path, text):
    path.write_text(text)
    found = join(folder, Job(expand([str(path)]), 0))
    tables = [
        folder.dataset(name).to_table().to_pylist() if folder.parts(name) else [] for name in ("labels", "rejects")
    ]
    return found, *tables


def test_what_becomes_of_each_row(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pa_dist.ingest.labels.join._FLUSH_ROWS", 2)
    monkeypatch.setattr("pa_dist.ingest.labels.join._BATCH_ROWS", 3)
    lines = [
        {"task_id": 2, "trial": 1, "success": "pass", "step_labels": [1, -1]},  # t5
        {"id": "t0", "reward": 1},
        {"task_id": "0", "trial": 0, "reward": 1.0},  # t0 once more
        {"id": "t1", "reward": 1},
        {"id": "t1", "reward": 0},
        {"id": "t2"},  # says nothing
        {"id": "t3", "mistake_step": 9},
        {"id": "t4", "mistake_step": 9},
        {"id": "t4", "mistake_step": 1},
        {"id": "nobody", "reward": 1},
        {"task_id": "0", "reward": 1},
        {"reward": 1},
    ]
    found, labels, rejects = joins(folder, tmp_path / "a.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    assert found.counts == {
        "rows": 12, "labelled": 3, "doubled": 1, "contradicting": 2, "unmatched": 1, "ambiguous": 1, "unusable": 3,
    }  # fmt: skip
    assert found.strange == "trajectory_id nobody"
    bare = {"mistake_step": None, "mistake_agent": None, "step_labels": None}
    assert labels == [
        {**bare, "trajectory_id": "t0", "reward": 1.0},
        {**bare, "trajectory_id": "t4", "reward": 0.0, "mistake_step": 1},
        {**bare, "trajectory_id": "t5", "reward": 1.0, "mistake_step": 3, "step_labels": [None, 1, None, -1]},
    ]
    assert {row["stage"] for row in rejects} == {"labels"}
    assert {row["trajectory_id"] for row in rejects} == {None}
    assert sorted((int(row["place"].split()[1]), row["reason"][:20]) for row in rejects) == [
        (4, "another row of the s"),
        (5, "another row of the s"),
        (7, "mistake_step 9 is ou"),
        (8, "mistake_step 9 is ou"),
        (10, "no trajectory of thi"),
        (11, "several trajectories"),
        (12, "neither an id nor a "),
    ]


def test_a_later_join_replaces_an_earlier_one(folder, tmp_path):
    _, labels, rejects = joins(folder, tmp_path / "a.csv", "id,reward\nt0,1\nx,1\n")
    assert (len(labels), len(rejects)) == (1, 1)
    _, labels, rejects = joins(folder, tmp_path / "b.csv", "id,mistake_step\nt0,1\n")
    assert [(row["reward"], row["mistake_step"]) for row in labels] == [(0.0, 1)]
    assert rejects == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.csv",
            "name,reward\nx,1\n",
            "no column of a trajectory's key (trajectory_id, id, task_id) among name, reward",
        ),
        (
            "a.jsonl",
            '{"id": 1, "note": 2}\n',
            "no column of labels (reward, success, mistake_step, mistake_agent, step_labels)",
        ),
        ("a.json", "[]", "no rows"),
        ("a.json", '[{"id": 1', "byte 9: truncated"),
        ("a.csv", "id,reward\n", "no rows"),
    ],
)
def test_files_without_labels_are_refused_before_anything_starts(folder, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        LabelsStage(folder, str(tmp_path / name)).check(print)
    assert str(raised.value).startswith(f"evaluate.labels: {tmp_path / name}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^evaluate\.labels: nothing matches '.*none\.csv'$"):
        LabelsStage(folder, str(tmp_path / "none.csv")).check(print)
