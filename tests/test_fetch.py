"""`fetch` against a small hub on the loopback device, and without any."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"# trajectories\n",
    "tau2/greedy/gemma4-4b/airline.json": b'{"simulations": []}\n',
    "who_and_when/Hand-Crafted/1.json": b'{"history": []}\n',
    "who_and_when/Hand-Crafted/2.json": b'{"history": [1]}\n',
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a dataset's download asks for."""

    sent: ClassVar[list[str]] = []

    def do_GET(self):
        path = urlsplit(self.path).path
        if path.startswith(("/api/datasets/some/set/tree/",)):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self.answer(json.dumps(entries).encode())
        elif path.startswith("/api/datasets/some/set"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            self.answer(json.dumps({"id": "some/set", "sha": SHA, "siblings": siblings}).encode())
        elif path.startswith(f"/datasets/some/set/resolve/{SHA}/"):
            name = path.split(f"{SHA}/")[1]
            if self.command == "GET":
                self.sent.append(name)
            self.answer(FILES[name], ETag=f'"{hashlib.sha1(FILES[name]).hexdigest()}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.sent = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(tmp_path, endpoint, *args, **environment):
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pa_dist", "fetch", *args, "--out", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **settings},
    )


def test_fetches_a_scenario_once(hub, tmp_path):
    done = fetch(tmp_path, hub, "fa", "--repo-id", "some/set")
    assert done.returncode == 0, done.stderr
    assert f"fetch: 2 files, 0.0 MB, from dataset some/set to {tmp_path / 'data'}" in done.stderr
    wanted = {name for name in FILES if name.startswith("who_and_when")}
    assert set(Hub.sent) == wanted
    for name in wanted:
        assert (tmp_path / "data" / name).read_bytes() == FILES[name]
    Hub.sent = []
    assert fetch(tmp_path, hub, "fa", PA_DATA_REPO="some/set").returncode == 0
    assert Hub.sent == []


@pytest.mark.parametrize(
    ("scenario", "repository", "message"),
    [
        ("tts", "some/set", "dataset some/set holds nothing for tts (webshop/*)"),
        ("fa", "some/other", "no dataset some/other on the Hub, or no leave to read it"),
        ("fa", "a/b/c", "Repo id must be in the form"),
    ],
)
def test_what_a_hub_cannot_give_is_one_line(hub, tmp_path, scenario, repository, message):
    done = fetch(tmp_path, hub, scenario, "--repo-id", repository)
    assert done.returncode == 1
    assert done.stderr.startswith("pa-dist: fetch: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_network_is_one_line(tmp_path, offline):
    done = fetch(tmp_path, "http://127.0.0.1:9", "uq", HF_HUB_OFFLINE=offline)
    assert done.returncode == 1
    assert done.stderr.startswith("pa-dist: fetch: cannot fetch dataset changdae/progress-advantage-artifacts to ")
    assert done.stderr.count("\n") == 1
