"""Reaching Ray, and asking it for what it has: connect, share out GPUs, check the actors fit, run tasks in order."""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import ray

from pa_dist import config
from pa_dist.errors import ResourceError, first_line
from pa_dist.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

# What Ray Data's reading, tokenising and writing need beside the actors. With none left, actors hold every CPU, the
# read never starts and the job hangs.
TASK_CPUS = 2


class Actors(NamedTuple):
    """An actor pool's size and what each actor holds."""

    replicas: int
    num_gpus: float
    num_cpus: float


def connect(settings: config.Ray, score: config.Score | None = None) -> None:
    """Join the cluster this process is told of, or start an embedded one with CPUs enough for the actors.

    Raises:
      ResourceError: no cluster at the address.
    """
    if ray.is_initialized():
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        actors = (
            0.0 if score is None else sum(pool.replicas * pool.num_cpus for pool in (score.policy, score.reference))
        )
        # Logical CPUs: an embedded run shares the cores out rather than refusing to start on a small machine.
        cpus = max(os.cpu_count() or 1, math.ceil(actors) + TASK_CPUS)
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        return
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise ResourceError(f"ray.address: no cluster at {address}: {first_line(error)}") from None


def share_out(score: config.Score) -> dict[str, Actors]:
    """The actor pools of policy and reference, with `num_gpus: null` filled in from what the cluster has.

    One GPU an actor where every actor can have its own, equal fractions of fewer, none without GPUs.

    Raises:
      ResourceError: the cluster has GPUs and one model's setting leaves none of them to the other.
    """
    pools = {"policy": score.policy, "reference": score.reference}
    gpus = ray.cluster_resources().get("GPU", 0.0)
    unset = sum(pool.replicas for pool in pools.values() if pool.num_gpus is None)
    free = gpus - sum(pool.replicas * pool.num_gpus for pool in pools.values() if pool.num_gpus is not None)
    if unset and gpus and free <= 0:
        raise ResourceError(
            "score.policy.num_gpus, score.reference.num_gpus: one takes every GPU; say what the other gets"
        )
    share = _share(free, unset)
    return {
        name: Actors(pool.replicas, share if pool.num_gpus is None else pool.num_gpus, pool.num_cpus)
        for name, pool in pools.items()
    }


def _share(gpus: float, actors: int) -> float:
    """GPUs for each of a number of actors. An actor's fraction lies on one GPU, in steps of 1/10000."""
    if actors == 0 or gpus <= 0:
        return 0.0
    if gpus < 1:
        return int(gpus / actors * 10_000) / 10_000
    return int(10_000 / math.ceil(actors / int(gpus))) / 10_000


def check(pools: dict[str, Actors]) -> None:
    """Refuse actor pools that the nodes of now cannot hold, before anything starts.

    Raises:
      ResourceError: naming the key, what is asked for and what there is.
    """
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("GPU", "CPU")}
    for kind, field, spare in (("GPU", "num_gpus", 0), ("CPU", "num_cpus", TASK_CPUS)):
        asked = {name: (pool.replicas, getattr(pool, field)) for name, pool in pools.items()}
        needed = sum(replicas * each for replicas, each in asked.values()) + spare
        parts = " + ".join(f"{name} {replicas} x {each:g}" for name, (replicas, each) in asked.items())
        parts += f" + {spare} for reading and writing" if spare else ""
        if needed > total[kind] + 1e-6:
            raise ResourceError(
                f"score.policy.{field}, score.reference.{field}: {parts} = {needed:g} {kind}s, the cluster has "
                f"{total[kind]:g}"
            )
    for name, pool in sorted(pools.items(), key=lambda item: -item[1].num_gpus):
        for _ in range(pool.replicas):
            if not _place(pool, nodes):
                raise ResourceError(
                    f"score.{name}: no node has {pool.num_gpus:g} GPUs and {pool.num_cpus:g} CPUs free for each of "
                    f"{pool.replicas} replicas"
                )


def _place(pool: Actors, nodes: list[dict[str, float]]) -> bool:
    for node in nodes:
        if node.get("GPU", 0.0) >= pool.num_gpus - 1e-6 and node.get("CPU", 0.0) >= pool.num_cpus - 1e-6:
            node["GPU"] = node.get("GPU", 0.0) - pool.num_gpus
            node["CPU"] -= pool.num_cpus
            return True
    return False


def map_tasks(function: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
    """`map(function, items)` as Ray tasks of one CPU: results in order, a bounded number under way."""
    task: Any = ray.remote(num_cpus=1)(lambda item: function(item))
    window = 2 * int(ray.cluster_resources().get("CPU", 1)) + 2
    under_way: deque[Any] = deque()
    with Progress(label, len(items)) as progress:
        for item in items:
            if len(under_way) == window:
                yield ray.get(under_way.popleft())
                progress.advance()
            under_way.append(task.remote(item))
        for future in under_way:
            yield ray.get(future)
            progress.advance()
