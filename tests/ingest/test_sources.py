"""Paths, folders, globs and URIs into files."""

import bz2
import gzip
import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_dist.errors import ConfigError
from pa_dist.ingest.sources import Source, Unreadable, _shown, expand, natural


def names(paths):
    return [f"{s.parent}/{s.file_name}" for s in expand([str(p) for p in paths])]


@pytest.fixture
def tree(put, tmp_path):
    for name in ["trial_10/a.json", "trial_2/a.json", "trial_2/b.jsonl.gz", "x/LICENSE", "x/c.txt", "x/.d.json"]:
        put(name, "[]")
    put(".cache/e.json", "[]")
    return tmp_path / "data"


def test_a_folder_is_its_json_files_in_natural_order(tree):
    assert names([tree]) == ["trial_2/a.json", "trial_2/b.jsonl.gz", "trial_10/a.json"]


def test_globs_and_repeats(tree, monkeypatch):
    assert names([tree / "trial_*/a.json"]) == ["trial_2/a.json", "trial_10/a.json"]
    assert names([tree / "trial_*"]) == ["trial_2/a.json", "trial_2/b.jsonl.gz", "trial_10/a.json"]
    assert names([tree / "**/a.json", tree / "trial_2/../trial_2/a.json"]) == ["trial_2/a.json", "trial_10/a.json"]
    monkeypatch.chdir(tree)
    [source] = expand(["trial_2/a.json"])
    assert source.name == "trial_2/a.json"


def test_a_file_named_like_a_glob(put):
    path = put("a[1].json", "[]")
    put("a1.json", "[]")
    assert names([path]) == ["data/a[1].json"]


def test_uris(tree):
    """`file://` goes by Arrow's file system, `memory://` by fsspec's."""
    assert names([f"file://{tree}/trial_*/a.json", tree / "trial_2/a.json"]) == ["trial_2/a.json", "trial_10/a.json"]
    assert names([f"file://{tree}"]) == names([tree])
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/trial_0/a.json", b"[1]")
    try:
        [source] = expand(["memory://corpus/*/*.json"])
        assert (source.name, source.trial) == ("memory:///corpus/trial_0/a.json", 0)
        with source.open() as file:
            assert file.read(10) == b"[1]"
    finally:
        memory.rm("/corpus", recursive=True)


@pytest.mark.parametrize("entry", ["none.json", "x*.json", "empty", "memory://none/*.json", "file:///none/x.json"])
def test_nothing_there(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        expand([entry])
    assert str(error.value) == f"trajectories.paths: nothing matches {entry!r}"


def test_a_scheme_nobody_knows():
    with pytest.raises(ConfigError, match=r"trajectories\.paths: 'gopher://a/b\.json'"):
        expand(["gopher://a/b.json"])


@pytest.mark.parametrize("uri", [False, True])
def test_compressed(put, uri):
    zst = pa.Codec("zstd").compress(b"[1]", asbytes=True)
    files = {
        "a.json.gz": gzip.compress(b"[1]"),
        "b.json.bz2": bz2.compress(b"[1]"),
        "c.json.zst": zst,
        "d.json": b"[1]",
    }
    for name, content in files.items():
        path = put(name, content)
    sources = expand([f"file://{path.parent}" if uri else str(path.parent)])
    assert [s.stem for s in sources] == ["a", "b", "c", "d"]
    for source in sources:
        with source.open() as file:
            assert file.read(99) == b"[1]"


def test_faults_of_reading_are_unreadable(put):
    [source] = expand([str(put("a.json.gz", gzip.compress(os.urandom(5000))[:3000]))])
    with pytest.raises(Unreadable, match="EOFError"), source.open() as file:
        list(iter(lambda: file.read(1000), b""))
    with pytest.raises(Unreadable, match="FileNotFoundError"), Source("n", "/none", "/none/a.json", 0).open():
        pass


@pytest.mark.parametrize(
    ("path", "stem", "trial"),
    [
        ("/a/trial_3/web.shop.json", "web.shop", 3),
        ("/trial_3/b/gpt-4.1-x.jsonl.gz", "gpt-4.1-x", None),
        ("/xtrial_3/a", "a", None),
        ("/trial_03/.json", "", 3),
    ],
)
def test_what_a_path_says(path, stem, trial):
    source = Source(path, path, path, 0)
    assert (source.stem, source.trial) == (stem, trial)


def test_a_link_is_named_without_what_is_secret():
    link = "https://token@host/tau2/trial_3/airline.json?signature=not-to-be-told"
    source = Source(_shown(link, link), link, link, 0)
    assert source.name == "https://host/tau2/trial_3/airline.json"
    assert (source.file_name, source.stem, source.trial) == ("airline.json", "airline", 3)


@given(st.lists(st.integers(0, 10**12)))
def test_natural_order_is_that_of_numbers(numbers):
    assert sorted((f"task{n}x" for n in numbers), key=natural) == [f"task{n}x" for n in sorted(numbers)]


def test_a_name_that_is_not_unicode(tmp_path, run):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\nx\n")
    result = run("chat", tmp_path / "*.jsonl")
    assert result.rows[0]["domain"] == "caf�"
    assert result.rejects[0][:2] == ("caf�.jsonl", "line 2")
