"""Progress is shown where it can be, and is no reason for work to end where it cannot."""

import io
import sys

import pytest

from pa_dist.runtime import progress
from pa_dist.runtime.progress import Progress, is_terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    ("stream", "term", "is_one"),
    [(Terminal, "xterm", True), (Terminal, "dumb", False), (Terminal, None, False), (io.StringIO, "xterm", False)],
)
def test_control_codes_go_to_terminals_only(monkeypatch, stream, term, is_one):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert is_terminal() is is_one
    with Progress("score", 4) as shown:
        shown.advance(2)
    assert ("\x1b" in sys.stderr.getvalue()) is is_one
    assert is_one or sys.stderr.getvalue().startswith("score: 2 of 4, ")


@pytest.mark.integration
def test_a_command_says_nothing_but_its_own(demo):
    """Of a whole run whose output goes to files: every byte."""
    out, done = demo
    log = (out / "run.log").read_text()
    for said in (done.stdout, done.stderr, log):
        assert not [character for character in said if not (character.isprintable() or character == "\n")]
        for noise in ("raylet", "Loading weights", "WARNING", "it/s", "core_worker"):
            assert noise not in said
    # A stage's lines, those of progress, and those of the report.
    beginnings = ("ingest: ", "score: ", "evaluate: ", "exact values: ", "report: ", "next: ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(beginnings)] == []


def test_what_cannot_be_shown_is_logged_once_and_work_goes_on(monkeypatch):
    logged = []
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", Gone())
    with Progress("score", 4, log=logged.append) as shown:
        for _ in range(3):
            shown.advance()
    assert logged.count("score: progress is not shown: BrokenPipeError: [Errno 32] Broken pipe") == 1
    assert logged[-1].startswith("score: 3 of 4")
