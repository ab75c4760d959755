"""Reaching Ray: the cluster that this process is told of, or one of its own."""

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import ray

from pa_dist import config
from pa_dist.errors import ResourceError, first_line
from pa_dist.runtime.address import given, try_out
from pa_dist.runtime.pools import TASK_CPUS, fewest
from pa_dist.runtime.tasks import map_tasks
from pa_dist.store.folder import RunFolder

# What workers print stays in Ray's own logs.
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


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
        pairs: list[config.Replicas] = [] if score is None else [score.policy, score.reference]
        together = [pairs, *([pool] for pool in rewards)]
        actors = max(sum(fewest(pool) * pool.num_cpus for pool in pools) for pools in together)
        # Logical CPUs: an embedded run shares the cores out rather than refusing to start on a small machine.
        cpus = max(os.cpu_count() or 1, math.ceil(actors) + TASK_CPUS)
        _started(lambda: ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_QUIET), _refuse)


def tasks_for(folder: RunFolder) -> Callable[..., Iterator[Any]]:
    """`map_tasks` on the cluster that a run was made on, joined at the first call."""

    def call(function: Callable[[Any], Any], items: Sequence[Any], label: str = "") -> Iterator[Any]:
        connect(config.Ray(**folder.manifest.get("config", {}).get("ray", {})))
        return map_tasks(function, items, label)

    return call


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
