"""Labels that came later: the same figures, to the byte, as where the files had them from the start."""

import json
import random
from pathlib import Path

import plain_reduce as plain
import pytest
from run_folders import SETTINGS, run_folder

from pa_dist.ingest.labels.join import Job, join
from pa_dist.ingest.sources import expand
from pa_dist.reduce.evaluate import OUTPUTS, evaluate
from pa_dist.reduce.labels import LaterLabels

NAMES = ("reward", "mistake_step", "mistake_agent", "step_labels")
BARE = dict.fromkeys(NAMES)


def corpus(n=40):
    """Some trajectories have rewards, some mistakes, some step labels, some all of these, some none."""
    rng = random.Random(1)
    rows = []
    for i in range(n):
        steps = [
            [(*(-rng.randrange(64) / 8 for _ in range(3)), 1.0, 2.0) for _ in range(rng.randrange(4))]
            for _ in range(rng.randrange(1, 6))
        ]
        messages = [{"role": "user"}, *[{"role": role} for _ in steps for role in ("assistant", "user")]]
        labels = dict(BARE)
        if i % 2:
            labels["reward"] = float(rng.random() < 0.5)
        if i % 3 == 0:
            of_steps = [rng.choice([1, 0, -1, None]) for _ in steps]
            aligned = [None, *(label for of in of_steps for label in (of, None))]
            labels["step_labels"] = aligned if any(label is not None for label in aligned) else None
            labels["mistake_step"] = aligned.index(-1) if -1 in aligned else None
        if i % 5 == 0:
            labels |= {"mistake_step": 1, "mistake_agent": "assistant"}
        keys = {"domain": "d", "task_id": f"t{i // 4}", "trial": i % 4, "messages": messages}
        rows.append(plain.row(f"id{i:02d}", steps, **keys, **labels))
    return rows


def tables(folder):
    found = {name: folder.dataset(name).to_table().to_pylist() for name in OUTPUTS}
    return found | {name: Path(folder.path(f"{name}.json")).read_bytes() for name in ("metrics", "comparisons")}


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Job(expand([str(path)]), 0)


@pytest.fixture(params=[("auto",), ("uq", "prefix", "best_of_n", "fa")])
def settings(request):
    return SETTINGS.model_copy(update={"scenarios": list(request.param)})


def test_joined_labels_are_as_good_as_those_from_the_start(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("pa_dist.ingest.labels.join._FLUSH_ROWS", 7)
    rows = corpus()
    given = run_folder(tmp_path / "given", rows, per_file=11)
    evaluate(settings, given, map)
    wanted = tables(given)
    later = run_folder(tmp_path / "later", [row | BARE for row in rows], per_file=9)
    evaluate(settings, later, map)
    bare = tables(later)
    assert bare["metrics"] != wanted["metrics"]
    before = [Path(path).read_bytes() for path in (*later.parts("logprobs"), *later.parts("trajectories"))]

    named = [{"id": row["trajectory_id"]} | {name: row[name] for name in NAMES} for row in rows]
    by_task = [{"task_id": row["task_id"], "trial": row["trial"]} | of for row, of in zip(rows, named, strict=True)]
    for row in by_task[::2]:
        del row["id"]
    random.Random(2).shuffle(by_task)
    found = join(later, write(tmp_path / "labels.jsonl", by_task))
    assert found.counts["labelled"] == sum(any(row[name] is not None for name in NAMES) for row in rows)
    assert len(later.parts("labels")) > 1
    evaluate(settings, later, map)
    assert tables(later) == wanted
    assert [Path(path).read_bytes() for path in (*later.parts("logprobs"), *later.parts("trajectories"))] == before

    later.clear("labels")
    evaluate(settings, later, map)
    assert tables(later) == bare


def test_what_a_row_does_not_say_stays(tmp_path):
    rows = corpus()
    folder = run_folder(tmp_path / "own", rows)
    join(folder, write(tmp_path / "labels.jsonl", [{"id": "id15", "reward": 0.25}, {"id": "id02", "mistake_step": 1}]))
    read = folder.dataset("logprobs").to_table()
    shown = LaterLabels(folder).onto(read)
    assert shown.schema.equals(read.schema)
    expected = [dict(row) for row in read.to_pylist()]
    expected[15]["reward"], expected[2]["mistake_step"] = 0.25, 1
    assert shown.to_pylist() == expected
    some = read.select(["trajectory_id", "step", "reward"]).slice(14, 3)
    assert LaterLabels(folder).onto(some)["reward"].to_pylist() == [row["reward"] for row in expected[14:17]]
