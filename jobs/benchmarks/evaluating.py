"""What it takes to evaluate a corpus: seconds, core-seconds and memory, on Ray as users run it."""

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks.reducing import block
from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.config.sections import Ray
from pa_dist.ingest.labels.stage import LabelsStage
from pa_dist.reduce.stage import EvaluateStage
from pa_dist.runtime import cluster
from pa_dist.store.folder import RunFolder

# As many as a file of `logprobs` has of a large run.
_ROWS_OF_A_FILE = 2000


def measure(sizes: Sequence[int], labelled: tuple[float, float], domains: int, place: str | None) -> None:
    """Print a line for each size of corpus, all scenarios, default settings; memory is the driver's and the largest
    worker's.

    Args:
      labelled: shares of the trajectories with a mistake_step, and with a label for each step.
      domains: that tasks are spread over, each a group of its own.
      place: where corpora are written, 25 GB for a million; null: the machine's place for such files.
    """
    print(
        f"{'trajectories':>12} {'seconds':>8} {'core-ms each':>12} {'driver MiB':>10} {'worker MiB':>10} {'metrics':>8}"
    )
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=place) as where:
            folder = RunFolder(where)
            write_corpus(folder, n, labelled, domains)
            seconds, used, n_metrics = _evaluate(folder)
        each = used.core_seconds / n * 1e3
        print(
            f"{n:>12,} {seconds:>8.1f} {each:>12.2f} {used.driver:>10.0f} {used.worker:>18.0f} {n_metrics:,}",
            flush=True,
        )


def write_corpus(folder: RunFolder, n: int, labelled: tuple[float, float], domains: int) -> None:
    """A run folder as scoring leaves it."""
    folder.start("score", {})
    starts = range(0, n, _ROWS_OF_A_FILE)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(_write, folder, labelled, domains, n), starts))
    folder.finish("score", rows=n, rejects=0)


def _write(folder: RunFolder, labelled: tuple[float, float], domains: int, n: int, start: int) -> None:
    table = block(start, min(_ROWS_OF_A_FILE, n - start), *labelled)
    named = pa.array([f"domain-{int(task.rpartition('-')[2]) % domains:05d}" for task in table["task_id"].to_pylist()])
    table = table.set_column(table.schema.get_field_index("domain"), table.schema.field("domain"), named)
    for name in schema.TOKEN_COLUMNS[1:]:  # of the reference nothing else is kept
        at = table.schema.get_field_index(f"reference_{name}")
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.nulls(len(table), field.type))
    folder.write("logprobs", f"part-{start:09d}", table, **schema.LOGPROBS_ENCODING)


def _evaluate(folder: RunFolder) -> tuple[float, "Used", int]:
    cluster.connect(Ray())
    stage = EvaluateStage(folder, Evaluate(), LabelsStage(folder, None))
    with watching() as used:
        began = time.perf_counter()
        stage.run(lambda line: None)
        seconds = time.perf_counter() - began
    assert stage.summary is not None
    return seconds, used, stage.summary.metrics


class Used:
    """What processes used: this one, and Ray's tasks."""

    def __init__(self) -> None:
        self._cores: dict[int, float] = {}
        self.driver = self.worker = 0.0

    @property
    def core_seconds(self) -> float:
        """Of all together, since the first look."""
        return sum(self._cores.values())

    def look(self, before: dict[int, float]) -> None:
        """At all that are there."""
        for pid, name, seconds, peak in _processes():
            self._cores[pid] = seconds - before.get(pid, 0.0)
            if name.startswith("ray::"):
                self.worker = max(self.worker, peak)
            else:
                self.driver = max(self.driver, peak)


@contextmanager
def watching() -> Iterator[Used]:
    """Look at this process, and those that Ray starts, while something runs."""
    used, over, before = Used(), threading.Event(), {pid: seconds for pid, _, seconds, _ in _processes()}

    def watch() -> None:
        while not over.wait(0.2):
            used.look(before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield used
    over.set()
    thread.join()
    used.look(before)


def _processes() -> Iterator[tuple[int, str, float, float]]:
    """This process and Ray's tasks: id, name, core-seconds so far, and peak of memory in MiB."""
    tick = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            name = (folder / "cmdline").read_text().partition("\0")[0]
            if int(folder.name) != os.getpid() and not name.startswith("ray::"):
                continue
            times = (folder / "stat").read_text().rpartition(") ")[2].split()
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        except (OSError, ValueError):  # it ended meanwhile
            continue
        peak = int(status.get("VmHWM", "0 kB").split()[0]) / 1024
        yield int(folder.name), name, (int(times[11]) + int(times[12])) / tick, peak
