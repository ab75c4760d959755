"""Which segments of a prefix tree run together, and in which order."""

from collections import deque
from collections.abc import Collection, Sequence

from pa_dist.engine.prefix_tree import Segment, preorder


class Schedule:
    """Hands out a tree depth first, so that only the keys and values of one path need be held."""

    def __init__(self, segments: Sequence[Segment], *, rows: bool, cut: bool, done: Collection[Segment] = ()) -> None:
        """Plan a tree.

        Args:
          segments: roots.
          rows: a pass is a rectangle of siblings without children, or one segment alone; otherwise tokens of any
            segments follow each other in one row.
          cut: a segment longer than the budget may run in pieces.
          done: segments, with all above them, that need not run. What follows them comes first, to be done with them.
        """
        self.rows, self.cut = rows, cut
        self._pending = deque(segment for segment in preorder(segments, done) if segment not in done)

    def path(self) -> set[Segment]:
        """All above the next segment: what must be remembered."""
        return set(self._pending[0].ancestors()) if self._pending else set()

    def above(self) -> set[Segment]:
        """All above any segment to come."""
        return {above for segment in self._pending for above in segment.ancestors()}

    def take(self, budget: int) -> list[Segment]:
        """The segments of the next pass: at most `budget` tokens, pads included, or one segment; none at the end."""
        taken: list[Segment] = []
        while self._pending and self._fits(taken, self._pending[0], budget):
            segment = self._pending.popleft()
            if self.cut and len(segment.ids) > budget:
                segment.cut(budget)
                self._pending.appendleft(segment.children[0])
            taken.append(segment)
        return taken

    def _fits(self, taken: list[Segment], segment: Segment, budget: int) -> bool:
        if not taken:
            return True
        if not self.rows:
            return sum(len(s.ids) for s in taken) + len(segment.ids) <= budget
        first = taken[0]
        siblings = segment.parent is first.parent and not first.children and not segment.children
        # Longest first: no row is wider than the first.
        return siblings and len(first.ids) * (len(taken) + 1) <= budget

    def put_back(self, segments: Sequence[Segment]) -> None:
        """Segments that were taken last are to run again."""
        self._pending.extendleft(reversed(segments))

    def drop(self, sequences: set[int]) -> None:
        """Leave out what only these sequences need."""
        self._pending = deque(s for s in self._pending if not sequences.issuperset(s.sequences))
