"""Two commands never work in one run folder at once, and what a dead one left stops nobody."""

import json
import multiprocessing
import os
import socket
import threading
import time
from itertools import pairwise

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs as pafs

from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.store import lease
from pa_dist.store.folder import CLAIM, RunFolder
from pa_dist.store.lease import held, last_seen

AT_ONCE = 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    return RunFolder(str(tmp_path / "out"))


@pytest.fixture
def lockless(folder, monkeypatch):
    """As on an object store: nothing but files that others see."""
    monkeypatch.setattr(lease, "_lockless", lambda folder: True)
    return folder


def left_by(folder, name="other", **holder):
    folder.claim()
    claim = {"id": name, "host": socket.gethostname(), "pid": 1, "at_work": True, "at": 0.0, "took": [], **holder}
    folder.write_json(f"{CLAIM}{name}.json", claim)


def claims(folder):
    """What lies there, by id."""
    files = folder.filesystem.get_file_info(pafs.FileSelector(folder.path()))
    found = [json.loads(folder.read(file.base_name)) for file in files if file.base_name.startswith(CLAIM)]
    return {claim["id"]: claim for claim in found}


def hold(uri, seconds, together=None, told=None):
    """Work for some seconds once all are there; tell whether it could, or why not, and from when to when."""
    lease.BEAT_SECONDS = 0.1
    lease.STALE_SECONDS = 1.0
    if together is not None:
        together.wait(60)
    began = time.monotonic()
    try:
        with held(RunFolder(uri)):
            began = time.monotonic()
            time.sleep(seconds)
        why = None
    except Exception as error:
        why = str(error)
    if told is not None:
        told.put((why, began, time.monotonic()))


def all_at_once(uri, kind, seconds):
    """What became of as many commands as `AT_ONCE`, which begin at the same moment."""
    together, told = kind.Barrier(AT_ONCE), kind.Queue()
    start = kind.Process
    started = [start(target=hold, args=(uri, seconds, together, told)) for _ in range(AT_ONCE)]
    for each in started:
        each.start()
    found = [told.get(timeout=120) for _ in started]
    for each in started:
        each.join()
    return found


class Threads:
    """As `multiprocessing`, with threads: each of them is a command of its own."""

    from queue import Queue
    from threading import Barrier
    from threading import Thread as Process


def one_worked(found, folder):
    """That one of many worked, and the others were refused in one line."""
    refused = [why for why, *_ in found if why is not None]
    assert len(refused) == AT_ONCE - 1, found
    assert all(why.startswith(f"{folder}: ") and why.endswith("take another output, or wait") for why in refused)
    assert "\n" not in "".join(refused)
    assert claims(folder) == {}


@pytest.mark.integration
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_processes_one_works(folder, stale):
    for number in range(2):
        if stale:  # of another machine: nobody knows but by waiting
            left_by(folder, f"dead-{number}", host="another")
        one_worked(all_at_once(folder.uri, multiprocessing.get_context("spawn"), 3), folder)


@pytest.mark.integration
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_one_works_where_there_are_no_locks(lockless, stale):
    for number in range(3):
        if stale:
            left_by(lockless, f"dead-{number}", host="another")
        one_worked(all_at_once(lockless.uri, Threads, 3), lockless)


@pytest.mark.integration
def test_of_many_one_works_on_an_object_store(folder):
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        options = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
        store = RunFolder(f"s3://key:secret@bucket/run?{options}")
        store.filesystem.create_dir("bucket")
        left_by(store, "dead", host="another")
        one_worked(all_at_once(store.uri, Threads, 5), store)
    finally:
        server.stop()


