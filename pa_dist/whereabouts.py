"""Which files of a table hold which trajectories: an index of their ids, and nothing else of it, in memory."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pa_dist.run import RunFolder

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


def locate(folder: RunFolder, table_name: str) -> Index:
    """Read the ids of a table."""
    paths = folder.parts(table_name)
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
