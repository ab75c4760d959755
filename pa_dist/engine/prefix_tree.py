"""Token sequences as a radix tree: every distinct prefix is in it once."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from pa_dist.engine.protocol import Ints


@dataclass(eq=False)
class Segment:
    """A run of tokens that the same sequences share. Equal only to itself."""

    start: int
    """Position of its first token in all of them."""
    ids: Ints
    sequences: list[int]
    """The sequences that pass through or end here."""
    children: list["Segment"] = field(default_factory=list)
    parent: Optional["Segment"] = None

    @property
    def end(self) -> int:
        """Position behind its last token."""
        return self.start + len(self.ids)

    def ancestors(self) -> Iterator["Segment"]:
        """From the parent up to the root."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens; the others become the only child, and the children its children."""
        rest = Segment(self.start + length, self.ids[length:], list(self.sequences), self.children, self)
        for child in rest.children:
            child.parent = rest
        self.ids, self.children = self.ids[:length], [rest]


def separate(sequences: Sequence[Ints]) -> list[Segment]:
    """A root for each sequence that is not empty."""
    return [Segment(0, ids, [i]) for i, ids in enumerate(sequences) if len(ids)]


def prefix_tree(sequences: Sequence[Ints], worthwhile: float = 0.0) -> list[Segment]:
    """Build the roots of a radix tree.

    Args:
      sequences: token ids; empty ones are in no segment.
      worthwhile: a prefix is shared where the tokens that this saves, those of all but one sequence, are at least this
        share of the tokens that follow it.

    Returns:
      Roots. A sequence is the concatenation of the segments from its root to the last one that lists it; with
      `worthwhile` 0 no two siblings begin with the same token.
    """
    # Big-endian bytes sort as the tokens do, so sequences with a common prefix become neighbours.
    order = sorted((i for i, s in enumerate(sequences) if len(s)), key=lambda i: sequences[i].astype(">i4").tobytes())
    shared = [_common(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    return _grow(sequences, order, shared, None, worthwhile)


def preorder(segments: Sequence[Segment], first: Collection[Segment] = ()) -> Iterator[Segment]:
    """Parents before children.

    Of siblings, the `first` ones come first, then those without children, longest first, so that they fit in rows.
    """
    for segment in sorted(segments, key=lambda s: (s not in first, bool(s.children), -len(s.ids))):
        yield segment
        yield from preorder(segment.children, first)


def graft(roots: Sequence[Segment], chain: Sequence[Segment]) -> list[Segment]:
    """Find segments of another tree again, cutting where one ends.

    Args:
      roots: of a tree.
      chain: segments that follow each other from a root of the other tree.

    Returns:
      Segments of the tree that equal the first ones of the chain, as far down as they agree. Where several branches
      begin as the chain does, the first counts.
    """
    found = []
    siblings = roots
    for old in chain:
        n = len(old.ids)
        new = next((s for s in siblings if len(s.ids) >= n and np.array_equal(s.ids[:n], old.ids)), None)
        if new is None:
            break
        if len(new.ids) > n:
            new.cut(n)
        found.append(new)
        siblings = new.children
    return found


def _common(a: Ints, b: Ints) -> int:
    """Length of the common prefix."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _grow(
    sequences: Sequence[Ints], order: Sequence[int], shared: Sequence[int], parent: Segment | None, worthwhile: float
) -> list[Segment]:
    """Segments of neighbours that agree up to the parent's end; `shared[k]` is what neighbours k and k + 1 share."""
    start = parent.end if parent else 0
    segments = []
    first = 0
    for last in range(len(order)):
        if last < len(shared) and shared[last] > start:
            continue
        members, between = order[first : last + 1], shared[first:last]
        first = last + 1
        end = min(between, default=len(sequences[members[0]]))
        following = sum(len(sequences[i]) - end for i in members)
        if len(members) > 1 and (end - start) * (len(members) - 1) < worthwhile * following:
            # Not worth a fork here; perhaps some of them share more further on.
            segments += _apart(sequences, members, between, parent, worthwhile)
            continue
        segment = Segment(start, sequences[members[0]][start:end], list(members), parent=parent)
        going_on = [k for k, i in enumerate(members) if len(sequences[i]) > end]
        if going_on:
            # Sorted, those that end here stand first.
            rest = members[going_on[0] :]
            segment.children = _grow(sequences, rest, between[going_on[0] :], segment, worthwhile)
        segments.append(segment)
    return segments


def _apart(
    sequences: Sequence[Ints],
    members: Sequence[int],
    between: Sequence[int],
    parent: Segment | None,
    worthwhile: float,
) -> list[Segment]:
    """Split neighbours where they share least, and look at each part again."""
    least = min(between)
    cuts = [k + 1 for k, length in enumerate(between) if length == least]
    segments = []
    for a, b in zip([0, *cuts], [*cuts, len(members)], strict=True):
        segments += _grow(sequences, members[a:b], between[a : b - 1], parent, worthwhile)
    return segments
