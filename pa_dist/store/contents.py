"""Files known again by what they hold: copied or synced once more, with another time, they are the same files.

What a stage was made from is named by a mark, a digest of names, sizes and times as they were at first sight. While the
stage is at work the files are read to their end in the background, and `contents.json` keeps what they held; only files
of another time are read again, once. Of a file that changed while it was read, its time alone tells.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    remembered, now = _remembered(folder), _seen(files)
    for known, held in remembered.items():
        if [(name, size) for name, size, *_ in held] != [(name, size) for name, size, _ in now]:
            continue
        if [(name, size, time) for name, size, time, _ in held] == now:
            return known
        if all(
            time == then or (digest is not None and digest == _digest(file))
            for (_, _, then, digest), (_, _, time), file in zip(held, now, files, strict=True)
        ):
            again = [(*seen, digest) for seen, (*_, digest) in zip(now, held, strict=True)]
            folder.write_json(CONTENTS, {**remembered, known: again})
            return known
    text = "\n".join(f"{file.name} {file.size} {file.modified}" for file in files)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


@contextmanager
def read_beside(folder: RunFolder, named: Mapping[str, Callable[[], Sequence[File]]]) -> Iterator[None]:
    """Read files while other work is done, and remember what they hold once both ended.

    Args:
      named: what lists the files of each mark.
    """
    left = {known: listing for known, listing in named.items() if known not in _remembered(folder)}
    files = {known: listing() for known, listing in left.items()}
    before = {known: _seen(listed) for known, listed in files.items()}
    digests: dict[str, list[str | None]] = {}
    stop = threading.Event()

    def read() -> None:
        for known, listed in files.items():
            digests[known] = [_digest(file, stop) for file in listed]

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    thread.join()
    found = {
        known: [(*of, digest) for of, digest in zip(seen, digests[known], strict=True)]
        for known, seen in before.items()
        if seen == _seen(left[known]())
    }
    if found:
        folder.write_json(CONTENTS, {**_remembered(folder), **found})


def _seen(files: Sequence[File]) -> list[tuple[str, int, str]]:
    """Of each its name, size and time; a name may hold what is no text."""
    return [(ascii(file.name), file.size, file.modified) for file in files]


def _digest(file: File, stop: threading.Event | None = None) -> str | None:
    """Of a file's content; None where it cannot be read, or nobody waits for it any more."""
    digest = hashlib.sha256()
    try:
        with file.open() as source:
            reader: BinaryIO = source
            while chunk := reader.read(_CHUNK):
                if stop is not None and stop.is_set():
                    return None
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
