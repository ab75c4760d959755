"""Arrow's lists as flat arrays and lengths: what every reducer works on, so that none loops over rows.

A trajectory's steps and a step's tokens are ragged. `lengths` and `flatten` treat a null list as an empty one and
respect slices, which the raw `offsets` and `values` of a `ListArray` do not.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pa_dist.errors import PaDistError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def column(table: pa.Table, name: str) -> pa.Array:
    """A table's column as one array, its chunks joined."""
    joined = table[name].combine_chunks()
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def lengths(lists: pa.Array) -> Ints:
    """Length of each list, shape [len(lists)]; a null list has length 0."""
    counted: Ints = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return counted


def offsets(counts: Ints | Bools) -> Ints:
    """Where each list starts in the flat array, and the last one's end: shape [len(counts) + 1]."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def is_valid(array: pa.Array) -> Bools:
    """Which entries are not null."""
    valid: Bools = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


@dataclass(frozen=True)
class Tokens:
    """One per-token column of a block.

    Attributes:
      values: float32 [tokens], the tokens of all steps of all trajectories.
      counts: [steps], tokens of each step.
      scored: [trajectories], False where the trajectory's list is null, or each of its steps.
      given: [steps], False where the step's list is null, which counts as empty.
    """

    values: NDArray[np.float32]
    counts: Ints
    scored: Bools
    given: Bools


def tokens(table: pa.Table, name: str, n_steps: Ints) -> Tokens:
    """Flatten a `list<list<float32>>` column whose trajectories have `n_steps` steps each.

    Raises:
      PaDistError: a trajectory with more or fewer lists than steps.
    """
    lists = column(table, name)
    scored = is_valid(lists)
    require_same(table, np.where(scored, lengths(lists), n_steps), n_steps, f"{name} has", "steps")
    inner = lists.flatten()
    counts, given = np.zeros(int(n_steps.sum()), np.int64), np.zeros(int(n_steps.sum()), bool)
    counts[np.repeat(scored, n_steps)] = lengths(inner)
    given[np.repeat(scored, n_steps)] = is_valid(inner)
    n_given = np.bincount(np.repeat(np.arange(len(n_steps)), n_steps), weights=given, minlength=len(n_steps))
    scored = scored & ((n_given > 0) | (n_steps == 0))  # an engine that lacks a column leaves its steps null
    return Tokens(inner.flatten().to_numpy(zero_copy_only=False), counts, scored, given)


def require_one_length(table: pa.Table, n_steps: Ints, columns: dict[str, Tokens]) -> None:
    """Assert that the per-token columns of a model give each step that they have the same number of tokens.

    Raises:
      PaDistError: names the trajectory and the column.
    """
    (first, expected), *others = columns.items()
    starts = offsets(n_steps)
    for name, found in others:
        both = np.repeat(expected.scored & found.scored, n_steps) & expected.given & found.given
        wrong = np.flatnonzero(both & (expected.counts != found.counts))
        if len(wrong):
            row = int(np.searchsorted(starts, wrong[0], side="right")) - 1
            position = int(wrong[0] - starts[row])
            raise PaDistError(
                f"logprobs: trajectory {_id(table, row)}: {name} and {first} differ in the tokens of action {position}"
                f" ({found.counts[wrong[0]]} and {expected.counts[wrong[0]]})"
            )


def require_same(table: pa.Table, found: Ints, expected: Ints, what: str, unit: str) -> None:
    """Assert that two counts per trajectory agree; the error names the first one where they do not."""
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        row = int(wrong[0])
        raise PaDistError(
            f"logprobs: trajectory {_id(table, row)}: {what} {found[row]} {unit}, expected {expected[row]}"
        )


def _id(table: pa.Table, row: int) -> str:
    return str(table["trajectory_id"][row].as_py())
