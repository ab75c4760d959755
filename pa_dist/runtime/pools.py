"""Actor pools: sharing out GPUs among them, and whether the nodes can hold them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import ray

from pa_dist import config, schema
from pa_dist.errors import ResourceError

# What Ray Data's reading, tokenising and writing need beside the actors, and the actor that leaves out rows which are
# done when a run goes on. With none left, actors hold every CPU, the read never starts and the job hangs.
TASK_CPUS = 3

_LITTLE = 1e-6


class Actors(NamedTuple):
    """An actor pool's size and what each actor holds.

    Attributes:
      most: how far the pool grows where an autoscaling cluster finds room.
    """

    replicas: int
    most: int
    num_gpus: float
    num_cpus: float
    labels: dict[str, str]


def share_out(
    score: config.Score, models: Sequence[str] = schema.MODELS, costs: Mapping[str, float] | None = None
) -> dict[str, Actors]:
    """The actor pools of some models on the nodes of now, as `filled` has them.

    Args:
      costs: of one token, of each model, in any unit.
    """
    return filled({model: getattr(score, model) for model in models}, _nodes(), wide(score, models), costs)


def share_out_one(name: str, pool: config.Replicas) -> dict[str, Actors]:
    """As `share_out`, of a pool that has the cluster for itself."""
    return filled({name: pool}, _nodes(), section="reward_models")


def wide(score: config.Score, models: Sequence[str] = schema.MODELS) -> dict[str, int]:
    """GPUs that one actor is spread over, of each model."""
    return {model: score.width(model) for model in models}


def filled(
    pools: Mapping[str, config.Replicas],
    nodes: Sequence["Node"],
    wide: Mapping[str, int] | None = None,
    costs: Mapping[str, float] | None = None,
    section: str = "score",
) -> dict[str, Actors]:
    """Actor pools with `num_gpus: null` and `replicas: auto` filled in from what the nodes have.

    One GPU an actor where every actor can have its own, equal fractions of fewer, none without GPUs; as many as it is
    spread over, where that is more than one. `auto` is then as
    many actors as there is room for, shared out by cost; one without GPUs, where an actor's threads take the cores.

    Args:
      nodes: with nothing on them.
      wide: GPUs that an actor is spread over, one of those that are not named.

    Raises:
      ResourceError: there are GPUs and one model's setting leaves none of them to the other.
    """
    gpus = sum(node.gpus for node in nodes)
    few = {name: fewest(pool) for name, pool in pools.items()}
    takes = {name: pool.num_gpus for name, pool in pools.items()}
    if gpus:
        takes |= {name: float(n) for name, n in (wide or {}).items() if n > 1 and takes.get(name, n) is None}
    unset = sum(few[name] for name, n in takes.items() if n is None)
    free = gpus - sum(few[name] * n for name, n in takes.items() if n is not None)
    if unset and gpus and free <= 0:
        keys = ", ".join(f"{section}.{name}.num_gpus" for name in pools)
        raise ResourceError(f"{keys}: one takes every GPU; say what the other gets")
    share = _share(free, unset)
    found = {
        name: Actors(
            few[name],
            pool.replicas.max if isinstance(pool.replicas, config.Growing) else few[name],
            share if n is None else n,
            pool.num_cpus,
            pool.labels,
        )
        for (name, pool), n in zip(pools.items(), takes.values(), strict=True)
    }
    auto = [name for name, pool in pools.items() if pool.replicas == "auto" and found[name].num_gpus]
    return _grown(found, auto, nodes, costs or {}) if auto else found


def _grown(
    pools: dict[str, Actors], auto: list[str], nodes: Sequence["Node"], costs: Mapping[str, float]
) -> dict[str, Actors]:
    """The pools, with actors added to some as long as a node has room for one: always to the one most behind."""
    free = [node.copy() for node in nodes]
    _spare(free)
    for name in _hardest_first(pools):
        if not all(place(pools[name], free) for _ in range(pools[name].replicas)):
            return pools  # which cannot be held as it is
    while auto:
        name = max(auto, key=lambda each: costs.get(each, 1.0) / pools[each].replicas)
        if place(pools[name], free):
            more = pools[name].replicas + 1
            pools = {**pools, name: pools[name]._replace(replicas=more, most=more)}
        else:
            auto = [other for other in auto if other != name]
    return pools


def _spare(nodes: Sequence["Node"]) -> None:
    """Take what reading and writing need from the nodes that have most CPUs to spare."""
    for _ in range(TASK_CPUS):
        if nodes:
            max(nodes, key=lambda node: node.cpus - len(node.free_gpus)).cpus -= 1


def fewest(pool: config.Replicas) -> int:
    """Actors that a run cannot start without."""
    if isinstance(pool.replicas, config.Growing):
        return pool.replicas.min
    return 1 if pool.replicas == "auto" else pool.replicas


def _share(gpus: float, actors: int) -> float:
    """GPUs for each of a number of actors. An actor's fraction lies on one GPU, in steps of 1/10000."""
    if actors == 0 or gpus <= 0:
        return 0.0
    if gpus < 1:
        return int(gpus / actors * 10_000) / 10_000
    return int(10_000 / math.ceil(actors / int(gpus))) / 10_000


