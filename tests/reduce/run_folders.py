"""Run folders as ingest and scoring leave them, made by hand, and readings of what `evaluate` makes of them."""

import json
import random
from pathlib import Path

import plain_reduce as plain
import pyarrow as pa
import pytest

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.store.folder import RunFolder

CHECK_RUN = Path(__file__).parents[3] / "shared" / "tools" / "check_run.py"
SETTINGS = Evaluate(resamples=40)


def corpus(n=36):
    """Three groups: one with rewards and trials (N differs, some trial numbers null), one with mistakes, one bare."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        steps = [
            [(*(-rng.randrange(64) / 8 for _ in range(3)), 1.0, 2.0) for _ in range(rng.randrange(5))]
            for _ in range(rng.randrange(7))
        ]
        kind = i % 3
        row = plain.row(f"id{i:03d}", steps, benchmark=["tau", "who", None][kind], domain=["airline", None, None][kind])
        if kind == 0:
            labels = {"task_id": f"t{i % 5}", "trial": None if i % 4 == 0 else i, "reward": float(rng.random() < 0.5)}
            row |= labels | ({"task_id": None} if i == 3 else {"reward": None} if i == 6 else {})
        if kind == 1:
            row |= {"task_id": f"q{i}", "mistake_step": 3, "mistake_agent": "assistant"}
        rows.append(row)
    return rows


def rollout(behavior, task, trial, reward, advantage):
    """One step of one token, whose advantage is as given."""
    return plain.row(
        f"{behavior}-{task}-{trial}",
        [[(-2.0 + advantage, -2.0, -3.0, 1.0, 2.0)]],
        behavior=behavior,
        task_id=task,
        trial=trial,
        reward=reward,
    )


def run_folder(path, rows, per_file=100):
    """A run folder as ingest and scoring leave it."""
    folder = RunFolder(str(path))
    folder.start("score", {})
    folder.finish("score")
    columns = set(schema.TRAJECTORIES.names)
    trajectories = [{key: value for key, value in row.items() if key in columns} for row in rows]
    rejected = plain.row("rejected", [])
    kept = [*trajectories, {key: value for key, value in rejected.items() if key in columns}]
    folder.write("trajectories", "part-0", pa.Table.from_pylist(kept, schema.TRAJECTORIES))
    reject = {"source": "x", "place": "line 1", "trajectory_id": "rejected", "stage": "score", "reason": "no action"}
    folder.write("rejects", "part-0", pa.Table.from_pylist([reject], schema.REJECTS))
    for start in range(0, len(rows), per_file):
        folder.write("logprobs", f"part-{start:05d}", plain.table(rows[start : start + per_file]))
    return folder


def metrics(folder):
    return json.loads(Path(folder.path("metrics.json")).read_text(), parse_constant=pytest.fail)


def pick(records, **wanted):
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]
