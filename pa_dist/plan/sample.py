"""A sample of a corpus: whole files into a table as ingest makes it, and whole blocks of that as scoring takes them."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.config import Trajectories
from pa_dist.ingest.sources import Source, expand
from pa_dist.ingest.tables import ingest
from pa_dist.store.folder import RunFolder

# A corpus of no more is read whole; of a larger one, files that come to so many bytes.
READ_BYTES = 128 << 20
# The column of what a row's tokens go by: characters, up to about as many as are not cut. It is known of every row that
# is read; how many make a token decides only how well totals are estimated by it.
SIZE = "size"
CHARACTERS_OF_A_TOKEN, FRAME = 4.0, 12.0
# Blocks that follow each other, so that what one leaves to the next is seen.
RUN = 2
# Fewer say nothing of how much blocks differ.
LEAST_BLOCKS = 4


@dataclass(frozen=True)
class Corpus:
    """What was read of a corpus, and how much that is."""

    files: int
    read_files: int
    bytes: int
    read_bytes: int
    read: float
    """Records of the whole corpus, usable or not; more than were read where not all files were."""
    rows: float
    """Of its `trajectories`, after the limit."""
    rejects: dict[str, float]
    """Of its ingest, by reason."""
    table: pa.Table
    """The rows that were read, in the table's order, with their `SIZE`."""

    @property
    def whole(self) -> bool:
        """Whether all of it was read."""
        return self.read_files == self.files

    @property
    def size(self) -> float:
        """Of all rows; of those that were not read, as of the others."""
        return float(self.table[SIZE].to_numpy().sum()) * self.rows / max(len(self.table), 1)


def read_corpus(config: Trajectories, folder: RunFolder, max_length: int, read_bytes: int = READ_BYTES) -> Corpus:
    """Ingest a corpus, or whole files of it that are spread over it evenly.

    Args:
      folder: an empty one, for the tables.
      max_length: tokens that a trajectory is cut to, for the sizes.

    Raises:
      ConfigError: a path matches nothing.
    """
    sources = expand(config.paths)
    total = sum(source.size for source in sources)
    chosen = sources if total <= read_bytes else _spread(sources, read_bytes)
    if whole := len(chosen) == len(sources):
        counts = ingest(config, folder, map, chosen)
    else:  # which trajectories a limit would keep is known when all have been read
        counts = ingest(config.model_copy(update={"limit": None}), folder, map, chosen)
    held = sum(source.size for source in chosen)
    more = 1.0 if whole else total / max(held, 1)
    table = folder.dataset("trajectories", schema.TRAJECTORIES).to_table()
    sizes = np.minimum(characters(table), max_length * CHARACTERS_OF_A_TOKEN)
    rejects = folder.dataset("rejects", schema.REJECTS).to_table(columns=["reason"])["reason"].to_pylist()
    return Corpus(
        files=len(sources),
        read_files=len(chosen),
        bytes=total,
        read_bytes=held,
        read=counts.read * more,
        rows=counts.kept if whole else min(counts.kept * more, config.limit or float("inf")),
        rejects={why: n * more for why, n in Counter(map(kind, rejects)).items()},
        table=table.append_column(SIZE, pa.array(sizes, pa.float64())),
    )


def characters(trajectories: pa.Table) -> NDArray[np.float64]:
    """[rows] bytes of the messages' contents and of their calls' arguments, and a few for each message's frame."""
    lists = pa.concat_arrays([pa.array([], trajectories["messages"].type), *trajectories["messages"].chunks])
    messages, rows = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
    calls = pc.struct_field(messages, "tool_calls")
    arguments, callers = pc.struct_field(pc.list_flatten(calls), "arguments"), pc.list_parent_indices(calls).to_numpy()
    texts = ((rows, pc.struct_field(messages, "content")), (rows[callers], arguments))
    found = (np.bincount(rows, minlength=len(lists)) * FRAME).astype(np.float64)
    for owners, text in texts:
        lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy()
        found += np.bincount(owners, weights=lengths, minlength=len(lists))
    return found


def _spread(sources: Sequence[Source], read_bytes: int) -> list[Source]:
    """Files that lie evenly over all, at least one. The trials of a task may lie in a file each: these go together."""
    together: dict[str, list[Source]] = {}
    for source in sources:
        path = PurePosixPath(source.path)
        together.setdefault(str(path if source.trial is None else path.parents[1] / path.name), []).append(source)
    groups = list(together.values())
    wanted = max(1, int(len(groups) * read_bytes / sum(source.size for source in sources)))
    return [source for at in _evenly(wanted, len(groups)) for source in groups[at]]


def _evenly(wanted: int, there: int) -> list[int]:
    """So many of as many indices, in the middle of equal parts."""
    return [(2 * i + 1) * there // (2 * wanted) for i in range(wanted)]


def kind(reason: str) -> str:
    """A reject's reason without what it names, so that equal ones are counted together."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[0-9]+", "…", reason.partition(": first in ")[0])


@dataclass(frozen=True)
class Block:
    """Rows of the table that an actor is given at a time."""

    rows: pa.Table
    follows: bool
    """The one before it is the block before it in the table, or it is the table's first."""
    counts: bool
    """Its figures count. A block that does not is run for what it leaves to the next."""


def blocks(table: pa.Table, rows_per_block: int, sample: int) -> list[list[Block]]:
    """Runs of blocks that hold about `sample` rows, spread over the table evenly; all of it where it has not more, or
    where half of it would have to be read for that."""
    n = -(-len(table) // rows_per_block)
    wanted = max(-(-sample // rows_per_block), LEAST_BLOCKS)
    n_runs = -(-wanted // RUN)
    if len(table) <= sample or 2 * n_runs * (1 + RUN) >= n:
        return [list(_run(table, rows_per_block, 0, n))] if n else []
    starts = [at - RUN // 2 for at in _evenly(n_runs, n)]
    return [list(_run(table, rows_per_block, start, start + RUN)) for start in starts]


def _run(table: pa.Table, rows_per_block: int, start: int, stop: int) -> Iterator[Block]:
    for at in range(max(0, start - 1), stop):
        rows = table.slice(at * rows_per_block, rows_per_block)
        yield Block(rows, follows=at == 0 or at >= start, counts=at >= start)
