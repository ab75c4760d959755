"""Paths as users write them: expanded, kept as they are, or refused in a line that names the key."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pa_dist import config
from pa_dist.cli import app
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.ingest.sources import expand
from pa_dist.store.folder import RunFolder

HOME = "/home/someone"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def parsed(**sections):
    tree = {"trajectories": {"format": "chat", "paths": ["a"]}, "pair": {"policy": "p", "reference": "r"}}
    return config.parse({**tree, "output": "out", **sections})


def in_every_key(path):
    """A path as each key that takes one has it."""
    judge = {"kind": "classifier", "model": path}
    pair = {"policy": path, "reference": path}
    found = parsed(
        output=path, pair=pair, trajectories={"format": "chat", "paths": [path]}, reward_models={"judge": judge}
    )
    return {found.output, found.pair.policy, found.pair.reference, *found.trajectories.paths} | {
        found.reward_models["judge"].model
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", HOME),
        ("~/runs/a b", f"{HOME}/runs/a b"),
        ("~root/x", f"{os.path.expanduser('~root')}/x"),  # noqa: PTH111
        (Path("~/runs"), f"{HOME}/runs"),
        ("runs/~x", "runs/~x"),
        ("runs/x/", "runs/x/"),
        (".", "."),
        (Path("runs") / "x", "runs/x"),
        ("runs/[a]*{b},c;d:e=f&g|h", "runs/[a]*{b},c;d:e=f&g|h"),
        ("runs/50% #1", "runs/50% #1"),
        ("cost$5/é漢", "cost$5/é漢"),
        ("s3://bucket/~x/$y", "s3://bucket/~x/$y"),
        ("file:///tmp/a%20b", "file:///tmp/a%20b"),
    ],
)
def test_what_a_path_becomes(path, expected):
    assert in_every_key(path) == {expected}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "an empty path; the folder one is in is '.'"),
        ("  ", "an empty path"),
        ("C:\\runs\\x", "a path of Windows means nothing on this system"),
        ("d:/runs/x", "a path of Windows means nothing"),
        ("~nobody-of-that-name/x", "no home folder of '~nobody-of-that-name'"),
        ("$DATA/x", "variables are not expanded here; write what $DATA stands for"),
        ("x/${DATA}", "variables are not expanded here; write what ${DATA} stands for"),
        ("a\0b", "no path: it holds a NUL"),
        ("caf\udce9", "no path: it holds a NUL or what is not UTF-8"),
        ("s3:/bucket/x", "a URI begins with s3://, two slashes"),
        (Path("s3://bucket/x"), "a URI begins with s3://, two slashes"),
        ("file:///tmp/a#b", "what follows a # is no part of a URI's path; write %23"),
    ],
)
def test_what_no_key_takes(path, message):
    judge = {"judge": {"kind": "classifier", "model": path}}
    for key, sections in {
        "output": {"output": path},
        "pair.policy": {"pair": {"policy": path, "reference": "r"}},
        "trajectories.paths.0": {"trajectories": {"format": "chat", "paths": [path]}},
        "reward_models.judge.model": {"reward_models": judge},
    }.items():
        with pytest.raises(ConfigError) as caught:
            parsed(**sections)
        assert str(caught.value).startswith(f"{key}: {message}")


def test_a_name_that_is_there_is_taken_at_its_word():
    Path("$DATA").mkdir()
    assert parsed(trajectories={"format": "chat", "paths": ["$DATA"]}).trajectories.paths == ["$DATA"]


@pytest.mark.parametrize("path", ["runs/a?b", "runs/a\nb", "t\tb", "file:///tmp/a%3Fb", "file:///tmp/a\nb", "\x7f"])
def test_what_ray_would_take_for_another_path(path):
    """Ray 2.60 looks for a file's suffix in front of a `?`, and drops tabs and line breaks. A corpus may have them."""
    with pytest.raises(ConfigError, match=r"^output: '.*' cannot be in a run folder's path") as caught:
        parsed(output=path)
    assert "\n" not in str(caught.value)
    assert parsed(trajectories={"format": "chat", "paths": [path]}).trajectories.paths == [path]


def test_one_path_needs_no_list():
    for path in ("a.jsonl", Path("a.jsonl")):
        assert parsed(trajectories={"format": "chat", "paths": path}).trajectories.paths == ["a.jsonl"]


def test_names_of_every_kind_are_read(tmp_path):
    names = [
        "a b.jsonl",
        "a#b.jsonl",
        "a%20b.jsonl",
        "a?b.jsonl",
        "[a].jsonl",
        "a\nb.jsonl",
        "é漢.jsonl",
        "$DATA.jsonl",
    ]
    for name in names:
        Path(name).write_text("{}\n")
        assert [source.file_name for source in expand([name])] == [name]
        uri = Path(name).absolute().as_uri()
        assert [source.file_name for source in expand([uri])] == [name], uri
    assert {source.file_name for source in expand([".", "./", str(tmp_path)])} == set(names)
    assert [source.file_name for source in expand([f"{tmp_path.as_uri()}/*%20b.jsonl"])] == ["a b.jsonl"]


@pytest.mark.parametrize(("below", "why"), [("", "Not a directory"), ("/x", "Not a directory"), ("n", "File name too")])
def test_where_no_run_folder_can_be(below, why):
    Path("file").write_text("x")
    name = "n" * 300 if below == "n" else f"file{below}"
    with pytest.raises(RunFolderError) as caught:
        RunFolder(name).claim()
    assert str(caught.value).startswith(f"{name}: cannot be a run folder: {why}")


COMMANDS = [
    ["status", "~/none"],
    ["show", "~/none", "run-1"],
    ["top", "~/none"],
    ["report", "~/none"],
    ["evaluate", "~/none"],
    ["compare", "~/none", "x"],
    ["table", "~/none", "x"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_expand_too(command):
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0
    assert f"{HOME}/none" in str(done.exception)
    done = CliRunner().invoke(app, [part.replace("~/none", "$DATA") for part in command])
    assert str(done.exception) == "path: variables are not expanded here; write what $DATA stands for, got '$DATA'"


@pytest.mark.parametrize("command", [["demo"], ["ingest", "chat", "a"]], ids=lambda command: command[0])
def test_outputs_of_commands_are_checked(command):
    done = CliRunner().invoke(app, [*command, "--out", "a?b"])
    assert str(done.exception).startswith("--out: '?' cannot be in a run folder's path")
    assert not Path("a?b").exists()


@pytest.mark.parametrize("command", ["evaluate", "report", "status", "table", "top"])
def test_a_mistyped_run_folder_is_one_line_and_is_not_made(command, tmp_path):
    name = f"{tmp_path}/no such\nfolder"
    done = CliRunner().invoke(app, [command, name])
    assert isinstance(done.exception, RunFolderError)
    assert str(done.exception).startswith(name.replace("\n", "\\n"))
    assert "\n" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []
