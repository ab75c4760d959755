"""One command at a time in a run folder: whoever works there says so, every few seconds, in a file of its own.

Such a file is a claim. A command writes its claim, and only then looks for others: it works if it sees none that lives.
Of two commands the one that writes later sees the other's claim, so they never both work, wherever a file that was
written is seen by whoever looks next: on local disks, and on S3, GCS and Azure, which all promise it. Of several that
ask at once the one of the lowest id waits until the others saw it and went, so one of them gets to work. A claim that
nobody renewed for `STALE_SECONDS`, by the clock of who looks, was left by a command that died, and is taken over under
the same rule; one that was only suspended finds that out and ends.

On a local path the kernel's lock on a file decides first: it ends with its process, and refuses a second command at
once. It reaches other machines where the file system's locks do (NFS); where they do not, and listings are cached as
well, two machines could miss each other for as long as a listing stays in their caches.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyarrow import fs as pafs

from pa_dist.errors import PaDistError, RunFolderError, first_line
from pa_dist.interrupts import GOES_ON, interrupt_main_thread
from pa_dist.store import log
from pa_dist.store.folder import CLAIM, RunFolder

if sys.platform != "win32":
    import fcntl

LOCK = ".at_work.lock"
BEAT_SECONDS = 5.0
# What nobody renewed for so long was left by a command that died.
STALE_SECONDS = 20.0

Claim = dict[str, Any]

# Folders that a thread of ours works in, and the claims of this process.
_held: set[tuple[str, int]] = set()
_ours: set[str] = set()


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Work in a run folder, alone; how that ends, if not well, is the last line of its log.

    Where a command that died had been at work, this takes over: at once if its process was one of this machine, else
    after it was silent for `STALE_SECONDS`.

    Raises:
      RunFolderError: another command is at work there, or took over meanwhile, or the folder is not one of ours.
    """
    mine = (folder.uri, threading.get_ident())
    if mine in _held:  # a stage of a command that holds it
        yield
        return
    folder.is_ours()
    with _Lease(folder) as lease:
        folder.claim()
        _held.add(mine)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            if lease.lost is None:
                folder.log(GOES_ON)
                raise
        except Exception as error:
            named = "" if isinstance(error, PaDistError | OSError) else f"{type(error).__name__}: "
            folder.log(f"ended: {named}{first_line(error)}")
            raise
        finally:
            log.flush(folder)
            _held.discard(mine)
        if lease.lost is not None:
            raise RunFolderError(f"{folder}: {lease.lost}")


def last_seen(folder: RunFolder) -> tuple[Claim | None, Claim | None]:
    """The claim of a command that is at work in a folder, and that of one which died there, where there are such."""
    claims = _claims(folder)
    quiet = [claim for claim in claims.values() if time.time() - claim.get("at", 0.0) > STALE_SECONDS]
    if any(not _is_dead(claim) for claim in quiet):  # or the clock of its machine is another one
        time.sleep(BEAT_SECONDS * 1.2)
        later = _claims(folder)
        quiet = [claim for claim in quiet if later.get(claim["id"]) == claim]
        claims = later
    living = [claim for claim in claims.values() if claim not in quiet and not _is_dead(claim)]
    dead = [claim for claim in claims.values() if claim not in living]
    return next(iter(living), None), max(dead, key=lambda claim: claim.get("at", 0.0), default=None)


