"""Which staged rows are the same trajectory, and what the others are called that have its id.

A log's ids often number the tasks of one domain, of one model, of one trial. So rows are the same trajectory only where
benchmark, domain, behavior and trial are the same as well; others that share an id get what tells them apart added to
it: `7/airline`, `7/retail`, `7/airline/trial_1`. What is added depends on the rows and not on the order of the files.
"""

from collections import Counter
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
    ids = _codes(keys["trajectory_id"])
    first, renamed = np.arange(n), np.full(n, None, object)
    shared = np.flatnonzero(np.bincount(ids, minlength=1)[ids] > 1) if n else np.zeros(0, np.int64)
    if not len(shared):
        return Identity(first, pa.array(renamed, pa.large_string()), {})
    few, owner = keys.select(["trajectory_id", *LABELS]).take(pa.array(shared)), ids[shared]
    labels = [_codes(few[name]) for name in LABELS]
    same = owner
    for label in labels:
        same = np.unique(same * (label.max() + 1) + label, return_inverse=True)[1]
    _, start, inverse = np.unique(same, return_index=True, return_inverse=True)
    first[shared] = shared[start][inverse]
    # Of each trajectory one row; of each id, the labels in which its trajectories differ.
    kept, owner = shared[start], np.unique(owner[start], return_inverse=True)[1]
    added = {name: _differs(label[start], owner) for name, label in zip(LABELS, labels, strict=True)}
    names = _names(few.take(pa.array(start)), added)
    changed = np.flatnonzero(pc.not_equal(names, few["trajectory_id"].take(pa.array(start))).to_numpy())
    if len(changed):
        new = names.take(pa.array(changed)).to_pylist()
        taken = keys["trajectory_id"].filter(pc.is_in(keys["trajectory_id"], pa.array(new, pa.large_string())))
        few = few.take(pa.array(start[changed]))
        renamed[kept[changed]] = _unlike(new, few.to_pylist(), set(taken.to_pylist()))
    counts = {name: int(label[changed].sum()) for name, label in added.items()}
    return Identity(first, pa.array(renamed, pa.large_string()), {name: n for name, n in counts.items() if n})


def _codes(column: pa.ChunkedArray) -> Rows:
    """A number for each value, null's among them."""
    codes = column.combine_chunks().dictionary_encode(null_encoding="encode")
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


def _unlike(new: list[str], rows: list[dict[str, object]], taken: set[str]) -> list[str]:
    """New ids that no row was given (`taken`) and none of the others is: where one is, a digest of the labels follows.

    `7/a` may be the id of a row, and two labels with a slash in them may come to the same text.
    """
    times = Counter(new)
    clash = [i for i, name in enumerate(new) if name in taken or times[name] > 1]
    others = taken | set(times)
    for i in clash:
        told, salt = new[i], 0
        while told in others:
            content = repr((salt, *rows[i].values())).encode()
            told, salt = f"{new[i]}/{blake2b(content, digest_size=4 + 4 * salt).hexdigest()}", salt + 1
        others.add(told)
        new[i] = told
    return new
