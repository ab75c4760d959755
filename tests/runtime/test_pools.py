"""Filling a cluster with actors."""

import pytest

from pa_dist.config import Score
from pa_dist.errors import ResourceError
from pa_dist.runtime.pools import TASK_CPUS, Node, filled, place, wide


def pools_of(nodes, costs=None, **score):
    settings = Score(**score)
    pools = {"policy": settings.policy, "reference": settings.reference}
    return filled(pools, nodes, wide(settings), costs)


def sizes(nodes, costs=None, **score):
    return {name: (pool.replicas, pool.num_gpus) for name, pool in pools_of(nodes, costs, **score).items()}


def both(n, gpus):
    return {"policy": (n, gpus), "reference": (n, gpus)}


@pytest.mark.parametrize(
    ("nodes", "score", "expected"),
    [
        ([Node.of(8, 32)], {}, both(4, 1)),
        ([Node.of(2, 8)], {}, both(1, 1)),
        ([Node.of(1, 8)], {}, both(1, 0.5)),
        ([Node.of(0, 64)], {}, both(1, 0)),
        ([], {}, both(1, 0)),
        ([Node.of(3, 8)], {}, {"policy": (2, 1), "reference": (1, 1)}),
        ([Node.of(0, 8), *(Node.of(4, 16) for _ in range(4))], {}, both(8, 1)),
        # Each takes a CPU, and three are for reading and writing.
        ([Node.of(8, 4 + TASK_CPUS)], {}, both(2, 1)),
        ([Node.of(8, 4 + TASK_CPUS)], {"policy": {"num_cpus": 0.5}, "reference": {"num_cpus": 0.5}}, both(4, 1)),
        ([Node.of(8, 32)], {"engine": "vllm", "vllm": {"tensor_parallel_size": 2}}, both(2, 2)),
        ([Node.of(8, 32)], {"policy": {"tensor_parallel_size": 4}}, {"policy": (1, 4), "reference": (4, 1)}),
        ([Node.of(0, 32)], {"policy": {"tensor_parallel_size": 4}}, both(1, 0)),
        # Four GPUs of one node hold one actor that takes three.
        ([Node.of(4, 16)] * 2, {"policy": {"num_gpus": 3}}, {"policy": (2, 3), "reference": (2, 1)}),
        ([Node.of(8, 32)], {"policy": {"replicas": 2}}, {"policy": (2, 1), "reference": (6, 1)}),
        ([Node.of(2, 32)], {"policy": {"num_gpus": 0.5}, "reference": {"num_gpus": 0.5}}, both(2, 0.5)),
        # 0.6 of a GPU leave room for no other such part.
        ([Node.of(4, 32)], {"policy": {"num_gpus": 0.6}, "reference": {"num_gpus": 0.6}}, both(2, 0.6)),
        (
            [Node.of(8, 32)],
            {"policy": {"replicas": {"max": 4}}, "reference": {"replicas": 2}},
            {"policy": (1, 1), "reference": (2, 1)},
        ),
        (
            [Node.of(2, 8, {"card": "H100"}), Node.of(4, 8, {"card": "L4"})],
            {"policy": {"labels": {"card": "H100"}}, "reference": {"labels": {"card": "L4"}}},
            {"policy": (2, 1), "reference": (4, 1)},
        ),
    ],
)
def test_the_pools_fill_the_nodes(nodes, score, expected):
    nodes = [node.copy() for node in nodes]
    found = pools_of(nodes, **score)
    assert {name: (pool.replicas, pool.num_gpus) for name, pool in found.items()} == expected
    if nodes:  # and what they are filled with fits
        largest_first = sorted(found.values(), key=lambda pool: -pool.num_gpus)
        assert all(place(pool, nodes) for pool in largest_first for _ in range(pool.replicas))


def test_the_larger_model_gets_more_actors():
    node = Node.of(8, 32)
    assert sizes([node], {"policy": 3.0, "reference": 1.0}) == {"policy": (6, 1), "reference": (2, 1)}
    assert sizes([node], {"policy": 1.0, "reference": 100.0}) == {"policy": (1, 1), "reference": (7, 1)}


def test_what_cannot_be_held_is_not_filled_up():
    assert sizes([Node.of(4, 8)], policy={"num_cpus": 9}) == both(1, 1)
    pools = {"policy": {"num_gpus": 3}, "reference": {"num_gpus": 1}}
    assert sizes([Node.of(2, 8)], **pools) == {"policy": (1, 3), "reference": (1, 1)}


def test_a_pool_may_grow():
    found = pools_of([Node.of(2, 8)], policy={"replicas": {"min": 1, "max": 6}})
    assert (found["policy"].replicas, found["policy"].most) == (1, 6)
    assert (found["reference"].replicas, found["reference"].most) == (1, 1)


def test_a_model_that_takes_all_gpus_leaves_none_to_the_other():
    with pytest.raises(
        ResourceError, match=r"score\.policy\.num_gpus, score\.reference\.num_gpus: one takes every GPU"
    ):
        pools_of([Node.of(2, 8)], policy={"num_gpus": 2})


def test_fewest_and_most_are_in_order():
    with pytest.raises(ValueError, match="min: 3 is more than max: 2"):
        Score(policy={"replicas": {"min": 3, "max": 2}})
