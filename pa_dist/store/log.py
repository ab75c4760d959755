"""A run's log: what was said, with the time.

Objects of an object store cannot grow: there lines wait in memory, and the whole log is written again after some
seconds, when a command ends its work, and when its process ends. One that is killed takes with it what waits.
"""

import atexit
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from pa_dist.store.location import LOG
from pa_dist.store.tables import Tables

SECONDS_BETWEEN_WRITES = 30.0

_writing = threading.Lock()
# Lines that wait, by the folder's address, and when its log was last written.
_waiting: dict[str, list[bytes]] = {}
_written: dict[str, float] = {}
_folders: dict[str, Tables] = {}


def append(folder: Tables, line: str) -> None:
    """Append a line. A log that cannot be written is no reason to stop."""
    entry = f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n".encode()
    with _writing, suppress(OSError):
        folder.filesystem.create_dir(folder.path(), recursive=True)
        try:
            out = folder.filesystem.open_append_stream(folder.path(LOG))
        except NotImplementedError:
            _folders[folder.uri] = folder
            _waiting.setdefault(folder.uri, []).append(entry)
            if time.monotonic() - _written.get(folder.uri, -SECONDS_BETWEEN_WRITES) >= SECONDS_BETWEEN_WRITES:
                _write(folder)
            return
        with out:
            out.write(entry)


def flush(folder: Tables) -> None:
    """Write what waits."""
    with _writing, suppress(OSError):
        if _waiting.get(folder.uri):
            _write(folder)


@atexit.register
def _flush_all() -> None:
    for folder in _folders.values():
        flush(folder)


def _write(folder: Tables) -> None:
    content = (folder.read(LOG) or b"") + b"".join(_waiting[folder.uri])
    with folder.filesystem.open_output_stream(folder.path(LOG)) as out:
        out.write(content)
    _waiting[folder.uri], _written[folder.uri] = [], time.monotonic()
