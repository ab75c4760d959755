"""Ctrl-C and its kin end a command in one line, in the log too, and the same command goes on."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import kills
import pytest

from pa_dist.interrupts import GOES_ON, Interrupted, interrupt_main_thread, told
from pa_dist.status import status
from pa_dist.store.folder import CHECKPOINT, CLAIM, RunFolder

pytestmark = pytest.mark.integration

N = 60


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return kills.prepare(tmp_path_factory.mktemp("config"), N, random.Random(2))


def interrupted(config, out, number, moment):
    """What a run says that is sent a signal at a moment, and its exit status."""
    command = [sys.executable, "-m", "pa_dist", "run", str(config), f"output={out}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    end = time.monotonic() + 200
    while not moment():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal does: all of its processes
    said, complained = process.communicate(timeout=100)
    assert "Traceback" not in said + complained
    return process.returncode, said, complained


def holds(out, pattern):
    return lambda: any(Path(out).glob(pattern))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_ray_starts(config, tmp_path, number):
    code, said, complained = interrupted(config, tmp_path / "out", number, holds(tmp_path / "out", "manifest.json"))
    assert (code, said, complained) == (128 + number, "", f"pa-dist: {GOES_ON}\n")
    assert (tmp_path / "out" / "run.log").read_text().endswith(f" {GOES_ON}\n")
    assert not holds(tmp_path / "out", f"{CLAIM}*")()


def test_while_it_scores(config, tmp_path):
    out = tmp_path / "out"
    code, said, complained = interrupted(config, out, signal.SIGINT, holds(out, f"{CHECKPOINT}/*.parquet"))
    assert (code, said) == (130, "")
    lines = complained.splitlines()
    assert lines[-1] == f"pa-dist: {GOES_ON}"
    assert all(line.startswith(("ingest: ", "score: ")) for line in lines[:-1])
    log = (out / "run.log").read_text().splitlines()
    assert log[-1].endswith(f" {GOES_ON}")

    # No rate and no time left of a run that nobody is at work on.
    found = status(RunFolder(str(out)))
    assert "a second" not in "".join(found)
    assert "of 60 done" in found[1]
    assert "left" not in "".join(found)
    assert found[-1] == f"no command is at work here; last said {log[-1].replace(' ', ': ', 1)}"

    assert kills.finish(kills.start(config, out)) == 0
    assert "no command" not in "".join(status(RunFolder(str(out))))


def test_status_of_a_run_that_was_killed(config, tmp_path):
    out = RunFolder(str(tmp_path / "out"))
    process = kills.start(config, tmp_path / "out")
    try:
        end = time.monotonic() + 200
        while not out.manifest["stages"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "no command" not in "".join(status(out))
    finally:
        process.kill()
        process.wait()
    last = status(out)[-1]
    assert last.startswith(f"no command is at work here: process {process.pid} on ")
    assert last.endswith("; the same command goes on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_one_process(number, capsys):
    with pytest.raises(SystemExit) as raised, told():
        signal.raise_signal(number)
    assert raised.value.code == 128 + number
    assert not isinstance(raised.value, Interrupted)
    assert capsys.readouterr().err == f"pa-dist: {GOES_ON}\n"


def test_a_command_in_the_background_can_be_ended_from_within():
    """Shells have it ignore Ctrl-C; one whose run folder was taken over must end all the same."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    other = threading.Timer(0.5, interrupt_main_thread)
    other.start()
    with pytest.raises(SystemExit) as raised, told():
        time.sleep(100)
    assert raised.value.code == 128 + signal.SIGTERM


def test_what_is_ignored_stays_so():
    """As of a command under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with told():
        signal.raise_signal(signal.SIGHUP)
