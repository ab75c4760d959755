"""Files to read, from paths, folders, globs and URIs."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs as pafs

from pa_dist.errors import ConfigError, shown
from pa_dist.ingest import local

_NAME = re.compile(r"(?P<stem>.*?)\.(?:json|jsonl|ndjson|parquet|eval)(?:\.(?:gz|zst|bz2|xz))?", re.DOTALL)
_GLOB = re.compile(r"[*?\[]")


class Unreadable(Exception):
    """A file that could not be opened, or not read to its end. Its reader's caller turns it into a reject."""


class _NoFiles(Exception):
    """Why an entry names no file."""


def natural(name: str) -> str:
    """A string that sorts as `name` does with its numbers compared as numbers: task 2 before task 10.

    Each run of digits is led by its length, so that plain string order (Arrow's, too) is the natural one.
    """
    return re.sub("[0-9]+", lambda m: f"{len(m[0].lstrip('0')):06d}{m[0].lstrip('0')}", name)


@dataclass(frozen=True)
class Source:
    """A file to read."""

    name: str
    """As reports show it: without a URI's credentials and options."""
    entry: str
    """The configured path it came from, which says how to reach it."""
    path: str
    """Path in the terms of that file system."""
    size: int
    modified: str = ""
    """When, as far as its file system says."""
    fault: str | None = None
    """Why there is nothing to read: a link that leads nowhere, or round in a circle."""

    @property
    def file_name(self) -> str:
        """Without its folders."""
        return PurePosixPath(shown(self.path)).name

    @property
    def parent(self) -> str:
        """Name of the folder it lies in."""
        return PurePosixPath(shown(self.path)).parent.name

    @property
    def stem(self) -> str:
        """File name without `.json`, `.jsonl`, `.parquet`, `.eval` and a compression's suffix."""
        match = _NAME.fullmatch(self.file_name)
        return _unicode(match["stem"] if match else self.file_name)

    @property
    def trial(self) -> int | None:
        """Of a best-of-N set laid out as `trial_<i>/<domain>.json`, i."""
        match = re.fullmatch("trial_([0-9]{1,18})", self.parent)
        return int(match[1]) if match else None

    @contextmanager
    def open(self) -> Iterator["Guarded"]:
        """The file's bytes, decompressed by its suffix. Raises `Unreadable`."""
        self._check()
        try:
            filesystem, _ = _filesystem(self.entry)
            zst = self.path.endswith(".zst")  # fsspec reads it only with another package; Arrow has it built in
            file = filesystem.open(self.path, "rb", compression=None if zst else "infer")
            file = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") if zst else file
        except Exception as error:  # as in Guarded.read
            raise Unreadable(_line(error)) from error
        try:
            yield Guarded(file)
        finally:
            file.close()

    @contextmanager
    def open_seekable(self) -> Iterator[Any]:
        """The file as it is, for a library that reads it from its end. Raises `Unreadable`."""
        self._check()
        try:
            filesystem, _ = _filesystem(self.entry)
            file = filesystem.open(self.path, "rb")
        except Exception as error:  # as in Guarded.read
            raise Unreadable(_line(error)) from error
        try:
            yield file
        finally:
            file.close()

    def _check(self) -> None:
        if self.fault is not None:
            raise Unreadable(self.fault)


class Guarded:
    """A file whose every fault on reading is `Unreadable`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        """As a file's. Raises `Unreadable`."""
        try:
            data: bytes = self._file.read(size)
        # Each file system and decompressor has errors of its own (OSError, EOFError, zlib.error, ClientError ...) and a
        # file that cannot be read must not end the run. Nothing but I/O happens in this block.
        except Exception as error:
            raise Unreadable(_line(error)) from error
        return data


class Expanded(NamedTuple):
    """What entries name."""

    sources: list[Source]
    twice: list[tuple[str, str]]
    """Names that lead to what has been found by another: it is read once, by that other, which comes second."""


def expand(paths: Sequence[str]) -> list[Source]:
    """Files that the entries name, as `look_up` finds them."""
    return look_up(paths).sources


