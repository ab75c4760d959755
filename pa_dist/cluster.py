"""Reaching Ray, and asking it for what it has: connect, share out GPUs, check the actors fit, run tasks in order."""

import logging
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, TypeVar

import ray

from pa_dist import config, schema
from pa_dist.address import given, try_out
from pa_dist.errors import PaDistError, ResourceError, first_line
from pa_dist.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

# What Ray Data's reading, tokenising and writing need beside the actors, and the actor that leaves out rows which are
# done when a run goes on. With none left, actors hold every CPU, the read never starts and the job hangs.
TASK_CPUS = 3
# What workers print stays in Ray's own logs.
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class Actors(NamedTuple):
    """An actor pool's size and what each actor holds."""

    replicas: int
    num_gpus: float
    num_cpus: float
    labels: dict[str, str]


def look_for(settings: config.Ray) -> None:
    """Find out whether there is a cluster where this process is told of one, before anything that takes long.

    Raises:
      ResourceError: none answers.
    """
    address = None if ray.is_initialized() else given(settings.address)
    if address is not None:
        with _standard_error_closed():
            try_out(address)


def connect(settings: config.Ray, score: config.Score | None = None, rewards: Iterable[config.Replicas] = ()) -> None:
    """Join the cluster this process is told of, or start an embedded one with CPUs enough for the actors.

    Those of score work at the same time, each reward model's alone.

    Raises:
      ResourceError: no cluster at the address, or none could be started.
    """
    if ray.is_initialized():
        return
    address = given(settings.address)
    _hear_nothing()
    # Ray's core writes what it thinks of our actors' arguments to standard error; and so told, that it was told.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _standard_error_closed(), _own_handler_kept():
        if address is not None:
            try_out(address)
            _started(lambda: ray.init(address=address.text, **_QUIET), address.refuse)
            return
        pairs = [] if score is None else [score.policy, score.reference]
        together = [pairs, *([pool] for pool in rewards)]
        actors = max(sum(pool.replicas * pool.num_cpus for pool in pools) for pools in together)
        # Logical CPUs: an embedded run shares the cores out rather than refusing to start on a small machine.
        cpus = max(os.cpu_count() or 1, math.ceil(actors) + TASK_CPUS)
        _started(lambda: ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_QUIET), _refuse)


def _started(start: Callable[[], object], refuse: Callable[[str], NoReturn]) -> None:
    try:
        start()
    except Exception as error:  # a bare one where a node was not up in time
        ray.shutdown()
        refuse(first_line(error))


def _refuse(why: str) -> NoReturn:
    raise ResourceError(f"ray: it could not be started on this machine: {why}")


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """What C++ writes there meanwhile is lost."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _hear_nothing() -> None:
    """What a raylet has to say of its workers, such as how many it started, Ray prints among a command's results.

    It can be read in Ray's own logs; what ends a run is raised.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _own_handler_kept() -> Iterator[None]:
    """Ray puts its own in the place of whatever answers a request to end."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(kept) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


def share_out(score: config.Score, models: Sequence[str] = schema.MODELS) -> dict[str, Actors]:
    """The actor pools of some models, with `num_gpus: null` filled in from what the cluster has.

    One GPU an actor where every actor can have its own, equal fractions of fewer, none without GPUs.

    Raises:
      ResourceError: the cluster has GPUs and one model's setting leaves none of them to the other.
    """
    return share_out_of(ray.cluster_resources().get("GPU", 0.0), score, models)


def share_out_of(gpus: float, score: config.Score, models: Sequence[str] = schema.MODELS) -> dict[str, Actors]:
    """As `share_out`, of so many GPUs."""
    pools: dict[str, config.Replicas] = {model: getattr(score, model) for model in models}
    unset = sum(pool.replicas for pool in pools.values() if pool.num_gpus is None)
    free = gpus - sum(pool.replicas * pool.num_gpus for pool in pools.values() if pool.num_gpus is not None)
    if unset and gpus and free <= 0:
        raise ResourceError(
            "score.policy.num_gpus, score.reference.num_gpus: one takes every GPU; say what the other gets"
        )
    share = _share(free, unset)
    if score.engine == "vllm" and score.vllm.tensor_parallel_size > 1 and gpus:
        share = float(score.vllm.tensor_parallel_size)
    return {
        name: Actors(pool.replicas, share if pool.num_gpus is None else pool.num_gpus, pool.num_cpus, pool.labels)
        for name, pool in pools.items()
    }


def share_out_one(pool: config.Replicas) -> Actors:
    """As `share_out`, of a pool that has the cluster for itself."""
    gpus = ray.cluster_resources().get("GPU", 0.0)
    share = _share(gpus, pool.replicas) if pool.num_gpus is None else pool.num_gpus
    return Actors(pool.replicas, share, pool.num_cpus, pool.labels)


def _share(gpus: float, actors: int) -> float:
    """GPUs for each of a number of actors. An actor's fraction lies on one GPU, in steps of 1/10000."""
    if actors == 0 or gpus <= 0:
        return 0.0
    if gpus < 1:
        return int(gpus / actors * 10_000) / 10_000
    return int(10_000 / math.ceil(actors / int(gpus))) / 10_000


def check_named(pools: Mapping[str, config.Replicas], section: str = "score") -> None:
    """Refuse to share out GPUs that are not there yet.

    Raises:
      ResourceError: a pool does not say how many it takes.
    """
    for name, pool in pools.items():
        if pool.num_gpus is None:
            raise ResourceError(
                f"{section}.{name}.num_gpus: with ray.check_resources=false, say how many: nodes are still to come"
            )


def check(pools: dict[str, Actors], section: str = "score") -> None:
    """Refuse actor pools, by their names in a section, that the nodes of now cannot hold, before anything starts.

    Raises:
      ResourceError: naming the key, what is asked for and what there is.
    """
    nodes = [_Node(dict(node["Resources"]), node["Labels"]) for node in ray.nodes() if node["Alive"]]
    total = {kind: sum(node.free.get(kind, 0.0) for node in nodes) for kind in ("GPU", "CPU")}
    for kind, field, spare in (("GPU", "num_gpus", 0), ("CPU", "num_cpus", TASK_CPUS)):
        asked = {name: (pool.replicas, getattr(pool, field)) for name, pool in pools.items()}
        needed = sum(replicas * each for replicas, each in asked.values()) + spare
        parts = " + ".join(f"{name} {replicas} x {each:g}" for name, (replicas, each) in asked.items())
        parts += f" + {spare} for reading and writing" if spare else ""
        if needed > total[kind] + 1e-6:
            keys = ", ".join(f"{section}.{name}.{field}" for name in pools)
            raise ResourceError(f"{keys}: {parts} = {needed:g} {kind}s, the cluster has {total[kind]:g}")
    for name, pool in sorted(pools.items(), key=lambda item: (-len(item[1].labels), -item[1].num_gpus)):
        labelled = "".join(f" {key}={value}" for key, value in pool.labels.items())
        for _ in range(pool.replicas):
            if not any(node.takes(pool) for node in nodes):
                raise ResourceError(
                    f"{section}.{name}: no node{labelled and ' labelled' + labelled} has {pool.num_gpus:g} GPUs and "
                    f"{pool.num_cpus:g} CPUs free for each of {pool.replicas} replicas"
                )


class _Node(NamedTuple):
    """A node while actors are placed on it in thought."""

    free: dict[str, float]
    labels: dict[str, str]

    def takes(self, pool: Actors) -> bool:
        """Whether one of a pool's actors fits; if so, what it holds is no longer free."""
        asked = {"GPU": pool.num_gpus, "CPU": pool.num_cpus}
        fits = all(self.free.get(kind, 0.0) >= amount - 1e-6 for kind, amount in asked.items())
        if not fits or not pool.labels.items() <= self.labels.items():
            return False
        self.free.update({kind: self.free.get(kind, 0.0) - amount for kind, amount in asked.items()})
        return True


def map_tasks(function: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
    """`map(function, items)` as Ray tasks of one CPU: results in order, a bounded number under way.

    More wait than there are CPUs, so that an autoscaler sees work for more, and the window grows with them.
    """
    name = getattr(function, "func", function).__name__
    task: Any = ray.remote(num_cpus=1)(lambda item: function(item))
    under_way: deque[Any] = deque()
    with Progress(label, len(items)) as progress:
        for item in items:
            if len(under_way) >= 2 * int(ray.cluster_resources().get("CPU", 1)) + 2:
                yield _result(under_way.popleft())
                progress.advance()
            under_way.append(task.options(name=name).remote(item))
        for future in under_way:
            yield _result(future)
            progress.advance()


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
