"""The viewer's corpus: as many rows as asked for, no two alike, from the demo where tau-bench is not there."""

from benchmarks.viewing import corpus


def test_copies_differ(tmp_path):
    rows = list(corpus(tmp_path, 1005))
    assert len({row["trajectory_id"] for row in rows}) == 1005
    assert len({str(row["messages"]) for row in rows[:5] + rows[1000:]}) == 10
    assert [row["task_id"] for row in rows[1000:]] == [row["task_id"].replace("0000", "0001", 1) for row in rows[:5]]
