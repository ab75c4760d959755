"""Why a trajectory cannot be rendered, and the time that a chat template may take to."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 20.0
"""Of one rendering. A trajectory of a million tokens takes well under one."""


class Unrenderable(ValueError):
    """Why a trajectory cannot be rendered; the message is the reason of a reject."""


class TookTooLong(Unrenderable):
    """A template that may never come to an end."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the chat template took longer than {seconds:g} s")


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` in what runs within, after so long.

    Only a process's main thread can be told, which is where Ray runs tasks; in another one nothing is limited. Nor is
    one step of the interpreter, such as a power of huge numbers: `render.trial` ends that with its process.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise TookTooLong(seconds)

    handler = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Whoever had set the clock before has it again, as if nothing had been.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)
