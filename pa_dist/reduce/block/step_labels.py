"""Labels of a block's steps, and the values that methods hold against them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pa_dist.ragged import Bools, Ints, column, lengths, offsets
from pa_dist.schema import WRONG

# In the place of null.
_NONE = -128


def first_wrong(lists: pa.Array) -> Ints:
    """[trajectories] the first message that is labelled wrong, -1 where none is."""
    starts, flat = offsets(lengths(lists)), lists.flatten().fill_null(_NONE).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(flat == WRONG)
    found = np.full(len(lists), -1)
    having, place = np.unique(np.searchsorted(starts, wrong, side="right") - 1, return_index=True)
    found[having] = wrong[place] - starts[having]
    return found


@dataclass(frozen=True)
class StepLabels:
    """What `step_labels` of some trajectories say.

    Attributes:
      labels: [steps] right, neutral, wrong, or `_NONE`.
      first_wrong: [trajectories] as `first_wrong` has it.
    """

    labels: NDArray[np.int8]
    first_wrong: Ints

    @staticmethod
    def of(table: pa.Table, rows: Ints, step: Ints) -> "StepLabels":
        """Of rows of `logprobs`.

        Args:
          rows, step: [steps] the trajectory and the message of each step.
        """
        lists = column(table, "step_labels")
        counts, flat = lengths(lists), lists.flatten().fill_null(_NONE).to_numpy(zero_copy_only=False)
        starts = offsets(counts)
        labels = np.full(len(rows), _NONE, np.int8)
        there = (step >= 0) & (step < counts[rows])
        labels[there] = flat[(starts[rows] + step)[there]]
        return StepLabels(labels, first_wrong(lists))

    @property
    def known(self) -> Bools:
        """[steps] which have one."""
        known: Bools = self.labels != _NONE
        return known

    @property
    def first_wrong_or_null(self) -> pa.Array:
        """`first_wrong` as a column."""
        return pa.array(self.first_wrong, pa.int32(), mask=self.first_wrong < 0)

    def at(self, places: Ints) -> pa.Array:
        """The labels of some steps as a column; null for place -1."""
        found = np.append(self.labels, np.int8(_NONE))[places]
        return pa.array(found, mask=found == _NONE)
