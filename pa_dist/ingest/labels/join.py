"""Join files of labels to `trajectories`: writes the table `labels`, and rows of `rejects`. One task's work."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.errors import ConfigError
from pa_dist.ingest import records
from pa_dist.ingest.labels.files import KEYS, LABELS, Row, rows
from pa_dist.ingest.labels.match import NONE, SEVERAL, match
from pa_dist.ingest.labels.said import Said, joined, said, together
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.sources import Source, Unreadable
from pa_dist.ragged import Ints
from pa_dist.store.folder import RunFolder

KEY = "evaluate.labels"
TABLE, STAGE = "labels", "labels"
REJECTS = f"{STAGE}-"
"""What the names of its files of `rejects` begin with."""
_KEYS = [key.name for key in schema.KEYS]
_OWN = ["reward", "mistake_step", "mistake_agent", "step_labels"]
_READ = ["trajectory_id", *_OWN, "messages.list.element.role"]
_GIVEN = pa.schema(
    [
        *(key.with_nullable(True) for key in schema.KEYS),
        pa.field("source", pa.int32()),
        pa.field("place", pa.string()),
        pa.field("labels", pa.large_string()),  # JSON
    ]
)
_FLUSH_ROWS = 10_000
# Conversations held at a time.
_BATCH_ROWS = 1024
_WHY = {
    NONE: ("unmatched", "no trajectory of this run has these keys"),
    SEVERAL: (
        "ambiguous",
        "several trajectories have these keys; trial, benchmark, domain or behavior tell them apart",
    ),
}


@dataclass
class Joined:
    """What became of the rows.

    Attributes:
      sha256: of the files' content, one after the other.
      counts: rows; labelled, trajectories that they gave labels; doubled, rows beside another of the same trajectory,
        which they do not contradict; and rows that are not used: contradicting, unmatched, ambiguous, unusable.
      strange: the keys of the first row that is unmatched.
    """

    sha256: str
    counts: Counter[str] = field(default_factory=Counter)
    strange: str | None = None


@dataclass(frozen=True)
class Job:
    """Files to join, and the bytes that it takes."""

    sources: Sequence[Source]
    memory: int


def join(folder: RunFolder, job: Job) -> Joined:
    """Replace what an earlier join left.

    Raises:
      ConfigError: a file is not there any more.
    """
    found = Joined(_sha256(job.sources))
    folder.clear(TABLE)
    folder.clear("rejects", REJECTS)
    with _Parts(folder, "rejects", REJECTS, schema.REJECTS) as rejects:
        refuse = _Refusals(rejects, job.sources, found.counts)
        given = _read(job.sources, refuse)
        at = match(given, folder.columns("trajectories", _KEYS))
        order = np.argsort(at, kind="stable")  # those of no trajectory first
        given, at = given.take(pa.array(order)), at[order]
        n_lost = int(np.searchsorted(at, 0))
        found.strange = _refuse_lost(given.slice(0, n_lost), at, refuse)
        with _Parts(folder, TABLE, "part-", schema.JOINED) as table:
            for own, theirs in _of_each(folder, given.slice(n_lost), at[n_lost:]):
                if (labels := _labels(own, theirs, refuse)) is not None:
                    found.counts["labelled"] += 1
                    table.add({"trajectory_id": own["trajectory_id"], **labels})
    return found


class _Parts:
    """Files of a table, some rows each; none without rows."""

    def __init__(self, folder: RunFolder, table: str, prefix: str, of: pa.Schema) -> None:
        self._folder, self._table, self._prefix, self._schema = folder, table, prefix, of
        self._rows: list[dict[str, Any]] = []
        self._n = 0

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._rows and error is None:
            self._flush()

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, sooner or later."""
        self._rows.append(row)
        if len(self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        name = f"{self._prefix}{self._n:05d}"
        self._folder.write(self._table, name, pa.Table.from_pylist(self._rows, self._schema))
        self._n += 1
        self._rows.clear()


@dataclass(frozen=True)
class _Refusals:
    """Rows that are not used: counted, and written to `rejects`."""

    rejects: _Parts
    sources: Sequence[Source]
    counts: Counter[str]

    def __call__(self, row: Row, reason: str, kind: str = "unusable") -> None:
        self.counts[kind] += 1
        source, place = self.sources[row["source"]].name, row["place"]
        self.rejects.add({"source": source, "place": place, "stage": STAGE, "reason": reason})


def _sha256(sources: Sequence[Source]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        try:
            with source.open_seekable() as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except Unreadable as error:
            raise ConfigError(f"{KEY}: {source.name}: {error}") from None
    return digest.hexdigest()


def _read(sources: Sequence[Source], refuse: _Refusals) -> pa.Table:
    """All rows with a key, packed: a million are some hundred MB."""
    batches, pending = [], []
    for number, source in enumerate(sources):
        for place, row in rows(source):
            refuse.counts["rows"] += 1
            where = {"source": number, "place": place}
            try:
                if isinstance(row, Unusable):
                    raise row
                labels = {name: row[name] for name in LABELS if row.get(name) is not None}
                pending.append(_keys(row) | where | {"labels": json.dumps(labels)})
            except Unusable as error:
                refuse(where, str(error))
            except RecursionError:
                refuse(where, "nested too deeply")
            if len(pending) == _FLUSH_ROWS:
                batches.append(pa.RecordBatch.from_pylist(pending, _GIVEN))
                pending.clear()
    batches.append(pa.RecordBatch.from_pylist(pending, _GIVEN))
    return pa.Table.from_batches(batches)


def _keys(row: Row) -> Row:
    found: Row = {name: records.label(row.get(name), name) for name in KEYS if name != "trial"}
    given = found.pop("id")
    found["trajectory_id"] = given if found["trajectory_id"] is None else found["trajectory_id"]
    if found["trajectory_id"] is None and found["task_id"] is None:
        raise Unusable("neither an id nor a task_id")
    return found | {"trial": records.integer(row.get("trial"), "trial")}


def _refuse_lost(given: pa.Table, at: Ints, refuse: _Refusals) -> str | None:
    """Refuse rows that mean no trajectory, or several; says what the first of these gives as keys."""
    strange, codes = None, iter(at.tolist())
    for batch in given.to_batches(_FLUSH_ROWS):
        for row in batch.to_pylist():
            code = next(codes)
            kind, reason = _WHY[code]
            refuse(row, reason, kind)
            if code == NONE and strange is None:
                strange = ", ".join(f"{key} {row[key]}" for key in _KEYS if row[key] is not None)
    return strange


def _of_each(folder: RunFolder, given: pa.Table, at: Ints) -> Iterator[tuple[Row, list[Row]]]:
    """Each trajectory that rows mean, with its messages' roles and its own labels, and those rows; `at`: ascending."""
    start = 0
    for path in folder.parts("trajectories"):
        with pq.ParquetFile(path, filesystem=folder.filesystem) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=_READ):
                low, high = np.searchsorted(at, [start, start + len(batch)])
                places, firsts = np.unique(at[low:high], return_index=True)
                trajectories = batch.take(pa.array(places - start)).to_pylist()
                theirs = given.slice(low, high - low).to_pylist()
                ends = np.append(firsts, len(theirs))[1:]
                for own, first, last in zip(trajectories, firsts, ends, strict=True):
                    yield own, theirs[first:last]
                start += len(batch)


def _labels(own: Row, theirs: list[Row], refuse: _Refusals) -> Said | None:
    """A trajectory's labels, None where no row gives one."""
    usable, given = [], []
    for row in theirs:
        try:
            given.append(said(json.loads(row["labels"]), own["messages"] or []))
            usable.append(row)
        except Unusable as error:
            refuse(row, str(error))
    try:
        later = together(given)
    except Unusable as error:
        for row in usable:
            refuse(row, str(error), "contradicting")
        return None
    refuse.counts["doubled"] += max(len(usable) - 1, 0)
    return joined({name: own[name] for name in _OWN}, later) if later else None
