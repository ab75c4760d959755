"""Which files of a table hold which trajectories, by an index of their ids; and the rows of some of them."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pa_dist.store.folder import RunFolder

_ID = "trajectory_id"


class Index(NamedTuple):
    """Where the rows of a table are: 12 bytes each."""

    digests: NDArray[np.uint64]
    """[n] of the ids, ascending."""
    files: NDArray[np.int32]
    """[n] numbers of their files."""
    paths: list[str]
    """[files]"""

    def holding(self, ids: Sequence[str]) -> list[str]:
        """The files that hold some trajectories, in name order; two ids may share a digest, and then one more."""
        digests = _digests(ids)
        first, last = (np.searchsorted(self.digests, digests, side) for side in ("left", "right"))
        numbers = {int(n) for a, b in zip(first, last, strict=True) for n in self.files[a:b]}
        return [self.paths[number] for number in sorted(numbers)]


def locate(folder: RunFolder, table: str | Sequence[str]) -> Index:
    """Read the ids of a table, or of some of its files."""
    paths = folder.parts(table) if isinstance(table, str) else list(table)
    number = {path: i for i, path in enumerate(paths)}
    digests, files = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    column = pa.schema([pa.field(_ID, pa.string())])
    dataset = folder.files(paths, column)
    for tagged in dataset.scanner().scan_batches():
        found = _digests(tagged.record_batch[_ID].to_pylist())
        digests.append(found)
        files.append(np.full(len(found), number[tagged.fragment.path], np.int32))
    together = np.concatenate(digests)
    order = np.argsort(together)
    return Index(together[order], np.concatenate(files)[order], paths)


def _digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, np.uint64)


def rows(folder: RunFolder, files: Sequence[str], ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Some trajectories' rows of some files of a table, in the files' order."""
    dataset = folder.files(files)
    return dataset.to_table(columns=list(columns), filter=pc.field(_ID).isin(pa.array(ids, pa.string())))


def places(table: pa.Table) -> dict[str, list[int]]:
    """The row numbers of each trajectory of a table, in order."""
    found: dict[str, list[int]] = {}
    for number, key in enumerate(table[_ID].to_pylist()):
        found.setdefault(key, []).append(number)
    return found


def grouped(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The rows of each trajectory of a table, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row[_ID], []).append(row)
    return found
