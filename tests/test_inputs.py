"""What Python code has is read as files of the same are, or refused in a line."""

import collections
import dataclasses
import datetime
import decimal
import enum
import io
import json
import types
import uuid
from pathlib import Path

import datasets
import numpy as np
import pandas
import polars
import pyarrow as pa
import pydantic
import pytest

from pa_dist import inputs
from pa_dist.config import Trajectories
from pa_dist.errors import ConfigError
from pa_dist.ingest.labels.files import rows as label_rows
from pa_dist.ingest.sources import expand
from pa_dist.ingest.tables import ingest
from pa_dist.store.folder import RunFolder


def messages(n=0):
    return [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "ok"}]


ROWS = [{"id": f"r{n}", "task_id": str(n // 2), "reward": n / 2, "messages": messages(n)} for n in range(4)]


@dataclasses.dataclass
class Row:
    id: str
    task_id: str
    reward: float
    messages: list


class Model(pydantic.BaseModel):
    id: str
    task_id: str
    reward: float
    messages: list


class Message(pydantic.BaseModel):
    role: str
    content: str


@pytest.fixture
def read(tmp_path):
    """`read(given)`: rows and reasons of rejects that ingest makes of it."""

    def rows(given):
        section = inputs.section(given, RunFolder(str(tmp_path / "out")))
        folder = RunFolder(str(tmp_path / "ingested"))
        ingest(Trajectories(**section), folder, map)
        rejects = folder.dataset("rejects").to_table()["reason"].to_pylist()
        return folder.dataset("trajectories").to_table().to_pylist(), rejects

    return rows


def kept(rows):
    """Of each row what was given, and its messages' roles and contents."""
    return [
        {**{key: row[key] for key in ("task_id", "reward")}, "id": row["trajectory_id"]}
        | {"messages": [{key: m[key] for key in ("role", "content")} for m in row["messages"]]}
        for row in rows
    ]


FORMS = {
    "list": lambda: ROWS,
    "tuple": lambda: tuple(ROWS),
    "generator": lambda: (row for row in ROWS),
    "dict values": lambda: dict(enumerate(ROWS)).values(),
    "array of objects": lambda: np.array(ROWS, object),
    "mapping proxies": lambda: [types.MappingProxyType(row) for row in ROWS],
    "dataclasses": lambda: [Row(**row) for row in ROWS],
    "pydantic": lambda: [Model(**row) for row in ROWS],
    "pydantic messages": lambda: [{**row, "messages": [Message(**m) for m in row["messages"]]} for row in ROWS],
    "JSON text": lambda: [{**row, "messages": json.dumps(row["messages"])} for row in ROWS],
    "conversations": lambda: [{"conversations" if k == "messages" else k: v for k, v in row.items()} for row in ROWS],
    "pandas": lambda: pandas.DataFrame(ROWS, index=[7, 3, 5, 5]),
    "a column of pandas": lambda: pandas.Series(ROWS),
    "polars": lambda: polars.DataFrame(ROWS),
    "lazy polars": lambda: polars.DataFrame(ROWS).lazy(),
    "a column of polars": lambda: polars.Series(ROWS),
    "table": lambda: pa.Table.from_pylist(ROWS),
    "batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "reader": lambda: pa.Table.from_pylist(ROWS).to_reader(),
    "dataset": lambda: datasets.Dataset.from_list([*ROWS, ROWS[0]]).select([3, 1, 2, 0]),
    "iterable dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "one split": lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_rows(form, read):
    rows, rejects = read(FORMS[form]())
    assert (kept(rows), rejects) == (ROWS, [])


ONE = {
    "mapping": lambda: {"id": "x", "reward": 1, "messages": messages()},
    "mapping with a domain": lambda: {"domain": "retail", "benchmark": "b", "limit": 3, "messages": messages()},
    "messages": messages,
    "pydantic messages": lambda: [Message(**m) for m in messages()],
    "a list of messages": lambda: [messages()],
    "a tuple of tuples": lambda: (tuple(messages()),),
    "an iterator of lists": lambda: iter([messages()]),
    "JSON text": lambda: {"messages": json.dumps(messages())},
    "a row of pandas": lambda: pandas.DataFrame([{"id": "x", "messages": messages()}]).iloc[0],
    "with a span of time": lambda: {"messages": messages(), "took": datetime.timedelta(seconds=3)},
}


@pytest.mark.parametrize("form", ONE)
def test_one_conversation(form, read):
    rows, rejects = read(ONE[form]())
    assert [row["messages"] for row in kept(rows)] == [messages()]
    assert rejects == []


def test_pairs_of_conversations(read):
    pair = {"id": "p", "chosen": messages(), "rejected": [*messages()[:-1], {**messages()[-1], "content": "No."}]}
    for form in ([pair], pa.Table.from_pylist([pair])):
        rows, rejects = read(form)
        assert ([row["trajectory_id"] for row in rows], rejects) == (["p/chosen", "p/rejected"], [])


def test_paths(tmp_path):
    folder = RunFolder(str(tmp_path / "out"))
    for given, paths in [
        ("a", ["a"]),
        (Path("a"), [Path("a")]),
        ([Path("a"), "b"], [Path("a"), "b"]),
        ({Path("a")}, [Path("a")]),
        ((p for p in "ab"), ["a", "b"]),
    ]:
        assert inputs.section(given, folder) == {"format": "auto", "paths": paths}
    section = {"format": "tau2", "paths": [Path("a")], "limit": 2}
    assert inputs.section(collections.OrderedDict(section), folder) == section
    assert not (tmp_path / "out").exists()


class Colour(enum.Enum):
    RED = "red"


def test_values_that_json_does_not_know(read):
    day = datetime.datetime(2026, 5, 4, 3, 2, 1)
    others = {
        "reward": np.float32(0.5),
        "trial": np.int64(3),
        "task_id": uuid.UUID(int=7),
        "mistake_step": decimal.Decimal("1"),
        "day": day,
        "stamp": pandas.Timestamp(day),
        "date64": np.datetime64(day),
        "none": [pandas.NaT, pandas.NA, None],
        "array": np.arange(3),
        "number": decimal.Decimal("1.5"),
        "colour": Colour.RED,
        "path": Path("a/b"),
        "inner": types.MappingProxyType({"x": (1, 2)}),
    }
    [row], rejects = read([{"messages": np.array(messages(), object), **others}])
    assert rejects == []
    assert (row["reward"], row["trial"], row["mistake_step"], row["task_id"]) == (0.5, 3, 1, str(uuid.UUID(int=7)))
    assert json.loads(row["extra"]) == {
        "day": "2026-05-04T03:02:01",
        "stamp": "2026-05-04T03:02:01",
        "date64": "2026-05-04T03:02:01.000000",
        "none": [None, None, None],
        "array": [0, 1, 2],
        "number": 1.5,
        "colour": "red",
        "path": "a/b",
        "inner": {"x": [1, 2]},
    }


def test_a_frame_is_read_as_its_parquet_file_is(read):
    """A missing number is null and no nan; times are text; a column of several types goes row by row."""
    frame = pandas.DataFrame(ROWS).assign(reward=[None, 1.0, 0.0, None], when=pandas.Timestamp("2026-05-04"))
    rows, rejects = read(frame)
    assert ([row["reward"] for row in rows], rejects) == ([None, 1.0, 0.0, None], [])
    assert "2026-05-04" in rows[0]["extra"]
    frame["mixed"] = [1, "a", [2], None]
    rows, rejects = read(frame)
    assert ([row["reward"] for row in rows], rejects) == ([None, 1.0, 0.0, None], [])
    assert [json.loads(row["extra"]).get("mixed") for row in rows] == [1, "a", [2], None]


def circle():
    row = {"messages": messages()}
    row["self"] = row
    return row


REFUSED = [
    ([ROWS[0], 3], "trajectories: row 1 is no mapping but int"),
    ([{"messages": {1, 2}}], "trajectories: row 0, messages: set is no JSON"),
    ([{"messages": [], "x": b"y"}], "trajectories: row 0, x: bytes is no JSON"),
    ([circle()], "trajectories: row 0, self: Circular reference"),
    ([{"messages": [], "x": {(1, 2): 3}}], "trajectories: row 0, x: keys must be str"),
    ({"messages": [messages(), messages()]}, "trajectories: row 0: its messages are lists; several conversations"),
    ({"a": 1, "b": 2}, "trajectories: a mapping has messages, or paths and their format; this one has a, b"),
    ([], "trajectories: nothing in it"),
    (iter([]), "trajectories: nothing in it"),
    (None, "trajectories: NoneType is no path, conversation or table"),
    (3, "trajectories: int is no path, conversation or table"),
    (b"a.jsonl", "trajectories: bytes is neither a path nor trajectories"),
    (io.StringIO("{}"), "trajectories: _io's StringIO is neither a path nor trajectories"),
    (["a.jsonl", {}], "trajectories: paths with dict among them"),
    (pandas.DataFrame({"id": [1], "text": ["x"]}), "trajectories: no column messages or conversations"),
    (pandas.DataFrame({"messages": []}), "trajectories: a table without rows"),
    (pa.table({"messages": pa.array([], pa.string())}), "trajectories: a table without rows"),
    (pa.chunked_array([[1]]), "trajectories: a table that cannot be Parquet"),
    (
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS)),
        "trajectories: datasets's DatasetDict of train, test; give one, such as data['train']",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused_is_refused_in_a_line(given, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        inputs.section(given, RunFolder(str(tmp_path / "out")))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_same_is_written_once(tmp_path):
    folder = RunFolder(str(tmp_path / "out"))
    for form in ("list", "generator", "dataclasses"):
        inputs.section(FORMS[form](), folder)
    for _ in range(2):
        inputs.section(pandas.DataFrame(ROWS), folder)
    assert sorted(path.suffix for path in (tmp_path / "out" / "inputs").iterdir()) == [".jsonl", ".parquet"]


LABELS = [{"id": "r0", "reward": 1.0, "step_labels": [None, -1]}, {"id": "r1", "reward": None, "step_labels": None}]
LABEL_FORMS = {
    "list": lambda: LABELS,
    "generator": lambda: iter(LABELS),
    "pandas": lambda: pandas.DataFrame(LABELS),
    "polars": lambda: polars.DataFrame(LABELS),
    "arrow": lambda: pa.Table.from_pylist(LABELS),
    "datasets": lambda: datasets.Dataset.from_list(LABELS),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_of_every_form_are_the_same_rows(form, tmp_path):
    path = inputs.labels(LABEL_FORMS[form](), RunFolder(str(tmp_path / "out")))
    (source,) = expand([path])
    assert [row for _, row in label_rows(source)] == LABELS


def test_labels_that_are_a_path_or_one_row(tmp_path):
    folder = RunFolder(str(tmp_path / "out"))
    assert inputs.labels(Path("labels.csv"), folder) == "labels.csv"
    (source,) = expand([inputs.labels({"id": "r0", "success": np.bool_(True)}, folder)])
    assert [row for _, row in label_rows(source)] == [{"id": "r0", "success": True}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "labels: int is no path, table or list of rows"),
        (["run-0"], "labels: row 0 is no mapping but str"),
        ([{"id": object()}], "labels: row 0, id: object is no JSON"),
        (pandas.DataFrame({"id": []}), "labels: a table without rows"),
    ],
)
def test_labels_that_are_none_are_refused_in_a_line(given, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        inputs.labels(given, RunFolder(str(tmp_path / "out")))
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()
