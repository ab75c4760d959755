"""One table filled from `trajectories` by a streaming Ray Data job, block by block, until nothing is left.

A block's rows are done when its file and then their ids are written; a killed run goes on from the ids.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pa_dist.errors import PaDistError
from pa_dist.runtime import tasks
from pa_dist.runtime.pools import Actors
from pa_dist.runtime.progress import Progress
from pa_dist.runtime.settle import Settled, mend, n_left, settle
from pa_dist.runtime.tally import ModelTally, Tally
from pa_dist.runtime.targets import Target
from pa_dist.store.folder import RunFolder

# A pass after the first takes rows whose ids are committed and whose file is gone: none in a sound file system.
_PASSES = 3
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Stream:
    """How a table comes from `trajectories`.

    Attributes:
      target: the table.
      tally: of the actors.
      columns: of `trajectories`, to read.
      rows_per_block: trajectories of one block.
      through: what each block goes through in order, to become the table's rows: functions, each block's a task, and
        pools of actors.
      commit: whether a killed run could go on. Only a benchmark does without, to know what it costs.
    """

    target: Target
    tally: Any
    columns: Sequence[str]
    rows_per_block: int
    through: Sequence["Callable[[pa.Table], pa.Table] | Pool"]
    commit: bool = True


@dataclass(frozen=True)
class Pool:
    """Actors of one class, whose instances are called with blocks.

    Attributes:
      arguments: that each is made with.
      holds: how many there are, and what each takes.
      rows: of a block.
    """

    actor: type
    arguments: Mapping[str, Any]
    holds: Actors
    rows: int


@contextmanager
def tallied(models: Sequence[str]) -> Iterator[Any]:
    """A `Tally` actor. It is as safe as the driver: on its node, and begun again with what it knew should it die."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
    with tempfile.TemporaryDirectory(prefix="pa_dist-", ignore_cleanup_errors=True) as place:
        yield remote(Tally).remote(models, str(Path(place) / "tally.json"))


def snapshot(tally: Any) -> dict[str, ModelTally]:
    """What the actors did, by model."""
    found: dict[str, ModelTally] = ray.get(tally.snapshot.remote())
    return found


def complete(folder: RunFolder, stream: Stream) -> tuple[Settled, int]:
    """Fill a table from `trajectories` until each of them is in it or in `rejects`.

    Returns:
      What `settle` found, and how many trajectories an earlier session had done.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    target = stream.target
    (left,) = tasks.map_tasks(partial(n_left, target=target), [folder])
    total = folder.count("trajectories")
    before = total - left
    if not stream.commit:
        _pass(folder, stream)
        return Settled(folder.count(target.table), folder.count("rejects", target.rejects)), before
    for _ in range(_PASSES):
        if left:
            mend(folder, target)
            with _Watch(target.stage, stream.tally, folder, total - left, total):
                _pass(folder, stream)
        (settled,) = tasks.map_tasks(partial(settle, target=target), [folder])
        if not (left := settled.lost):
            return settled, before
    raise PaDistError(f"{target.stage}: {left} trajectories are neither scored nor rejected, after {_PASSES} passes")


def _pass(folder: RunFolder, stream: Stream) -> None:
    _quieten()
    target = stream.target
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="trajectory_id",
        checkpoint_path=folder.inside(folder.path(target.checkpoint)),
        override_filesystem=folder.rooted,
        delete_checkpoint_on_success=False,  # a run that dies before it is marked done would else be scored twice over
    )
    if not stream.commit:
        context.checkpoint_config = None
    dataset: Any = ray.data.read_parquet(
        [folder.inside(path) for path in folder.parts("trajectories")],
        filesystem=folder.rooted,
        columns=list(stream.columns),
        partitioning=None,
    )
    dataset = dataset.repartition(target_num_rows_per_block=stream.rows_per_block)
    for step in stream.through:
        dataset = _mapped(dataset, step)
    try:
        dataset.write_parquet(
            folder.inside(folder.path(target.table)),
            filesystem=folder.rooted,
            mode=ray.data.SaveMode.APPEND,
            **target.encoding,
        )
    except (ray.exceptions.RayError, OSError) as error:
        why = ray.get(stream.tally.fault.remote()) or tasks.cause(error)
        raise PaDistError(
            f"{target.stage}: {why}; what is scored is kept, and the same command goes on from there"
        ) from error
    finally:
        context.checkpoint_config = None


def _mapped(dataset: Any, step: Callable[[pa.Table], pa.Table] | Pool) -> Any:
    if not isinstance(step, Pool):
        return dataset.map_batches(step, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    holds = step.holds
    return dataset.map_batches(
        step.actor,
        fn_constructor_kwargs=dict(step.arguments),
        compute=ray.data.ActorPoolStrategy(min_size=holds.replicas, max_size=holds.most),
        num_gpus=holds.num_gpus,
        num_cpus=holds.num_cpus,
        batch_format="pyarrow",
        batch_size=step.rows,
        # Named only where there are some: Ray runs two stages in one process if what they ask for is alike.
        **({"label_selector": holds.labels} if holds.labels else {}),
    )


def _quieten() -> None:
    """Progress is ours: Ray Data's own would be log blocks off a terminal."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised, and told by us
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


class _Watch:
    """Shows the tally's progress while the driver waits for the pipeline."""

    def __init__(self, label: str, tally: Any, folder: RunFolder, before: int, total: int) -> None:
        self._label = label
        self._tally, self._folder, self._before, self._total = tally, folder, before, total
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * _PATIENCE_SECONDS)

    def _run(self) -> None:
        with Progress(self._label, self._total, self._before, self._folder.log) as progress:
            while not self._stop.wait(1.0):
                try:
                    self._show(progress)
                except ray.exceptions.RayError:  # it is being started again
                    continue
                except Exception as error:  # scoring goes on, and so does its progress
                    progress.mishap(error)

    def _show(self, progress: Progress) -> None:
        models = ray.get(self._tally.snapshot.remote(), timeout=_PATIENCE_SECONDS)
        rates = [
            f"{model} {entry.work.tokens / entry.work.seconds:,.0f} tokens/s"
            for model, entry in models.items()
            if entry.work.seconds
        ]
        # A row is done when all models did it; of two, each one's pass is half of the way there.
        done = sum(entry.rows for entry in models.values()) // len(models)
        progress.update(min(self._before + done, self._total), ", ".join(rates))
