"""The ingest stage: files in, the tables `trajectories` and `rejects` out.

Three rounds of tasks, so that the driver holds no rows and no task more than a bounded part of them:
read (groups of files into staging), order (all keys, no messages), gather (staging into parts of the table).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from pyarrow import fs as pafs

from pa_dist.config import FileFormat, Trajectories
from pa_dist.ingest.left_behind import KeyCounts
from pa_dist.ingest.order import order, planned
from pa_dist.ingest.read import read
from pa_dist.ingest.recognise import recognise
from pa_dist.ingest.records import Reject, Unusable
from pa_dist.ingest.sources import Source, Unreadable, expand
from pa_dist.ingest.staging import Rejects, Stager, gather
from pa_dist.ingest.step_labels import counted
from pa_dist.mapper import Mapper
from pa_dist.store.folder import STAGING, RunFolder
from pa_dist.trajectory import Trajectory

GROUP_BYTES = 128 << 20
GROUP_FILES = 1000


@dataclass(frozen=True)
class Counts:
    """What ingest did: `read == kept + rejected + left_out_by_limit`."""

    sources: int
    read: int
    kept: int
    rejected: int
    left_out_by_limit: int
    formats: dict[str, int] = field(default_factory=dict)
    """Of `format: auto`, what the files were taken for."""
    told_apart: dict[str, int] = field(default_factory=dict)
    """How many rows got a benchmark, domain, behavior or trial added to an id that others have, too."""
    left_behind: dict[str, int] = field(default_factory=dict)
    """How often keys of messages held something that has no column, the most frequent first."""
    unread: dict[str, int] = field(default_factory=dict)
    """The same of keys of records that nothing reads and `extra` keeps."""
    step_labels: dict[str, int] = field(default_factory=dict)
    """Of trajectories with step labels: how many, and how many labels of each kind; and how many of their mistakes are
    the first wrong ones, as no `mistake_step` was given."""


class _Staged(NamedTuple):
    """What one group left."""

    rows: int
    rejects: int
    formats: Counter[str]
    left_behind: Mapping[str, int]
    unread: Mapping[str, int]
    step_labels: Counter[str]


@dataclass(frozen=True)
class FileGroup:
    """Files that one task reads."""

    index: int
    sources: list[Source]


def ingest(
    config: Trajectories, folder: RunFolder, map_tasks: Mapper, sources: Sequence[Source] | None = None
) -> Counts:
    """Write the tables, replacing what an earlier ingest left.

    Args:
      config: which files, and in which format.
      folder: the run folder.
      map_tasks: runs the tasks; the builtin `map` does.
      sources: the files, where not all are wanted that the config names.

    Raises:
      ConfigError: a path matches nothing. Nothing that a file holds raises: it becomes a row of `rejects`.
    """
    sources = expand(config.paths) if sources is None else sources
    clear(folder)
    folder.filesystem.create_dir(folder.path(STAGING), recursive=True)
    for table in ("trajectories", "rejects"):
        folder.filesystem.create_dir(folder.path(table), recursive=True)

    groups = grouped(sources)
    n_staged = n_unusable = 0
    formats: Counter[str] = Counter()
    step_labels: Counter[str] = Counter()
    left_behind, unread = KeyCounts(), KeyCounts()
    for staged in map_tasks(partial(_read_group, config, folder), groups):
        n_staged += staged.rows
        n_unusable += staged.rejects
        formats += staged.formats
        left_behind.merge(staged.left_behind)
        unread.merge(staged.unread)
        step_labels.update(staged.step_labels)
    (ordered,) = map_tasks(partial(order, folder, config.limit), [len(groups)])
    n_kept = sum(map_tasks(partial(_write_part, folder), range(ordered.n_parts)))
    remove_staging(folder)
    return Counts(
        sources=len(sources),
        read=n_staged + n_unusable,
        kept=n_kept,
        rejected=n_unusable + ordered.n_duplicates,
        left_out_by_limit=ordered.n_left_out,
        formats=dict(formats),
        told_apart=ordered.told_apart,
        left_behind=left_behind.sorted,
        unread=unread.sorted,
        step_labels=dict(step_labels),
    )


def clear(folder: RunFolder) -> None:
    """Delete what an ingest, finished or not, left in the folder."""
    folder.clear("trajectories")
    folder.clear("rejects", "ingest-")
    remove_staging(folder)


def remove_staging(folder: RunFolder) -> None:
    """Delete what tasks left for each other."""
    path = folder.path(STAGING)
    if folder.filesystem.get_file_info(path).type is pafs.FileType.Directory:
        folder.filesystem.delete_dir(path)


def grouped(sources: Sequence[Source]) -> list[FileGroup]:
    """Consecutive files, as many as come to a task's worth of bytes; a larger file goes alone."""
    groups: list[list[Source]] = []
    size = 0
    for source in sources:
        if not groups or size + source.size > GROUP_BYTES or len(groups[-1]) >= GROUP_FILES:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return [FileGroup(i, members) for i, members in enumerate(groups)]


def _read_group(config: Trajectories, folder: RunFolder, group: FileGroup) -> _Staged:
    """Stage a group's rows."""
    recognised: Counter[str] = Counter()
    step_labels: Counter[str] = Counter()
    left_behind, unread = KeyCounts(), KeyCounts()
    limit = config.max_record_mib << 20
    given = {name: getattr(config, name) for name in ("benchmark", "domain", "behavior")}
    overrides = {name: value for name, value in given.items() if value is not None}
    with Stager(folder, group.index) as staged, Rejects(folder, f"ingest-{group.index:05d}") as rejects:
        for source in group.sources:
            format: FileFormat | None = None if config.format == "auto" else config.format
            if format is None:
                try:
                    format = recognise(source, limit)
                except (Unusable, Unreadable) as error:
                    rejects.add(Reject(source.name, "file", str(error)))
                    continue
                recognised[format] += 1
            for item in read(format, source, config.messages_column, limit):
                if isinstance(item, Trajectory):
                    staged.add(replace(item, **overrides), source.name)
                    left_behind.add(item.left_behind)
                    unread.add(dict.fromkeys(item.unread, 1))
                    step_labels.update(counted(item))
                else:
                    rejects.add(item)
        counts = left_behind.counts, unread.counts, step_labels
        return _Staged(staged.count, rejects.count, recognised, *counts)


def _write_part(folder: RunFolder, index: int) -> int:
    """Gather one part of the table; its number of rows."""
    table = gather(folder, *planned(folder, index))
    folder.write("trajectories", f"part-{index:05d}", table)
    return int(table.num_rows)
