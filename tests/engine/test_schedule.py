"""Every segment runs once, after those above it, and passes keep to the budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist.engine.prefix_tree import graft, prefix_tree
from pa_dist.engine.schedule import Schedule

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=9)


def tree(lists):
    return prefix_tree([np.array(s, np.int32) for s in lists])


def covered(segments, lists):
    """Each sequence's tokens as its segments hold them, in the order in which they ran."""
    tokens = {i: [] for i in range(len(lists))}
    for segment in segments:
        for i in segment.sequences:
            assert len(tokens[i]) == segment.start
            tokens[i] += segment.ids.tolist()
    return tokens


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.integers(1, 20), st.booleans(), st.booleans())
def test_passes(lists, budget, rows, cut):
    schedule = Schedule(tree(lists), rows=rows, cut=cut)
    ran = []
    while taken := schedule.take(budget):
        widest = max(len(s.ids) for s in taken)
        size = widest * len(taken) if rows else sum(len(s.ids) for s in taken)
        assert size <= budget or (len(taken) == 1 and not cut)
        assert all(above in schedule.path() or above in ran or above in taken for s in taken for above in s.ancestors())
        assert (
            not rows or len(taken) == 1 or (not any(s.children for s in taken) and len({s.parent for s in taken}) == 1)
        )
        ran += taken
    assert covered(ran, lists) == dict(enumerate(lists))


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.integers(1, 20), st.data())
def test_what_is_put_back_runs_again_and_what_is_dropped_does_not(lists, budget, data):
    schedule = Schedule(tree(lists), rows=False, cut=True)
    lost = data.draw(st.sets(st.integers(0, len(lists) - 1)))
    schedule.put_back(schedule.take(budget))
    schedule.drop(lost)
    ran = []
    while taken := schedule.take(max(1, budget // 2)):
        ran += taken
    assert all(set(segment.sequences) - lost for segment in ran)
    tokens = covered(ran, lists)
    assert all(tokens[i] == lists[i] for i in set(range(len(lists))) - lost)


@settings(max_examples=200, deadline=None)
@given(SEQUENCES, st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 12))
def test_a_chain_is_found_again(lists, other, length):
    old = tree([other])
    old[0].cut(length) if length < len(other) else None
    chain = [old[0], *old[0].children]
    roots = tree(lists)
    found = graft(roots, chain)
    assert [s.ids.tolist() for s in found] == [s.ids.tolist() for s in chain[: len(found)]]
    shared = max((n for s in lists for n in range(len(other) + 1) if s[:n] == other[:n]), default=0)
    assert sum(len(s.ids) for s in found) <= shared
    schedule = Schedule(roots, rows=False, cut=True, done=found)
    ran = [*found]
    while taken := schedule.take(5):
        ran += taken
        assert not (schedule.path() & set(found) and any(s.sequences[0] not in found[0].sequences for s in taken))
    assert covered(ran, lists) == dict(enumerate(lists))


@pytest.mark.parametrize("rows", [True, False])
def test_siblings_without_children_run_together(rows):
    schedule = Schedule(tree([[0, 1], [0, 2], [0, 2, 3, 3], [0, 2, 4]]), rows=rows, cut=True)
    passes = []
    while taken := schedule.take(100):
        passes.append([s.ids.tolist() for s in taken])
    assert passes == ([[[0]], [[1]], [[2]], [[3, 3], [4]]] if rows else [[[0], [1], [2], [3, 3], [4]]])
