"""Which staged rows are the same trajectory, and what the others are called that have its id.

A log's ids often number the tasks of one domain, of one model, of one trial. So rows are the same trajectory only where
benchmark, domain, behavior and trial are the same as well; others that share an id get what tells them apart added to
it: `7/airline`, `7/retail`, `7/airline/trial_1`. What is added depends on the rows and not on the order of the files.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[np.int64]
LABELS = ("benchmark", "domain", "behavior", "trial")


class Identity(NamedTuple):
    """For each row."""

    first: Rows
    """The first row of the same trajectory."""
    renamed: pa.Array
    """Its new id, null where it keeps the one that it has."""
    told_apart: dict[str, int]
    """How many rows got each label added to their id."""


def identify(keys: pa.Table) -> Identity:
    """Of rows with `trajectory_id` and `LABELS`, in reading order."""
    n = keys.num_rows
    ids = coded(keys["trajectory_id"])
    first, renamed = np.arange(n), pa.nulls(n, pa.large_string())
    shared = np.flatnonzero(np.bincount(ids, minlength=1)[ids] > 1) if n else np.zeros(0, np.int64)
    if not len(shared):
        return Identity(first, renamed, {})
    few, owner = keys.select(["trajectory_id", *LABELS]).take(pa.array(shared)), ids[shared]
    labels = [coded(few[name]) for name in LABELS]
    same = owner
    for label in labels:
        same = np.unique(same * (label.max() + 1) + label, return_inverse=True)[1]
    _, start, inverse = np.unique(same, return_index=True, return_inverse=True)
    first[shared] = shared[start][inverse]
    # Of each trajectory one row; of each id, the labels in which its trajectories differ.
    kept, owner = shared[start], np.unique(owner[start], return_inverse=True)[1]
    added = {name: _differs(label[start], owner) for name, label in zip(LABELS, labels, strict=True)}
    few = few.take(pa.array(start))
    names = _names(few, added)
    changed = np.flatnonzero(pc.not_equal(names, few["trajectory_id"]).to_numpy())
    if len(changed):
        rows = few.take(pa.array(changed))
        new = _unlike(names.take(pa.array(changed)).combine_chunks(), rows, keys["trajectory_id"])
        at = np.full(n, -1)
        at[kept[changed]] = np.arange(len(changed))
        renamed = new.take(pa.array(at, mask=at < 0))
    counts = {name: int(label[changed].sum()) for name, label in added.items()}
    return Identity(first, renamed, {name: n for name, n in counts.items() if n})


def coded(column: pa.Array | pa.ChunkedArray) -> Rows:
    """A number for each value, null's among them."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    codes = whole.dictionary_encode(null_encoding="encode")
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    numbers: Rows = codes.indices.to_numpy().astype(np.int64)
    return numbers


def _differs(label: Rows, owner: Rows) -> NDArray[np.bool_]:
    """[rows] whether the rows of the same owner have more than one label. Owners are numbered from 0."""
    least = np.full(owner.max() + 1, np.iinfo(np.int64).max)
    most = np.full(owner.max() + 1, -1)
    np.minimum.at(least, owner, label)
    np.maximum.at(most, owner, label)
    apart: NDArray[np.bool_] = (least != most)[owner]
    return apart


def _names(rows: pa.Table, added: dict[str, NDArray[np.bool_]]) -> pa.ChunkedArray:
    """The ids, each with the labels that are to be added; nothing is added for a null."""
    pieces = [rows["trajectory_id"]]
    for name, wanted in added.items():
        value = rows[name].cast(pa.large_string())
        lead = pa.scalar("/trial_" if name == "trial" else "/", pa.large_string())
        text = pc.binary_join_element_wise(lead, value, pa.scalar("", pa.large_string()))
        pieces.append(pc.fill_null(pc.if_else(pa.array(wanted), text, ""), ""))
    return pc.binary_join_element_wise(*pieces, pa.scalar("", pa.large_string()))


def _unlike(names: pa.Array, rows: pa.Table, given: pa.ChunkedArray) -> pa.Array:
    """Names that no row was given and none of the others has: to one that is, a digest of its row's labels is added.

    `7/a` may be the id of a row, and two labels with a slash in them may come to the same text.
    """
    found, salt = names, 0
    while True:
        codes = coded(found)
        again = pc.is_in(found, pc.unique(given)).to_numpy(zero_copy_only=False) | (np.bincount(codes)[codes] > 1)
        if not again.any():
            return found
        which = pa.array(np.flatnonzero(again))
        told = zip(names.take(which).to_pylist(), rows.take(which).to_pylist(), strict=True)
        other = [f"{name}/{_digest(salt, row)}" for name, row in told]
        found = pc.replace_with_mask(found, pa.array(again), pa.array(other, pa.large_string()))
        salt += 1


def _digest(salt: int, row: dict[str, object]) -> str:
    return blake2b(repr((salt, *row.values())).encode(), digest_size=min(4 + 4 * salt, 64)).hexdigest()
