"""Functions as Ray tasks, in order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from pa_dist.errors import PaDistError
from pa_dist.mapper import Mapper
from pa_dist.runtime.pools import Actors
from pa_dist.runtime.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


def map_tasks(function: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
    """`map(function, items)` as Ray tasks of one CPU: results in order, a bounded number under way.

    More wait than there are CPUs, so that an autoscaler sees work for more, and the window grows with them. Of an item
    that says how much `memory` its task takes, Ray keeps that free.
    """
    name = getattr(function, "func", function).__name__
    task: Any = ray.remote(num_cpus=1)(lambda item: _tidily(function, item))
    under_way: deque[Any] = deque()
    with Progress(label, len(items)) as progress:
        for item in items:
            if len(under_way) >= 2 * int(ray.cluster_resources().get("CPU", 1)) + 2:
                yield _result(under_way.popleft())
                progress.advance()
            under_way.append(task.options(name=name, **_memory(item)).remote(item))
        for future in under_way:
            yield _result(future)
            progress.advance()


def _tidily(function: Callable[[T], R], item: T) -> R:
    """Its result; memory that Arrow would keep for later goes back, for the next task may be another process."""
    try:
        return function(item)
    finally:
        pa.default_memory_pool().release_unused()


def _memory(item: Any) -> dict[str, int]:
    """What an item's task asks Ray for; no more than the largest node has, or it would wait for ever."""
    wanted = getattr(item, "memory", 0)
    if not wanted:
        return {}
    nodes = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    return {"memory": int(min(wanted, max(nodes, default=0)))}


def on_a_device(function: Callable[[T], R], pool: Actors, item: T) -> R:
    """Its result, of a task that holds what an actor of a pool does. Raises as `map_tasks`."""
    selector = {"label_selector": pool.labels} if pool.labels else {}
    options: dict[str, Any] = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "max_retries": 0, **selector}
    task: Any = ray.remote(**options)(lambda given: function(given))  # Ray takes nothing partial
    found: R = _result(task.remote(item))
    return found


def mapper(label: str) -> Mapper:
    """`map_tasks` with a label."""
    return partial(map_tasks, label=label)


def _result(future: Any) -> Any:
    """A task's result; what it raised on purpose, or met at a file system, as if it had been called here."""
    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PaDistError | OSError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:  # its process or node died, more often than Ray starts a task again
        raise PaDistError(f"{cause(error)}; the same command goes on") from error


def cause(error: BaseException) -> str:
    """What happened, in one line, below the layers that passed it on."""
    from ray.data.exceptions import SystemException  # what imports ray.data takes a second to

    error = getattr(error, "cause", None) or error  # of a Ray task
    while error.__cause__ is not None and not isinstance(error.__cause__, SystemException):
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror and "\n" in str(error.filename):
        return f"{type(error).__name__}: {error.strerror}"  # Ray puts its advice where the file's name was
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Ray's own errors tell a story whose end is the reason.
    told = (lines or [""])[-1 if isinstance(error, ray.exceptions.RayError) else 0].strip()
    return f"{type(error).__name__}: {told}"
