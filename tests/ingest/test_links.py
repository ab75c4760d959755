"""Links in a corpus: followed, each file read once, and those that lead nowhere or round in a circle named."""

import os
from pathlib import Path

import pytest
import shared_ray

from pa_dist.config import Ray, Trajectories
from pa_dist.errors import ConfigError
from pa_dist.ingest.sources import expand, look_up
from pa_dist.stages import ingest_files
from pa_dist.store.folder import RunFolder

CHAT = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]}\n'


@pytest.fixture(params=["{}", "file://{}", "{}/**"])
def look(request, tmp_path):
    """`look()` names what a folder holds: by a plain path, by a URI and by a glob, all the same."""

    def found(*below):
        entries = [request.param.format(tmp_path / "data" / each) for each in below or [""]]
        sources, twice = look_up([entry.replace("//**", "/**") for entry in entries])
        here = f"{tmp_path}/data/"
        readable = [s.path.removeprefix(here) for s in sources if s.fault is None]
        faults = {s.path.removeprefix(here): s.fault for s in sources if s.fault is not None}
        return readable, faults, [tuple(Path(name).name for name in pair) for pair in twice]

    return found


def link(tmp_path, name, target):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def test_links_to_folders_and_files_are_followed(put, tmp_path, look):
    """The target lies elsewhere; one of its folders is a link again, and one of its files."""
    outside = put("../outside/a.jsonl", CHAT).parent
    put("../far/sub/b.jsonl", CHAT)
    put("../far/c.jsonl", CHAT)
    put("d.jsonl", CHAT)
    (outside / "nested").symlink_to(tmp_path / "far")
    link(tmp_path, "linked", "../outside")
    link(tmp_path, "e.jsonl", tmp_path / "far" / "sub" / ".." / "c.jsonl")
    readable, faults, twice = look()
    # far/c.jsonl is found as e.jsonl too, and neither is its own name: the first in order stays.
    assert readable == ["d.jsonl", "e.jsonl", "linked/a.jsonl", "linked/nested/sub/b.jsonl"]
    assert (faults, twice) == ({}, [("c.jsonl", "e.jsonl")])


def test_links_back_are_refused_by_name(put, tmp_path, look):
    put("x/a.jsonl", CHAT)
    for name, target in (("x/up", ".."), ("x/self", "."), ("x/out", "../..")):
        link(tmp_path, name, target)
    reason = "a link to a folder that it lies in"
    assert look() == (["x/a.jsonl"], dict.fromkeys(("x/out", "x/self", "x/up"), reason), [])


def test_folders_that_link_to_each_other_do_not_multiply(put, tmp_path, look):
    """Forty folders, each with two links to the next: 2^40 paths, forty files."""
    for n in range(40):
        put(f"f{n}/a.jsonl", CHAT)
        for name in ("one", "two"):
            link(tmp_path, f"f{n}/{name}", f"../f{(n + 1) % 40}")
    readable, faults, twice = look()
    assert readable == [f"f{n}/a.jsonl" for n in range(40)]
    assert (faults, len(twice)) == ({}, 80)


def test_a_file_found_by_two_ways_is_read_once_and_by_its_own_name(put, tmp_path, look):
    put("runs/2/a.jsonl", CHAT)
    link(tmp_path, "latest", "runs/2")
    link(tmp_path, "a-again.jsonl", "runs/2/a.jsonl")
    readable, _, twice = look()
    assert readable == ["runs/2/a.jsonl"]
    assert sorted(twice) == [("a-again.jsonl", "a.jsonl"), ("latest", "2")]
    assert look("latest", "runs")[0] == ["runs/2/a.jsonl"]
    assert look("latest")[0] == ["latest/a.jsonl"]


def test_what_cannot_be_read_is_named(put, tmp_path, look):
    put("a.jsonl", CHAT)
    link(tmp_path, "gone.jsonl", "../nowhere.jsonl")
    link(tmp_path, "gone", "/nowhere")
    link(tmp_path, "round", "round")
    os.mkfifo(tmp_path / "data" / "pipe.jsonl")
    readable, faults, _ = look()
    assert readable == ["a.jsonl"]
    assert faults == {
        "gone": "a link to nothing: /nowhere",
        "gone.jsonl": "a link to nothing: ../nowhere.jsonl",
        "pipe.jsonl": "neither a file nor a folder",
        "round": "a link to nothing: round",
    }


def test_entries_that_are_links_to_nothing_or_pipes(put, tmp_path):
    put("a.jsonl", CHAT)
    os.mkfifo(tmp_path / "pipe")
    gone = link(tmp_path, "gone", "nowhere")
    for entry, why in ((gone, "a link to nothing: nowhere"), (tmp_path / "pipe", "neither a file")):
        with pytest.raises(ConfigError, match=rf"trajectories\.paths: '{entry}': .*{why}"):
            expand([str(entry)])


def test_the_parent_of_a_link_is_the_targets(put, tmp_path, monkeypatch):
    """As the operating system has it: link/../a.jsonl lies beside the link's target."""
    put("there/sub/x.jsonl", CHAT)
    put("there/a.jsonl", CHAT)
    put("a.jsonl", CHAT)
    link(tmp_path, "link", "there/sub")
    monkeypatch.chdir(tmp_path / "data")
    assert [os.path.realpath(s.path) for s in expand(["link/../*.jsonl"])] == [f"{tmp_path}/data/there/a.jsonl"]
    assert expand(["there/../a.jsonl"])[0].path == f"{tmp_path}/data/a.jsonl"


def test_a_run_says_what_it_found_twice_and_rejects_what_it_could_not_read(put, tmp_path):
    shared_ray.join()
    put("x/a.jsonl", CHAT)
    link(tmp_path, "latest", "x")
    link(tmp_path, "x/up", "..")
    link(tmp_path, "gone.jsonl", "nowhere")
    lines = []
    folder = RunFolder(str(tmp_path / "out"))
    ingest_files(Trajectories(format="chat", paths=[f"file://{tmp_path}/data"]), folder, lines.append, Ray())
    here = f"file://{tmp_path}/data"
    assert f"ingest: read once, though links lead there too: {here}/x (also {here}/latest)" in lines
    rejects = folder.dataset("rejects").to_table().select(["source", "reason"]).to_pylist()
    assert [(row["source"], row["reason"].partition(": ")[2]) for row in rejects] == [
        (f"{here}/gone.jsonl", "a link to nothing: nowhere"),
        (f"{here}/x/up", "a link to a folder that it lies in"),
    ]
