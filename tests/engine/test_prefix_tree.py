"""The radix tree against the plain set of all prefixes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist.engine.prefix_tree import prefix_tree, separate

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=9), max_size=9)


def walk(segments, before=()):
    for segment in segments:
        path = (*before, *segment.ids.tolist())
        yield segment, path
        yield from walk(segment.children, path)


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_every_sequence_is_a_path(lists, worthwhile):
    arrays = [np.array(s, np.int32) for s in lists]
    ends = {}
    for segment, path in walk(prefix_tree(arrays, worthwhile)):
        assert segment.start == len(path) - len(segment.ids)
        assert len(segment.ids) > 0
        for i in segment.sequences:
            assert tuple(lists[i][: segment.end]) == path
            ends[i] = path
        if len(segment.sequences) > 1:
            following = sum(len(lists[i]) - segment.end for i in segment.sequences)
            assert len(segment.ids) * (len(segment.sequences) - 1) >= worthwhile * following
    assert ends == {i: tuple(s) for i, s in enumerate(lists) if s}


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
def test_every_prefix_is_there_once(lists):
    segments = [segment for segment, _ in walk(prefix_tree([np.array(s, np.int32) for s in lists]))]
    assert sum(len(s.ids) for s in segments) == len({tuple(s[:n]) for s in lists for n in range(1, len(s) + 1)})


def test_apart_every_sequence_is_a_root():
    roots = separate([np.array(s, np.int32) for s in ([1, 2], [], [1, 2])])
    assert [(root.ids.tolist(), root.sequences, root.children) for root in roots] == [
        ([1, 2], [0], []),
        ([1, 2], [2], []),
    ]
