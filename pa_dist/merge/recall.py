"""The policy's columns, found again in the run's own `logprobs`: a sweep of alphas scores the policy once."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.run import RunFolder
from pa_dist.score.attempts import Outcome
from pa_dist.score.engine import TokenColumns

_ID = "trajectory_id"
_COLUMNS = [f"policy_{name}" for name in schema.TOKEN_COLUMNS]


class Index(NamedTuple):
    """Where the rows of `logprobs` are: 12 bytes each."""

    digests: NDArray[np.uint64]
    """[n] of the ids, ascending."""
    files: NDArray[np.int32]
    """[n] numbers of their files."""
    paths: list[str]
    """[files]"""


def index(run: RunFolder) -> Index:
    """Read the ids of a run's `logprobs`, and nothing else of it."""
    paths = run.parts("logprobs")
    number = {path: i for i, path in enumerate(paths)}
    digests, files = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    column = pa.schema([pa.field(_ID, pa.string())])
    dataset = pads.dataset(paths, schema=column, filesystem=run.filesystem, format="parquet")
    for tagged in dataset.scanner().scan_batches():
        found = _digests(tagged.record_batch[_ID].to_pylist())
        digests.append(found)
        files.append(np.full(len(found), number[tagged.fragment.path], np.int32))
    together = np.concatenate(digests)
    order = np.argsort(together)
    return Index(together[order], np.concatenate(files)[order], paths)


def recall(run: RunFolder, where: Index, ids: Sequence[str]) -> list[Outcome]:
    """The policy's columns of some trajectories, in the order given; for one that the run rejected, that it did."""
    digests = _digests(ids)
    first, last = (np.searchsorted(where.digests, digests, side) for side in ("left", "right"))
    # Two ids may share a digest; then both files are read.
    numbers = {int(n) for a, b in zip(first, last, strict=True) for n in where.files[a:b]}
    wanted, found = set(ids), dict[str, TokenColumns]()
    for number in sorted(numbers):
        table = pq.read_table(where.paths[number], filesystem=run.filesystem, columns=[_ID, *_COLUMNS])
        for row, trajectory_id in enumerate(table[_ID].to_pylist()):
            if trajectory_id in wanted:
                found[trajectory_id] = TokenColumns(*(_flat(table[name][row]) for name in _COLUMNS))
    return [found.get(trajectory_id, "the run itself did not score it") for trajectory_id in ids]


def _digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, np.uint64)


def _flat(steps: Any) -> NDArray[np.float32]:
    """A row's values, of all its steps."""
    values: NDArray[np.float32] = steps.values.flatten().to_numpy(zero_copy_only=False)
    return values
