"""Ctrl-C and what else asks a command to end: one line and the exit status of shells, wherever it comes."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GOES_ON = "interrupted; the same command goes on"

# A terminal's Ctrl-C, what schedulers and `ray job stop` send, and a terminal that goes away.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(SystemExit):
    """Raised in the main thread by such a signal. Not `KeyboardInterrupt`, which click and others answer themselves."""


@contextmanager
def told() -> Iterator[None]:
    """Around a whole command: what interrupts it is told in one line, and its exit status 128 + the signal's number."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as under nohup
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    except SystemExit as error:
        # Ray puts an exit of its own in the place of our handler while it connects.
        if not isinstance(error, Interrupted) and error.code != signal.SIGTERM:
            raise
        with suppress(OSError):
            print(f"pa-dist: {GOES_ON}", file=sys.stderr, flush=True)
        sys.exit(error.code if isinstance(error, Interrupted) else 128 + signal.SIGTERM)
    finally:
        ends = isinstance(sys.exc_info()[1], SystemExit)
        for number, handler in before.items():
            signal.signal(number, _at_once if ends else handler)


def interrupt_main_thread() -> None:
    """As Ctrl-C, but from another thread: also of a call that waits. In the background shells have Ctrl-C ignored; then
    it is another of the signals that a command answers."""
    heard = [number for number in _SIGNALS if callable(signal.getsignal(number))]
    main = threading.main_thread().ident
    if heard and main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, heard[0])


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        if signal.getsignal(each) is _interrupt:
            signal.signal(each, _at_once)
    raise Interrupted(128 + number)


def _at_once(number: int, frame: FrameType | None) -> None:
    """Of one who does not wait for the end of what was interrupted."""
    os._exit(128 + number)