def test_never_two_at_a_time(lockless):
    """Whoever comes a little later is refused or works alone, whatever the moment."""
    told = Threads.Queue()
    threads = [threading.Thread(target=hold, args=(lockless.uri, 0.05, None, told)) for _ in range(60)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    worked = sorted((began, ended) for why, began, ended in (told.get() for _ in threads) if why is None)
    assert worked
    assert all(ended <= began + 0.01 for (_, ended), (began, _) in pairwise(worked))


def test_a_second_command_is_refused_while_the_first_is_at_work(folder):
    first = multiprocessing.get_context("spawn").Process(target=hold, args=(folder.uri, 20))
    first.start()
    try:
        while not (folder.path() and os.path.isdir(folder.path()) and claims(folder)):  # noqa: PTH112
            time.sleep(0.05)
        with pytest.raises(RunFolderError, match=rf"process {first.pid} on .* is at work here"), held(folder):
            pass
    finally:
        first.kill()
        first.join()
    with held(folder):  # its process is gone: at once
        assert [claim["pid"] for claim in claims(folder).values()] == [os.getpid()]
    assert claims(folder) == {}


def test_a_second_thread_is_a_second_command(folder):
    with held(folder):
        told = Threads.Queue()
        thread = threading.Thread(target=hold, args=(folder.uri, 0, None, told))
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in told.get()[0]


@pytest.mark.parametrize("holder", [{"host": "another"}, {"pid": os.getppid()}, {"pid": None}])
def test_what_nobody_renews_is_taken_over(folder, holder):
    left_by(folder, **holder)
    began = time.monotonic()
    with held(folder):
        assert 1.0 <= time.monotonic() - began < 10
        assert "other" not in claims(folder)


def test_a_predecessor_of_the_same_number_is_dead(folder):
    left_by(folder, pid=os.getpid())
    began = time.monotonic()
    with held(folder), held(folder):
        assert time.monotonic() - began < 1.0


def test_it_is_renewed_and_given_up(folder):
    with held(folder):
        before = claims(folder)
        time.sleep(0.5)
        assert claims(folder) != before
    assert claims(folder) == {}


def test_one_that_was_taken_over_ends(folder):
    """As after a night in which the machine slept: another command had waited in vain for a beat, and works."""

    def sleep_through():
        (mine,) = claims(folder)
        left_by(folder, took=[mine], host="another")
        folder.filesystem.delete_file(folder.path(f"{CLAIM}{mine}.json"))
        time.sleep(200)

    began = time.monotonic()
    with pytest.raises(RunFolderError, match=r"process 1 on .* took this folder over"), held(folder):
        sleep_through()
    assert time.monotonic() - began < 100
    assert list(claims(folder)) == ["other"]
    assert "took this folder over" in folder.read("run.log").decode()


def test_the_renewing_outlives_what_no_file_system_should_raise(folder, monkeypatch):
    with held(folder):
        write = RunFolder.write_json
        monkeypatch.setattr(RunFolder, "write_json", lambda *_: 1 / 0)
        time.sleep(0.5)
        monkeypatch.setattr(RunFolder, "write_json", write)
        before = claims(folder)
        time.sleep(0.5)
        assert claims(folder) != before
    assert folder.read("run.log").decode().count("cannot say that this command is at work: ZeroDivisionError") == 1


def test_the_log_ends_with_what_went_wrong(folder):
    with pytest.raises(PaDistError), held(folder):
        raise PaDistError("no such thing")
    assert folder.read("run.log").decode().endswith("ended: no such thing\n")
    with pytest.raises(KeyboardInterrupt), held(folder):
        raise KeyboardInterrupt
    assert folder.read("run.log").decode().endswith("interrupted; the same command goes on\n")


def test_a_file_that_is_no_claim_is_taken_over(folder):
    folder.claim()
    with folder.filesystem.open_output_stream(folder.path(f"{CLAIM}torn.json")) as out:
        out.write(b"[1")
    with held(folder):
        pass


def test_who_was_seen_last(folder):
    assert last_seen(folder) == (None, None)
    left_by(folder, pid=os.getpid(), at=1.0)  # not of this process, although it has its number
    left_by(folder, "old", host="another")
    living, dead = last_seen(folder)
    assert (living, dead["id"]) == (None, "other")
    with held(folder):
        living, dead = last_seen(folder)
        assert (living["pid"], dead) == (os.getpid(), None)


def test_a_folder_of_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match=r"holds 'thesis\.tex'"), held(folder):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
