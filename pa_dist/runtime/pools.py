"""Actor pools: sharing out GPUs among them, and whether the nodes can hold them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ray

from pa_dist import config, schema
from pa_dist.errors import ResourceError

# What Ray Data's reading, tokenising and writing need beside the actors, and the actor that leaves out rows which are
# done when a run goes on. With none left, actors hold every CPU, the read never starts and the job hangs.
TASK_CPUS = 3


class Actors(NamedTuple):
    """An actor pool's size and what each actor holds."""

    replicas: int
    num_gpus: float
    num_cpus: float
    labels: dict[str, str]


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


def check_actors(pools: dict[str, Actors], section: str = "score") -> None:
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
