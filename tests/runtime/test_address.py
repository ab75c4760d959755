"""Addresses where no cluster is end in one line, soon, that says who gave them."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from contextlib import closing, contextmanager

import grpc
import pytest

from pa_dist.errors import ResourceError
from pa_dist.runtime import address
from pa_dist.runtime.address import Address, given, try_out

ENVIRONMENT = "RAY_ADDRESS, which the environment sets"


def refusal(text):
    began = time.monotonic()
    with pytest.raises(ResourceError) as raised:
        try_out(Address(text, "ray.address"))
    assert time.monotonic() - began < 30
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"ray.address: no cluster at {text!r}: ")
    return str(raised.value)


@contextmanager
def listening(backlog=8):
    """A port where connections are taken, and never answered."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield server.getsockname()[1]


@contextmanager
def dashboard():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@contextmanager
def other_grpc():
    """As a port of Ray's that is not its head's."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


@contextmanager
def full():
    """As behind a firewall that drops packets: a queue of connections that is full, so that no more are taken."""
    with listening(backlog=0) as port:
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield port
        for each in waiting:
            each.close()


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(address, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(address, "GREETING_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (listening, "is not Ray"),
        (dashboard, "is not Ray"),
        (other_grpc, "does not answer as a head does"),
        (full, "nothing answers there"),
    ],
)
def test_what_is_no_head(place, why, hasty):
    with place() as port:
        assert why in refusal(f"127.0.0.1:{port}")
        if place is not other_grpc:
            assert why in refusal(f"ray://127.0.0.1:{port}")


def test_a_name_that_nobody_resolves(hasty, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    assert "nothing answers there" in refusal("head.example:6379")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("[::1]:1", "is it up"),
        ("http://127.0.0.1:8265", "dashboard"),
        ("redis://127.0.0.1:6379", "redis:// is no scheme"),
        ("127.0.0.1", "not host:port"),
        ("127.0.0.1:70000", "not host:port"),
        ("127.0.0.1:head", "not host:port"),
        ("ray://", "not host:port"),
        ("head node:6379", "not host:port"),
        ("a" * 300 + ":6379", "there is no host of that name"),
        (".:6379", "there is no host of that name"),
    ],
)
def test_what_is_no_address(text, why):
    assert why in refusal(text)


def test_who_gave_it(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (given(None), given("local"), given("")) == (None, None, None)
    assert given("a:1") == ("a:1", "ray.address")
    monkeypatch.setenv("RAY_ADDRESS", "b:2")
    assert given(None) == given("auto") == ("b:2", ENVIRONMENT)
    assert given("a:1") == ("a:1", "ray.address")
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert given(None) is None


def test_a_command_ends_in_one_line(tmp_path, pair, chat_file):
    """Of a run over real files: before anything is read."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"trajectories: {{format: chat, paths: ['{chat_file}']}}\n"
        f"pair: {{policy: '{pair['policy']}', reference: '{pair['reference']}'}}\n"
        f"output: {tmp_path / 'out'}\n"
    )
    command = [sys.executable, "-m", "pa_dist", "run", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    )
    line = f"pa-dist: {ENVIRONMENT}: no cluster at '127.0.0.1:1': Connection refused; is it up, and is this its port?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
