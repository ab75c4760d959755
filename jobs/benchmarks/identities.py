"""What single processes do with the ids of all trajectories: put them in order, settle a table, find their files."""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.memory import peak_above
from pa_dist import schema
from pa_dist.ingest.order import order
from pa_dist.ingest.staging import INDEX
from pa_dist.runtime.settle import settle
from pa_dist.store.folder import CHECKPOINT, STAGING, RunFolder
from pa_dist.store.index import locate

# Rows of a file of each table, as a large run has them.
_ROWS = 1000


def measure(sizes: Sequence[int], place: str | None) -> None:
    """Print a line for each size and piece of work: seconds, and MiB beyond what the process held before.

    Args:
      place: where tables are written; null: the machine's place for such files.
    """
    print(f"{'trajectories':>12} {'work':<8} {'seconds':>8} {'MiB':>6}")
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=place) as where:
            write_tables(RunFolder(where), n)
            for name, work in WORKS.items():
                peak = peak_above(RunFolder, work, where)
                began = time.perf_counter()
                work(RunFolder(where))  # again, in a process that has loaded everything
                took = time.perf_counter() - began
                print(f"{n:>12,} {name:<8} {took:>8.1f} {peak / 2**20:>6.0f}", flush=True)


def write_tables(folder: RunFolder, n: int) -> None:
    """Of a run that was scored and not settled yet: staged keys, `trajectories`, `logprobs` and what is committed."""
    ids, column = np.array([f"synthetic/task-{i // 8:08d}/trial_{i % 8}" for i in range(n)]), schema.KEYS[0].name
    for start in range(0, n, _ROWS):
        some = pa.array(ids[start : start + _ROWS], pa.string())
        name = f"part-{start:09d}"
        table = pa.table({column: some})
        folder.write("trajectories", name, table)
        folder.write(CHECKPOINT, name, table)
        folder.write("logprobs", f"{name}-0", table)
    folder.filesystem.create_dir(folder.path("rejects"), recursive=True)
    shuffled = np.random.default_rng(0).permutation(n)  # logs lie in any order
    folder.write(STAGING, "index-00000", _staged(ids[shuffled], shuffled))


def _staged(ids: Iterable[str], numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Table:
    n = len(numbers)
    tasks = [f"{number // 8:08d}" for number in numbers]
    columns = {
        "trajectory_id": list(ids),
        "benchmark": pa.repeat("synthetic", n),
        "domain": pa.repeat("all", n),
        "task_order": tasks,
        "task_id": tasks,
        "trial": pa.array(numbers % 8, pa.int32()),
        "behavior": pa.repeat("policy", n),
        "group": pa.repeat(pa.scalar(0, pa.int32()), n),
        "offset": np.arange(n) * 100_000,
        "size": pa.repeat(100_000, n),
        "source": pa.repeat("rollouts.jsonl", n),
        "place": [f"line {number + 1}" for number in range(n)],
    }
    return pa.table({name: pa.array(columns[name]).cast(INDEX.field(name).type) for name in INDEX.names}, INDEX)


def _order(folder: RunFolder) -> object:
    return order(folder, None, n_groups=1)


def _locate(folder: RunFolder) -> object:
    return locate(folder, "trajectories")


WORKS: dict[str, Callable[[RunFolder], object]] = {"order": _order, "settle": settle, "locate": _locate}