def look_up(paths: Sequence[str], key: str = "trajectories.paths") -> Expanded:
    """Files that the entries of a config's key name, each once, in natural order of their paths.

    A folder stands for all `.json`, `.jsonl`, `.parquet` and `.eval` files below it, compressed ones too, hidden ones
    left out. Links are followed; one that leads nowhere or back to where it lies is a source that cannot be read.

    Raises:
      ConfigError: an entry matches nothing, or its file system cannot be reached.
    """
    found: dict[tuple[str, str], list[Source]] = {}
    twice: list[tuple[str, str]] = []
    for entry in paths:
        try:
            sources, again = _match(entry)
        except _NoFiles as error:
            raise ConfigError(f"{key}: {error}") from None
        if not sources:
            raise ConfigError(f"{key}: nothing matches {shown(entry)!r}")
        twice += again
        for source in sources:
            where = (_scheme(entry), local.real(source.path) if _is_local(entry) else source.path)
            found.setdefault(where, []).append(source)
    taken = []
    for (_, path), sources in found.items():
        # By its own name rather than by a link's.
        first = min(sources, key=lambda source: (source.path != path, _order(source.path)))
        taken.append(first)
        twice += [(source.name, first.name) for source in sources if source.path != first.path]
    return Expanded(sorted(taken, key=lambda s: (_order(s.path), s.name)), list(dict.fromkeys(twice)))


def _order(path: str) -> tuple[list[str], str]:
    return [natural(part) for part in path.split("/")], path


def _is_local(entry: str) -> bool:
    return isinstance(_filesystem(entry)[0], LocalFileSystem)


def _scheme(entry: str) -> str:
    return urlsplit(entry).scheme if "://" in entry else "file"


@lru_cache(maxsize=64)
def _filesystem(entry: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an entry and the entry's path in it, globs included."""
    try:
        if "://" not in entry:
            return fsspec.filesystem("file"), local.absolute(entry)
        # Arrow parses URIs strictly, and takes options behind a `?`: it gets the folders in front of the first glob.
        body, mark, options = entry.partition("?")
        glob = _GLOB.search(body)
        folder = body[: body.rindex("/", 0, glob.start()) + 1] if glob else body
        try:
            filesystem, path = pafs.FileSystem.from_uri(folder + mark + options)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return fsspec.core.url_to_fs(entry)  # type: ignore[no-any-return]
        path = path.rstrip("/") + "/" + unquote(body[len(folder) :]) if glob else path
        if filesystem.type_name == "local":
            return fsspec.filesystem("file"), path
        return ArrowFSWrapper(filesystem, skip_instance_cache=True), path
    except (OSError, ValueError, ImportError) as error:
        raise _wrong(entry, error) from None


def _match(entry: str) -> tuple[list[Source], list[tuple[str, str]]]:
    """An entry's sources, and folders that it has by two names."""
    filesystem, path = _filesystem(entry)
    try:
        if isinstance(filesystem, LocalFileSystem):
            return _match_here(entry, path)
        if filesystem.exists(path):
            infos = [filesystem.info(path)]
        else:
            infos = list(filesystem.glob(path, detail=True).values()) if _GLOB.search(path) else []
        files = [file for info in infos for file in _files(filesystem, info)]
    except (OSError, ValueError) as error:
        raise _wrong(entry, error) from None
    return [Source(_shown(entry, f["name"]), entry, f["name"], f.get("size") or 0, _modified(f)) for f in files], []


def _match_here(entry: str, path: str) -> tuple[list[Source], list[tuple[str, str]]]:
    sources, again = [], []
    for found in local.find(path, lambda name: _NAME.fullmatch(name) is not None):
        name = _shown(entry, found.path)
        if found.same_as is not None:
            again.append((name, _shown(entry, found.same_as)))
        elif found.fault is not None:
            sources.append(Source(name, entry, found.path, 0, fault=found.fault))
        else:
            status = os.stat(found.path)  # noqa: PTH116
            sources.append(Source(name, entry, found.path, status.st_size, str(status.st_mtime)))
    return sources, again


def _wrong(entry: str, error: Exception) -> _NoFiles:
    return _NoFiles(f"{shown(entry)!r}: {_line(error).replace(entry, shown(entry))}")


def _modified(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in ("mtime", "LastModified", "last_modified", "updated") if info.get(key)), ""))


def _files(filesystem: fsspec.AbstractFileSystem, info: dict[str, Any]) -> list[dict[str, Any]]:
    if info["type"] != "directory":
        return [info]
    below = filesystem.find(info["name"], detail=True).values()
    return [file for file in below if _is_data(file["name"][len(info["name"]) :])]


def _is_data(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not any(part.startswith(".") for part in parts) and _NAME.fullmatch(parts[-1]) is not None


def _shown(entry: str, path: str) -> str:
    if "://" in entry:
        return shown(path if "://" in path else f"{_scheme(entry)}://{path}")
    return _unicode(path if os.path.isabs(entry) else os.path.relpath(path))  # noqa: PTH117


def _unicode(name: str) -> str:
    """A file name as text that Arrow holds; Linux lets one be any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
