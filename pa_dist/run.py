"""A run folder: where a run's tables are, which stages are done, and what they were made from.

`manifest.json` holds the resolved config and, for each stage, the settings that decide its numbers. A stage whose
settings are the same is skipped; one made with others is an error that prints the difference.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist import __version__
from pa_dist.errors import RunFolderError, first_line, shown
from pa_dist.schema import SCHEMA_VERSION

# What a run folder holds while ingest is at work.
STAGING = "staging"
TABLES = ("trajectories", "rejects", "logprobs", "steps", "scores", "selections", "attributions")
# Tables of one file, with the same records beside it as JSON.
FILES = ("metrics", "comparisons")
# And while evaluate is: what its tasks leave for each other.
REDUCING = "reducing"
# And while scoring is: ids of the rows that are done, a file for each file of `logprobs` or `rejects`.
CHECKPOINT = "checkpoint"
LOG = "run.log"
# What the names begin with of files that say who is at work.
CLAIM = "at_work-"
# A folder for each alpha of a sweep of merged references, and their metrics together.
ALPHAS = "alphas"
# The page that shows a run, with its figures.
REPORT = "report"
# A folder for each reward model: its table, and its checkpoint while it is at work.
REWARDS = "rewards"
REWARDS_CHECKPOINT = "checkpoint_rewards"

FILES_AT_ONCE = 16
# Of tasks that look at every file of a table.
FILES_A_TASK, MOST_TASKS = 64, 64


@dataclass(frozen=True)
class RunFolder:
    """A folder of Parquet tables at a local path or any URI that pyarrow's file systems reach."""

    uri: str
    alpha: float | None = None
    """Set for the part of it that holds the scores of a merged reference: a run folder in the folder, whose
    trajectories and log are those of the whole."""

    @staticmethod
    def of(address: str) -> "RunFolder":
        """The run folder at an address, or the part of one for an alpha: `OUT/alphas/0.5`."""
        body, mark, options = address.partition("?") if "://" in address else (address, "", "")
        whole, between, name = body.rstrip("/").rpartition(f"/{ALPHAS}/")
        if not between and body.startswith(f"{ALPHAS}/"):  # in the run folder itself
            whole, between, name = ".", "/", body.rstrip("/").removeprefix(f"{ALPHAS}/")
        try:
            part = RunFolder(whole + mark + options, float(name)) if between else None
        except ValueError:
            part = None
        # A run of its own may lie at such an address too: it has trajectories.
        return RunFolder(address) if part is None or RunFolder(address).parts("trajectories") else part

    @property
    def whole(self) -> "RunFolder":
        """The run that it is a part of; of a run, itself."""
        return self if self.alpha is None else RunFolder(self.uri)

    @cached_property
    def _location(self) -> tuple[pafs.FileSystem, str]:
        try:
            return pafs.FileSystem.from_uri(self.uri) if "://" in self.uri else _local(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFolderError(f"{self}: {first_line(error).replace(self.uri, str(self))}") from None

    def __str__(self) -> str:
        name = shown(self.uri).replace("\n", "\\n")  # of a folder that is asked for and cannot be one
        return name if self.alpha is None else f"{name}, alpha {self.alpha!r}"

    @property
    def label(self) -> str:
        """What lines about it begin with: nothing, or the alpha."""
        return "" if self.alpha is None else f"alpha {self.alpha!r}: "

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._location[0]

    def path(self, *parts: str) -> str:
        """Path below the folder, in the terms of `filesystem`."""
        return "/".join([self._location[1].rstrip("/"), *self._own(parts), *parts])

    def below(self, *parts: str) -> str:
        """Path or URI of a file below the folder, as a config names one."""
        body, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return "/".join([body.rstrip("/"), *self._own(parts), *parts]) + mark + options

    def _own(self, parts: tuple[str, ...]) -> list[str]:
        shared = self.alpha is None or parts[:1] in (("trajectories",), (LOG,))
        return [] if shared else [ALPHAS, repr(self.alpha)]

    def write(self, table_name: str, part: str, table: pa.Table, **encoding: Any) -> None:
        """Write one Parquet file `table_name/part.parquet`, replacing it in one step: readers see all of it or none."""
        self.filesystem.create_dir(self.path(table_name), recursive=True)
        with self.replacing(table_name, f"{part}.parquet") as path:
            pq.write_table(table, path, filesystem=self.filesystem, **{"compression": "zstd", **encoding})

    @contextmanager
    def replacing(self, *parts: str) -> Iterator[str]:
        """Where to write a file that then takes its place in one step."""
        *above, name = parts
        if self.filesystem.type_name in ("s3", "gcs", "abfs"):
            yield self.path(*parts)  # an object appears when its upload ends, and moving one would copy it
            return
        hidden = self.path(*above, f".{name}.{uuid.uuid4().hex}")
        try:
            yield hidden
            self.filesystem.move(hidden, self.path(*parts))
        except BaseException:
            if self.filesystem.get_file_info(hidden).type is not pafs.FileType.NotFound:
                self.filesystem.delete_file(hidden)
            raise

    def parts(self, table_name: str, prefix: str = "") -> list[str]:
        """Paths of a table's files whose names start with `prefix`, in name order."""
        selector = pafs.FileSelector(self.path(table_name), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(f.path for f in found if f.base_name.startswith(prefix) and f.extension == "parquet")

    def shares(self, table_name: str) -> list[list[str]]:
        """The same shared out among tasks: `FILES_A_TASK` each, or as many as make `MOST_TASKS` of them."""
        paths = self.parts(table_name)
        size = max(FILES_A_TASK, -(-len(paths) // MOST_TASKS))
        return [paths[start : start + size] for start in range(0, len(paths), size)]

    def clear(self, table_name: str, prefix: str = "") -> None:
        """Delete a table's files whose names start with `prefix`."""
        for path in self.parts(table_name, prefix):
            self.filesystem.delete_file(path)
        self.clear_hidden(table_name, prefix)

    def clear_hidden(self, table_name: str, prefix: str = "") -> None:
        """Delete files that a killed process never put in place."""
        selector = pafs.FileSelector(self.path(table_name), allow_not_found=True)
        for file in self.filesystem.get_file_info(selector):
            if file.base_name.startswith(f".{prefix}"):
                self.filesystem.delete_file(file.path)

    def dataset(self, table_name: str, schema: pa.Schema | None = None) -> pads.Dataset:
        """A table as a pyarrow dataset, read by `schema` where one is given."""
        return self.files(self.parts(table_name), schema)

    def files(self, paths: Sequence[str], schema: pa.Schema | None = None) -> pads.Dataset:
        """Files of one table as a dataset. Here, in `read_table` and in `score.stream` alone is Parquet opened by its
        path, and no folder of a path is a column: `domain=all` is a name like any other."""
        return pads.dataset(list(paths), filesystem=self.filesystem, format="parquet", schema=schema, partitioning=None)

    def read_table(self, path: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
        """One file, or some of its columns."""
        named = None if columns is None else list(columns)
        return pq.read_table(path, filesystem=self.filesystem, columns=named, schema=schema, partitioning=None)

    def batches(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A table of one file, or some of its columns, some rows at a time: of many groups there are many."""
        with pq.ParquetFile(self.path(name), filesystem=self.filesystem) as file:
            for batch in file.iter_batches(columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([batch])

    @cached_property
    def rooted(self) -> pafs.SubTreeFileSystem:
        """The folder as a file system of its own, for what takes more from a path than where a file is: Ray's readers
        take a folder `domain=all` for a column, also those that cannot be told not to, and a `?` for options."""
        return pafs.SubTreeFileSystem(self._location[1], self.filesystem)

    def inside(self, path: str) -> str:
        """A path of `filesystem` in the terms of `rooted`."""
        return path.removeprefix(self._location[1]).lstrip("/")

    def count(self, table_name: str, prefix: str = "") -> int:
        """Rows of a table, read from its files' footers, many at a time."""
        return self.count_rows(self.parts(table_name, prefix))

    def count_rows(self, paths: list[str]) -> int:
        """Rows of some of its files."""
        return sum(dataset.count_rows() for dataset in self.datasets(paths))

    def datasets(self, paths: list[str], schema: pa.Schema | None = None) -> Iterator[pads.Dataset]:
        """Files as datasets of a bounded number: one holds the footers of all files that it has looked at."""
        for start in range(0, len(paths), FILES_AT_ONCE):
            yield self.files(paths[start : start + FILES_AT_ONCE], schema)

    def write_json(self, name: str, value: Any) -> None:
        self.filesystem.create_dir(self.path(), recursive=True)
        with self.replacing(name) as path, self.filesystem.open_output_stream(path) as out:
            out.write((json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def log(self, line: str) -> None:
        """Append a line to the run's log, with the time. A log that cannot be written is no reason to stop."""
        entry = f"{datetime.now(UTC).isoformat(timespec='seconds')} {self.label}{line}\n".encode()
        with suppress(OSError):
            self.filesystem.create_dir(self.path(), recursive=True)
            try:
                out = self.filesystem.open_append_stream(self.path(LOG))
            except NotImplementedError:  # objects cannot grow
                entry = (self.read(LOG) or b"") + entry
                out = self.filesystem.open_output_stream(self.path(LOG))
            with out:
                out.write(entry)

    def logged(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` that also writes to the run's log, and names the alpha where the folder is one's."""

        def both(line: str) -> None:
            self.log(line)
            say(f"{self.label}{line}")

        return both

    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifest holds; of a new folder, an empty one."""
        try:
            content = self.read("manifest.json")
            if content is None:
                return _new_manifest()
            manifest: dict[str, Any] = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{self}/manifest.json: {first_line(error)}") from None
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise RunFolderError(f"{self}: tables of schema version {version}, this is {SCHEMA_VERSION}")
        if version is None or not _sections(manifest.get("stages")) or not isinstance(manifest.get("config", {}), dict):
            raise RunFolderError(f"{self}/manifest.json: not of a run; take another output")
        return manifest

    def is_done(self, stage: str, settings: dict[str, Any]) -> bool:
        """Whether a stage finished with exactly these settings.

        Raises:
          RunFolderError: it ran, finished or not, with other settings; the message holds the difference.
        """
        record = self.manifest["stages"].get(stage)
        if record is None:
            return False
        changes = difference(record["settings"], settings)
        if changes:
            raise RunFolderError(
                f"{self}: made with other settings ({'; '.join(changes)}); take another output, or --fresh"
            )
        return bool(record["done"])

    def is_ours(self) -> bool:
        """Whether this is a run folder, and not one that is empty or still to be made.

        Raises:
          RunFolderError: something else lies there, or nothing can.
        """
        try:
            selector = pafs.FileSelector(self.path(), allow_not_found=True)
            found = {file.base_name for file in self.filesystem.get_file_info(selector)}
        except OSError as error:
            raise self.unusable(error) from None
        if "manifest.json" in found:
            return True
        if strange := sorted(name for name in found - {LOG} if not name.startswith((".", CLAIM))):
            raise RunFolderError(f"{self}: holds {strange[0]!r} and is no run folder; take another output")
        return False

    def claim(self) -> None:
        """Make this a run folder, with a manifest. Raises as `is_ours`."""
        try:
            if not self.is_ours():
                self.write_json("manifest.json", _new_manifest())
        except OSError as error:
            raise self.unusable(error) from None

    def unusable(self, error: OSError) -> RunFolderError:
        """Why nothing can be written or read here, as an error of ours."""
        why = os.strerror(error.errno) if error.errno else first_line(error)
        return RunFolderError(f"{self}: cannot be a run folder: {why}; take another output")

    def start(self, stage: str, settings: dict[str, Any], **facts: Any) -> None:
        """Record that a stage begins."""
        self._record(stage, {"settings": settings, "done": False, **facts})

    def finish(self, stage: str, **facts: Any) -> None:
        """Record that a stage is done, and facts about it (counts, rates, versions)."""
        self._record(stage, {**self.manifest["stages"][stage], "done": True, **facts})

    def _record(self, stage: str, record: dict[str, Any]) -> None:
        manifest = self.manifest
        manifest["stages"][stage] = record
        self.write_json("manifest.json", manifest)

    def remember(self, **entries: Any) -> None:
        """Set top-level entries of the manifest, such as the resolved config."""
        self.write_json("manifest.json", {**self.manifest, **entries})

    def start_over(self) -> None:
        """Delete what a run wrote here, and nothing else. It remains a run folder. Raises as `claim`."""
        self.claim()
        self.write_json("manifest.json", _new_manifest())  # first: what it says is there must be there
        for table_name in TABLES:
            self.clear(table_name)
        for name in (STAGING, REDUCING, CHECKPOINT, REPORT, ALPHAS, REWARDS, REWARDS_CHECKPOINT):
            self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True)
        for name in (*(f"{file}.{kind}" for file in FILES for kind in ("parquet", "json")), f"{ALPHAS}.parquet", LOG):
            if self.filesystem.get_file_info(self.path(name)).type is not pafs.FileType.NotFound:
                self.filesystem.delete_file(self.path(name))


def _sections(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(section, dict) for section in value.values())


def _new_manifest() -> dict[str, Any]:
    return {"pa_dist": __version__, "schema_version": SCHEMA_VERSION, "stages": {}}


def difference(was: Any, now: Any, key: str = "") -> list[str]:
    """Each leaf that differs between two JSON-like trees, as `key.path: was -> now`."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [*was, *(name for name in now if name not in was)]
        return [d for name in names for d in difference(was.get(name), now.get(name), f"{key}.{name}".lstrip("."))]
    return [] if was == now else [f"{key}: {_short(was)} -> {_short(now)}"]


def without_secrets(tree: Any) -> Any:
    """A JSON-like tree with every URI in it as `shown`."""
    if isinstance(tree, dict):
        return {name: without_secrets(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_secrets(value) for value in tree]
    return shown(tree) if isinstance(tree, str) else tree


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _local(path: str) -> tuple[pafs.FileSystem, str]:
    return pafs.LocalFileSystem(), str(Path(path).absolute())