class _Lease:
    """A command's own claim, from asking to work until it ends.

    Attributes:
      lost: that another command took over, once it did.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.lost: str | None = None
        self._folder = folder
        self._mine: Claim = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at_work": False,
            "took": [],
        }
        self._owner, self._lock = threading.current_thread(), None if _lockless(folder) else _lock(folder)
        self._writing, self._stop = threading.Lock(), threading.Event()
        self._faults: set[str] = set()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "_Lease":
        _ours.add(self._mine["id"])
        try:
            try:
                self._write()
            except OSError as error:
                raise self._folder.unusable(error) from None
            self._thread.start()
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * STALE_SECONDS)
        with suppress(OSError):
            self._delete(self._mine["id"])
        _ours.discard(self._mine["id"])
        if self._lock is not None:
            os.close(self._lock)

    def _take(self) -> None:
        """Wait for what dead commands left to grow stale, and work. Raises `RunFolderError`."""
        left = self._alone()
        self._mine |= {"at_work": True, "took": left}
        self._write()
        # Between the look and the writing this process may have slept for long.
        for claim in self._others().values():
            if claim.get("at_work") and claim["id"] not in left and not _is_dead(claim):
                raise _refusal(self._folder, claim)
        for name in left:
            with suppress(OSError):
                self._delete(name)

    def _alone(self) -> list[str]:
        """Wait until no other claim lives; those that lie there, all dead."""
        seen: dict[str, Claim] = {}
        since: dict[str, float] = {}
        while True:
            others, now = self._others(), time.monotonic()
            for name, claim in others.items():
                beats = name in seen and claim != seen[name]
                if beats and (claim.get("at_work") or name < self._mine["id"]):
                    raise _refusal(self._folder, claim)
                if beats or name not in seen:
                    seen[name], since[name] = claim, now
            if all(_is_dead(claim) or now - since[name] >= STALE_SECONDS for name, claim in others.items()):
                return list(others)
            time.sleep(min(0.5, BEAT_SECONDS))

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                if self._beat():
                    continue
            except Exception as error:  # a file system that falters is no reason to stop
                if (fault := f"{type(error).__name__}: {first_line(error)}") not in self._faults:
                    self._faults.add(fault)
                    self._folder.log(f"cannot say that this command is at work: {fault}")
                continue
            return

    def _beat(self) -> bool:
        """Renew the claim, unless another command took it over; then its work ends here."""
        claims = _claims(self._folder)
        there = claims.pop(self._mine["id"], None)
        for claim in claims.values() if self._mine["at_work"] else ():
            if self._mine["id"] in claim.get("took", []) or (there is None and claim.get("at_work")):
                self.lost = f"{who(claim)} took this folder over while this command was suspended"
                self._folder.log(self.lost)
                if self._owner is threading.main_thread():
                    interrupt_main_thread()
                return False
        self._write()
        return True

    def _write(self) -> None:
        with self._writing:
            self._folder.write_json(_file(self._mine["id"]), {**self._mine, "at": time.time()})

    def _others(self) -> dict[str, Claim]:
        return {name: claim for name, claim in _claims(self._folder).items() if name != self._mine["id"]}

    def _delete(self, name: str) -> None:
        self._folder.filesystem.delete_file(self._folder.path(_file(name)))


def _file(name: str) -> str:
    return f"{CLAIM}{name}.json"


def _claims(folder: RunFolder) -> dict[str, Claim]:
    """The claims in a folder by id."""
    found: dict[str, Claim] = {}
    for file in folder.listed():
        name = file.base_name.removeprefix(CLAIM).removesuffix(".json")
        if file.base_name != _file(name) or (content := _read(folder, file.base_name)) is None:
            continue
        try:
            claim = json.loads(content)
        except ValueError:
            claim = None
        found[name] = {**(claim if isinstance(claim, dict) else {}), "id": name}
    return found


def _read(folder: RunFolder, name: str) -> bytes | None:
    """A file's content; an object that is written anew between its opening and its reading is an error at first."""
    for _ in range(5):
        try:
            return folder.read(name)
        except OSError:
            time.sleep(0.1)
    return folder.read(name)


def _is_dead(claim: Claim) -> bool:
    """Whether it is of this machine and gone; of another machine one cannot know."""
    pid = claim.get("pid")
    if claim.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if pid == os.getpid():  # a predecessor of the same number, as in a container that was started again
        return claim["id"] not in _ours
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def who(claim: Claim) -> str:
    """Whose it is, in words."""
    return f"process {claim.get('pid')} on {claim.get('host')}"


def _refusal(folder: RunFolder, claim: Claim | None) -> RunFolderError:
    whose = "another command" if claim is None else who(claim)
    return RunFolderError(f"{folder}: {whose} is at work here; take another output, or wait")


def _lockless(folder: RunFolder) -> bool:
    return sys.platform == "win32" or not isinstance(folder.filesystem, pafs.LocalFileSystem)


def _lock(folder: RunFolder) -> int | None:
    """Take the kernel's lock; what to close at the end, or None where the file system has no locks.

    Raises:
      RunFolderError: another process has it.
    """
    try:
        folder.filesystem.create_dir(folder.path(), recursive=True)
        file = os.open(folder.path(LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        living = [claim for claim in _claims(folder).values() if not _is_dead(claim)]
        raise _refusal(folder, max(living, key=lambda claim: claim.get("at", 0.0), default=None)) from None
    except OSError:
        os.close(file)
        return None
    return file
