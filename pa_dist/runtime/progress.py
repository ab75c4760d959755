"""Progress on long work: a bar on a terminal, a plain line now and then in a job's output, and one in the run's log."""

import os
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pa_dist.errors import first_line

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_LOG_LINES = 60.0


def is_terminal() -> bool:
    """Whether standard error is a terminal that moves its cursor; what goes elsewhere is plain lines."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")


class Progress:
    """`with Progress("score", 120) as progress: progress.advance(8)`; writes to standard error, if it has a label."""

    def __init__(
        self, label: str, total: int | None, before: int = 0, log: Callable[[str], None] = lambda line: None
    ) -> None:
        """Begin with `before` done already; `log` is told a line now and then, whatever standard error is."""
        self.label, self.total, self.done = label, total, before
        self._before, self._log = before, log
        self._began = self._printed = self._logged = time.monotonic()
        self._bar: Bar | None = None
        self._mishaps: set[str] = set()

    def __enter__(self) -> "Progress":
        if self.label and is_terminal():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            try:
                bar = Bar(*columns, console=Console(stderr=True))
                bar.start()
                self._task = bar.add_task(self.label, total=self.total, completed=self._before, note="")
                self._bar = bar
            except Exception as error:
                self.mishap(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            try:
                self._bar.stop()
            except Exception as error:
                self.mishap(error)

    def advance(self, n: int = 1) -> None:
        """Show that `n` more are done."""
        self.update(self.done + n)

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of `total` are done."""
        self.done = done
        try:
            self._show(done, note)
        except Exception as error:  # such as of a terminal that went away
            self.mishap(error)
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LOG_LINES:
            self._logged = time.monotonic()
            self._log(self._line(note))

    def mishap(self, error: Exception) -> None:
        """Log once what kept progress from being shown: work goes on without."""
        if (said := f"{type(error).__name__}: {first_line(error)}") not in self._mishaps:
            self._mishaps.add(said)
            self._log(f"{self.label}: progress is not shown: {said}")

    def _show(self, done: int, note: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self.label and time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        seconds, done = time.monotonic() - self._began, self.done - self._before
        left = ""
        if self.total is not None and done > 0:
            left = f", about {max(0, self.total - self.done) * seconds / done:.0f} s left"
        of = "" if self.total is None else f" of {self.total}"
        return f"{self.label}: {self.done}{of} {note}".rstrip() + f", {seconds:.0f} s{left}"