def in_words(pools: Mapping[str, Actors]) -> str | None:
    """Who works on how many of the cluster's GPUs, and why some are left; nothing where there is none."""
    gpus = sum(node.gpus for node in _nodes())
    if not gpus:
        return None
    parts = [f"{name} {pool.replicas} x {pool.num_gpus:g}" for name, pool in pools.items()]
    left = gpus - sum(pool.replicas * pool.num_gpus for pool in pools.values())
    unused = f"; {left:g} are left, by `replicas`, `num_cpus` or `labels`" if left > 0.01 else ""
    return f"actors and GPUs of each: {', '.join(parts)}, of the cluster's {gpus:g}{unused}"


def check_named(pools: Mapping[str, config.Replicas], section: str = "score") -> None:
    """Refuse to share out GPUs that are not there yet.

    Raises:
      ResourceError: a pool does not say how many it takes.
    """
    for name, pool in pools.items():
        unsaid = [
            key for key, given in (("num_gpus", pool.num_gpus), ("replicas", pool.replicas)) if given in (None, "auto")
        ]
        if unsaid:
            keys = ", ".join(f"{section}.{name}.{key}" for key in unsaid)
            raise ResourceError(f"{keys}: with ray.check_resources=false, say how many: nodes are still to come")


def check_actors(pools: dict[str, Actors], section: str = "score") -> None:
    """Refuse actor pools, by their names in a section, that the nodes of now cannot hold, before anything starts.

    Raises:
      ResourceError: naming the key, what is asked for and what there is.
    """
    nodes = _nodes()
    total = {"GPU": sum(node.gpus for node in nodes), "CPU": sum(node.cpus for node in nodes)}
    for kind, field, spare in (("GPU", "num_gpus", 0), ("CPU", "num_cpus", TASK_CPUS)):
        asked = {name: (pool.replicas, getattr(pool, field)) for name, pool in pools.items()}
        needed = sum(replicas * each for replicas, each in asked.values()) + spare
        parts = " + ".join(f"{name} {replicas} x {each:g}" for name, (replicas, each) in asked.items())
        parts += f" + {spare} for reading and writing" if spare else ""
        if needed > total[kind] + _LITTLE:
            keys = ", ".join(f"{section}.{name}.{field}" for name in pools)
            raise ResourceError(f"{keys}: {parts} = {needed:g} {kind}s, the cluster has {total[kind]:g}")
    for name in _hardest_first(pools):
        pool = pools[name]
        labelled = "".join(f" {key}={value}" for key, value in pool.labels.items())
        for _ in range(pool.replicas):
            if not place(pool, nodes):
                raise ResourceError(
                    f"{section}.{name}: no node{labelled and ' labelled' + labelled} has {pool.num_gpus:g} GPUs and "
                    f"{pool.num_cpus:g} CPUs free for each of {pool.replicas} replicas"
                )


def _hardest_first(pools: Mapping[str, Actors]) -> list[str]:
    """The order in which pools are placed: those that few nodes can hold before those that many can."""
    return sorted(pools, key=lambda name: (-len(pools[name].labels), -pools[name].num_gpus))


def _nodes() -> list["Node"]:
    """The cluster's, as if nothing ran on them."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        Node.of(node["Resources"].get("GPU", 0.0), node["Resources"].get("CPU", 0.0), node["Labels"]) for node in alive
    ]


@dataclass
class Node:
    """A node while actors are placed on it in thought.

    Attributes:
      free_gpus: what is free of each of its GPUs: a fraction of one is not to be had from two.
    """

    free_gpus: list[float]
    cpus: float
    labels: Mapping[str, str]

    @classmethod
    def of(cls, gpus: float, cpus: float, labels: Mapping[str, str] | None = None) -> "Node":
        """A node with nothing on it."""
        rest = gpus % 1
        return cls([1.0] * int(gpus) + ([rest] if rest else []), cpus, labels or {})

    @property
    def gpus(self) -> float:
        """How many are free, parts added up."""
        return sum(self.free_gpus)

    def copy(self) -> "Node":
        """One to place other actors on."""
        return replace(self, free_gpus=[*self.free_gpus])

    def takes(self, pool: Actors) -> bool:
        """Whether one of a pool's actors fits; if so, what it holds is no longer free."""
        each = min(pool.num_gpus, 1.0)
        fitting = [i for i, free in enumerate(self.free_gpus) if free >= each - _LITTLE] if each else []
        needed = math.ceil(pool.num_gpus)
        if (
            len(fitting) < needed
            or self.cpus < pool.num_cpus - _LITTLE
            or not pool.labels.items() <= self.labels.items()
        ):
            return False
        # The fullest that has room, so that whole ones stay whole.
        for i in sorted(fitting, key=self.free_gpus.__getitem__)[:needed]:
            self.free_gpus[i] -= each
        self.cpus -= pool.num_cpus
        return True


def place(pool: Actors, nodes: Sequence[Node]) -> bool:
    """Put one of a pool's actors on the first node that takes it; whether one did."""
    return any(node.takes(pool) for node in nodes)
