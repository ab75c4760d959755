"""Ids are told apart by benchmark, domain, behavior and trial."""

import random

import pyarrow as pa
import pytest

from pa_dist.ingest.identity import LABELS, identify


def table(*rows):
    """Of (id, benchmark, domain, behavior, trial)."""
    columns = zip(*rows, strict=True)
    types = [pa.large_string()] * 4 + [pa.int32()]
    names = ("trajectory_id", *LABELS)
    return pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})


def named(*rows):
    """The id that each row of the table gets, null for a duplicate."""
    found = identify(table(*rows))
    renamed = found.renamed.to_pylist()
    return [None if found.first[i] != i else renamed[i] or row[0] for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([("0", "b", "air", "m", 0), ("0", "b", "shop", "m", 0), ("1", "b", "air", "m", 0)], ["0/air", "0/shop", "1"]),
        ([("t", "b", "d", "m", 0), ("t", "b", "d", "m", 1), ("t", "b", "d", "m", 1)], ["t/trial_0", "t/trial_1", None]),
        ([("t", "b", "d", "m", 0), ("t", "b", "d", "n", 1)], ["t/m/trial_0", "t/n/trial_1"]),
        ([("t", "b", "d", None, None), ("t", "b", "d", "m", None)], ["t", "t/m"]),
        ([("t", "x", "d", "m", 0), ("t", "y", "d", "m", 0)], ["t/x", "t/y"]),
        ([("t", "b", "d", "m", 0), ("t", "b", "d", "m", 0)], ["t", None]),
    ],
)
def test_names(rows, names):
    assert named(*rows) == names


def test_a_new_name_is_nobody_elses():
    rows = [
        ("0", "b", "air", "m", 0), ("0", "b", "shop", "m", 0),
        ("0/air", "b", "air", "m", 0),  # an id that a row was given
        ("t", "b", "a/b", "c", 0), ("t", "b", "a", "b/c", 0),  # both would be t/a/b/c
        ("u", "b", "d", "trial_1", None), ("u", "b", "d", None, 1),  # both u/trial_1
    ]  # fmt: skip
    names = named(*rows)
    assert (names[1], names[2]) == ("0/shop", "0/air")
    assert [name.rpartition("/")[0] for name in (names[0], *names[3:])] == [
        "0/air",
        *["t/a/b/c"] * 2,
        *["u/trial_1"] * 2,
    ]
    assert len(set(names)) == len(rows)


def test_names_do_not_depend_on_the_order_of_rows():
    rng = random.Random(0)
    rows = list({
        (str(rng.randrange(6)), "b", rng.choice("xy"), rng.choice(["m", None, "x/m"]), rng.choice([0, 1, None]))
        for _ in range(60)
    })  # fmt: skip
    rows += [("0/x", "b", "x", "m", 0)]
    once = dict(zip(rows, named(*rows), strict=True))
    assert len(set(once.values())) == len(rows)
    for _ in range(5):
        rng.shuffle(rows)
        assert dict(zip(rows, named(*rows), strict=True)) == once


def test_counts_and_no_rows():
    found = identify(table(("0", "b", "air", "m", 0), ("0", "b", "shop", "m", 0), ("1", "b", "air", "m", 0)))
    assert found.told_apart == {"domain": 2}
    assert identify(table(("0", "b", "air", "m", 0)).slice(0, 0)).told_apart == {}


HI = {"role": "user", "content": "hi"}


def test_files_that_number_their_tasks_alike(jsonl, run, tmp_path):
    for name in ("airline", "retail"):
        jsonl(f"{name}.jsonl", {"id": 0, "messages": [HI]}, {"id": 0, "messages": [HI]})
    result = run("chat", tmp_path / "data")
    assert [row["trajectory_id"] for row in result.rows] == ["0/airline", "0/retail"]
    assert result.counts.told_apart == {"domain": 2}
    assert [reason.partition(":")[0] for reason in result.reasons] == ["duplicate id '0'"] * 2
    # One domain for all, and they are the same.
    assert [row["trajectory_id"] for row in run("chat", tmp_path / "data", domain="d").rows] == ["0"]
