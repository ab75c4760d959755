"""How many trajectories a block holds: what an actor is given, and what is committed and written, at a time."""

import math
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from pa_dist.runtime.pools import Actors
from pa_dist.store.folder import RunFolder

# Of a table of any size, and as many of ids: what a crash costs grows with the corpus, and how many files there are
# does not.
FILES = 10_000
# For each actor, so that none ends long before the others.
BLOCKS = 4
# Passes of a block. A GPU does many a second; on a CPU one can take a minute, and a crash costs a block.
PASSES = {"gpu": 16, "cpu": 2}
GENERATED = 16
BYTES_A_TOKEN = 4
_PARTS = 16


def rows_of_blocks(
    asked: int | Literal["auto"], folder: RunFolder, actors: Actors, pass_tokens: int | None, max_length: int
) -> int:
    """Trajectories of a block of a run.

    Args:
      asked: so many, or `auto`, by `fitting`.
      actors: of the pool that takes the blocks.
      pass_tokens: of one pass; None of what generates, which is much more work than a pass.
      max_length: tokens that a trajectory is cut to.
    """
    if asked != "auto":
        return asked
    n, each = folder.count("trajectories"), _bytes_each(folder)
    return fitting(n, each, actors, pass_tokens, max_length)


def fitting(n: float, bytes_each: float, actors: Actors, pass_tokens: int | None, max_length: int) -> int:
    """Trajectories of a block, of n that hold so many bytes of text each: as many as fill some passes, fewer where
    actors would have nothing to do, and more where there would be too many files."""
    tokens = min(max(bytes_each / BYTES_A_TOKEN, 1.0), float(max_length))
    full: float = GENERATED
    if pass_tokens is not None:
        full = PASSES["gpu" if actors.num_gpus else "cpu"] * pass_tokens / tokens
    shared_out = n / (BLOCKS * actors.most)
    return max(1, round(min(full, shared_out)), math.ceil(n / FILES))


def _bytes_each(folder: RunFolder) -> float:
    """Of a trajectory's messages, about, by what some files say of themselves."""
    parts = folder.parts("trajectories")
    size = rows = 0
    for i in np.unique(np.linspace(0, len(parts) - 1, min(len(parts), _PARTS)).astype(int)):
        with folder.filesystem.open_input_file(parts[i]) as file:
            held = pq.read_metadata(file)
        rows += held.num_rows
        for group in map(held.row_group, range(held.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            size += sum(c.total_uncompressed_size for c in columns if c.path_in_schema.startswith("messages."))
    return size / max(rows, 1)
