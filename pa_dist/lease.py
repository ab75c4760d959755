"""One command at a time in a run folder: whoever works there says so, every few seconds, in a file."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.run import RunFolder

NAME = "at_work.json"
BEAT_SECONDS = 5.0
# What nobody renewed for so long was left by a command that died.
STALE_SECONDS = 20.0

_held: set[str] = set()


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Work in a run folder, alone; how that ends, if not well, is the last line of its log.

    Where a command that died had been at work, this takes over: at once if its process was one of this machine, else
    after it was silent for `STALE_SECONDS`.

    Raises:
      RunFolderError: another command is at work there, or the folder is not one of ours.
    """
    if folder.uri in _held:  # a stage of a command that holds it
        yield
        return
    folder.claim()
    lease = _Lease(folder)
    lease.take()
    _held.add(folder.uri)
    try:
        with lease:
            yield
    except PaDistError as error:
        folder.log(f"ended: {error}")
        raise
    finally:
        _held.discard(folder.uri)


class _Lease:
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._mine = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Wait for what a dead command left to grow stale, and write our own. Raises `RunFolderError`."""
        there = self._there()
        if there is not None and not self._is_dead(there):
            began = time.monotonic()
            while (now := self._there()) == there and time.monotonic() - began < STALE_SECONDS:
                time.sleep(0.5)
            if now is not None and now != there:
                raise RunFolderError(
                    f"{self._folder}: process {now.get('pid')} on {now.get('host')} is at work here; take another "
                    "output, or wait"
                )
        self._write()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if (self._there() or {}).get("id") == self._mine["id"]:
                self._folder.filesystem.delete_file(self._folder.path(NAME))

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file system that falters is no reason to stop
                if (self._there() or self._mine).get("id") != self._mine["id"]:
                    self._folder.log("another command took this folder over while this one was suspended")
                    return
                self._write()

    def _write(self) -> None:
        self._folder.write_json(NAME, {**self._mine, "at": time.time()})

    def _there(self) -> dict[str, Any] | None:
        try:
            content = self._folder.read(NAME)
            found = json.loads(content) if content else None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else None

    def _is_dead(self, there: dict[str, Any]) -> bool:
        """Whether it is of this machine and gone; of another machine one cannot know."""
        pid = there.get("pid")
        if there.get("host") != self._mine["host"] or not isinstance(pid, int):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return pid == self._mine["pid"]
