"""Token sequences as a radix tree: every distinct prefix is in it once."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pa_dist.score.engine import Ints


@dataclass
class Segment:
    """A run of tokens that the same sequences share."""

    start: int
    """Position of its first token in all of them."""
    ids: Ints
    children: list["Segment"] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    """The sequences that pass through or end here."""

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


def prefix_tree(sequences: Sequence[Ints], worthwhile: int = 1) -> list[Segment]:
    """Build the roots of a radix tree.

    Args:
      sequences: token ids; empty ones are in no segment.
      worthwhile: a prefix is shared where this saves at least so many tokens, counting those of all but one sequence.

    Returns:
      Roots. A sequence is the concatenation of the segments from its root to the last one that lists it; with
      `worthwhile` 1 no two siblings begin with the same token.
    """
    # Big-endian bytes sort as the tokens do, so sequences with a common prefix become neighbours.
    order = sorted((i for i, s in enumerate(sequences) if len(s)), key=lambda i: sequences[i].astype(">i4").tobytes())
    shared = [_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    return _grow(sequences, order, shared, 0, worthwhile)


def _common(a: Ints, b: Ints) -> int:
    """Length of the common prefix."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _grow(
    sequences: Sequence[Ints], order: Sequence[int], shared: Sequence[int], start: int, worthwhile: int
) -> list[Segment]:
    """Segments of neighbours that agree up to `start`; `shared[k]` is the common length of neighbours k and k + 1."""
    segments = []
    first = 0
    for last in range(len(order)):
        if last < len(shared) and shared[last] > start:
            continue
        members, between = order[first : last + 1], shared[first:last]
        first = last + 1
        end = min(between, default=len(sequences[members[0]]))
        if (end - start) * (len(members) - 1) < worthwhile and len(members) > 1:
            # Not worth a fork here; perhaps some of them share more further on.
            segments += _apart(sequences, members, between, start, worthwhile)
            continue
        segment = Segment(start, sequences[members[0]][start:end], sequences=list(members))
        going_on = [k for k, i in enumerate(members) if len(sequences[i]) > end]
        if going_on:
            # Sorted, those that end here stand first.
            rest = members[going_on[0] :]
            segment.children = _grow(sequences, rest, between[going_on[0] :], end, worthwhile)
        segments.append(segment)
    return segments


def _apart(
    sequences: Sequence[Ints], members: Sequence[int], between: Sequence[int], start: int, worthwhile: int
) -> list[Segment]:
    """Split neighbours where they share least, and look at each part again."""
    least = min(between)
    cuts = [k + 1 for k, length in enumerate(between) if length == least]
    segments = []
    for a, b in zip([0, *cuts], [*cuts, len(members)], strict=True):
        segments += _grow(sequences, members[a:b], between[a : b - 1], start, worthwhile)
    return segments
