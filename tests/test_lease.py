"""Two commands never work in one run folder at once, and what a dead one left stops nobody."""

import json
import multiprocessing
import os
import socket
import time

import pytest

from pa_dist import lease
from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.lease import NAME, held
from pa_dist.run import RunFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    return RunFolder(str(tmp_path / "out"))


def left_by(folder, **holder):
    folder.claim()
    folder.write_json(NAME, {"id": "other", "host": socket.gethostname(), "pid": 1, **holder})


def hold(uri, seconds):
    lease.BEAT_SECONDS = 0.1
    with held(RunFolder(uri)):
        time.sleep(seconds)


def test_a_second_command_is_refused_while_the_first_is_at_work(folder):
    first = multiprocessing.get_context("spawn").Process(target=hold, args=(folder.uri, 20))
    first.start()
    try:
        while folder.read(NAME) is None:
            time.sleep(0.05)
        with pytest.raises(RunFolderError, match=rf"process {first.pid} on .* is at work here"), held(folder):
            pass
    finally:
        first.kill()
        first.join()
    with held(folder):  # its process is gone: at once
        assert json.loads(folder.read(NAME))["pid"] == os.getpid()
    assert folder.read(NAME) is None


@pytest.mark.parametrize("holder", [{"host": "another"}, {"pid": os.getppid()}, {"pid": None}])
def test_what_nobody_renews_is_taken_over(folder, holder):
    left_by(folder, **holder)
    began = time.monotonic()
    with held(folder):
        assert 1.0 <= time.monotonic() - began < 10


def test_a_predecessor_of_the_same_number_is_dead(folder):
    left_by(folder, pid=os.getpid())
    began = time.monotonic()
    with held(folder), held(folder):
        assert time.monotonic() - began < 1.0


def test_it_is_renewed_and_given_up(folder):
    with held(folder):
        before = folder.read(NAME)
        time.sleep(0.5)
        assert folder.read(NAME) != before
    assert folder.read(NAME) is None


def test_one_that_was_taken_over_leaves_it_alone(folder):
    with held(folder):
        left_by(folder)
        time.sleep(0.5)
        assert json.loads(folder.read(NAME))["id"] == "other"
    assert json.loads(folder.read(NAME))["id"] == "other"
    assert "took this folder over" in folder.read("run.log").decode()


def test_the_log_ends_with_what_went_wrong(folder):
    with pytest.raises(PaDistError), held(folder):
        raise PaDistError("no such thing")
    assert folder.read("run.log").decode().endswith("ended: no such thing\n")


def test_a_file_that_is_no_lease_is_taken_over(folder):
    folder.claim()
    with folder.filesystem.open_output_stream(folder.path(NAME)) as out:
        out.write(b"[1")
    with held(folder):
        pass
