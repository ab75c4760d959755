"""Progress on long work: a bar on a terminal, a plain line now and then in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """`with Progress("score", 120) as progress: progress.advance(8)`; writes to standard error."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._began = self._printed = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, n: int = 1) -> None:
        self.update(self.done + n)

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of `total` are done."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._print_line(note)

    def _print_line(self, note: str) -> None:
        seconds = time.monotonic() - self._began
        left = ""
        if self.total is not None and self.done:
            left = f", about {max(0, self.total - self.done) * seconds / self.done:.0f} s left"
        of = "" if self.total is None else f" of {self.total}"
        print(
            f"{self.label}: {self.done}{of} {note}".rstrip() + f", {seconds:.0f} s{left}", file=sys.stderr, flush=True
        )
