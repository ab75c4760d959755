"""Files known again by what they hold: copied or synced once more, with another time, they are the same files.

What a stage was made from is named by a mark, a digest of names, sizes and times as they were at first sight. While the
stage is at work the files are read to their end in the background, and `contents.json` keeps what they held; only files
of another time are ever read again.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from pa_dist.store.folder import CONTENTS, RunFolder

_CHUNK = 1 << 20


class File(Protocol):
    """A file that a stage reads."""

    @property
    def name(self) -> str:
        """Of it among the others."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def modified(self) -> str:
        """When, as far as its file system says."""
        ...

    def open(self) -> Any:
        """A context manager that gives its bytes."""
        ...


def mark(folder: RunFolder, files: Sequence[File]) -> str:
    """What names these files: the mark that they were given in this run folder, or one of their own."""
    for known, held in _remembered(folder).items():
        if [(name, size) for name, size, *_ in held] == [(ascii(file.name), file.size) for file in files] and all(
            modified == file.modified or (digest is not None and digest == _digest(file))
            for (_, _, modified, digest), file in zip(held, files, strict=True)
        ):
            return known
    text = "\n".join(f"{file.name} {file.size} {file.modified}" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def read_beside(folder: RunFolder, named: Mapping[str, Sequence[File]]) -> Iterator[None]:
    """Read files by their marks while other work is done, and remember what they hold once both ended."""
    left = {known: files for known, files in named.items() if known not in _remembered(folder)}
    found: dict[str, list[tuple[str, int, str, str | None]]] = {}
    stop = threading.Event()

    def read() -> None:
        for known, files in left.items():
            found[known] = [(ascii(f.name), f.size, f.modified, None if stop.is_set() else _digest(f)) for f in files]

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    thread.join()
    if found:
        folder.write_json(CONTENTS, {**_remembered(folder), **found})


def _digest(file: File) -> str | None:
    """Of a file's content; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open() as source:
            reader: BinaryIO = source
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
    except Exception:  # whatever a file system or a compression raises: then its time alone tells
        return None
    return digest.hexdigest()


def _remembered(folder: RunFolder) -> dict[str, list[tuple[str, int, str, str | None]]]:
    try:
        content = json.loads(folder.read(CONTENTS) or b"{}")
    except ValueError:
        return {}
    return {known: [(n, s, m, d) for n, s, m, d in held] for known, held in content.items()}
