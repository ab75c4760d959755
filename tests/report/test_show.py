"""`pa-dist show` and `pa-dist top`: what they print, by hand, and nothing that a terminal would obey."""

import base64
import gzip
import io
import itertools
import json
import re
import shutil

import pyarrow.compute as pc
import pytest
from rich.console import Console
from small_run import message, rows, trajectory, write_run
from tiny_models import save_tokenizer

from pa_dist.errors import RunFolderError
from pa_dist.report.terminal.show import show
from pa_dist.report.terminal.top import largest_drops, lowest_scores, top
from pa_dist.report.viewer.chunks import write_viewer
from pa_dist.store import index
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import bar, visible

HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]no[/bold] \u202egnp \r\x00\x9b0m"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("show")
    tokenizer = save_tokenizer(root / "policy", bos=True)
    said = [message("user", HOSTILE), message(HOSTILE, "x" * 2000), message("assistant", HOSTILE)]
    given = [*rows(), trajectory("run-\x1b[2J[red]", None, None, said)]
    return write_run(str(root / "run"), given, tokenizer, str(root / "policy"))


def shown(run, key, *, colour=False, **options):
    out = io.StringIO()
    show(run, key, Console(file=out, force_terminal=colour, color_system="truecolor" if colour else None), **options)
    return out.getvalue()


def test_a_trajectory_as_text(run):
    printed = shown(run, "run-1-1")
    table = run.dataset("steps").to_table().to_pylist()
    first, second = (row["progress_advantage__mean"] for row in table if row["trajectory_id"] == "run-1-1")
    assert f"step 1 of 2 assistant (message 1)  advantage {first:+.3f}" in printed
    assert "message 2 tool\n" in printed
    assert f"sum {first + second:+.3f}" in printed
    assert "[assistant]: It has shipped – çà, 中文 😀 1." in printed
    marked = [line for line in printed.splitlines() if "✕ labelled mistake" in line]
    assert len(marked) == 1
    assert marked[0].startswith("step 2 of 2 assistant (message 3)")
    assert "labelled mistake: step 2 of 2\n" in printed
    assert "\x1b" not in printed


def test_show_top_and_the_viewer_name_the_same_step(run):
    (lowest,) = (table for table in printed_top(run).split("Largest drops")[:1])
    index = json.loads(gzip.decompress(base64.b64decode(write_viewer(run, 100, map).index)))
    places = dict(zip(index["id"], zip(index["suspicious"], index["n_steps"], strict=True), strict=True))
    for key in places:
        number, n_steps = places[key]
        (row,) = (row for row in lowest.splitlines() if row.startswith(f" {visible(key)} "))
        printed = shown(run, key)
        if number is None:
            assert "most suspicious step: none, no advantage is below zero" in printed
            assert "▼ most suspicious" not in printed
            assert not re.search(r"\d of \d", row)
        else:
            assert f"most suspicious step: {number} of {n_steps}" in printed
            (marked,) = (line for line in printed.splitlines() if "▼ most suspicious" in line)
            assert marked.startswith(f"step {number} of {n_steps} ")
            assert f" {number} of {n_steps} " in row
    assert {number for number, _ in places.values()} == {None, 1, 2}


def test_predictors_of_failures_have_nothing_to_say_of_a_success(run):
    marked = [name for trial in range(3) for name in re.findall("▼ (.+?)(?:  |$)", shown(run, f"run-{trial}-0"), re.M)]
    assert set(marked) <= {"most suspicious"}


def test_whose_rollout_it_is(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [{**rows(1, 1)[0], "behavior": "gpt-4o"}]
    text = shown(write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy")), "run-0-0")
    assert "desk · orders · task 0 · trial 0 · by gpt-4o\n" in text


def test_a_label_on_what_is_no_step(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    said = [message("user", "one"), message("assistant", "two")]
    given = [trajectory("a", None, None, said, mistake_step=0, mistake_agent="user")]
    printed = shown(write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy")), "a")
    assert "labelled mistake: message 0, which is no step" in printed
    assert "message 0 user  ✕ labelled mistake" in printed


def test_steps_that_are_labelled_wrong_beside_the_mistake(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    said = [message("user", "one"), *(message("assistant", text) for text in ("two", "three", "four"))]
    given = [trajectory("a", None, None, said, mistake_step=1, step_labels=[-1, -1, 0, -1])]
    printed = shown(write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy")), "a")
    marked = [line for line in printed.splitlines() if "✕ labelled" in line]
    assert [line.partition("  ✕ ")[2] for line in marked] == ["labelled wrong", "labelled mistake", "labelled wrong"]
    assert marked[0].startswith("message 0 user")
    assert marked[2].startswith("step 3 of 3")


def test_reasoning_stands_above_what_was_said(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    said = [message("user", "one"), message("assistant", "two", reasoning=f"{HOSTILE} {'y' * 1000}")]
    folder = write_run(str(tmp_path / "run"), [trajectory("a", None, None, said)], tokenizer, str(tmp_path / "policy"))
    printed = shown(folder, "a")
    head, thought, said = (printed.index(part) for part in ("step 1 of 1", "reasoning, no part of", "[assistant]: two"))
    assert head < thought < said
    assert "and not scored:\n␛[31mred␛]0;title␇ [bold]no[/bold]" in printed
    assert "more characters; --full shows them" in printed
    assert "y" * 1000 in shown(folder, "a", full=True)
    assert "\x1b" not in printed
    score = folder.manifest["stages"]["score"]
    folder.start("score", {**score["settings"], "render": {"style": "chat"}})
    assert "\nreasoning:\n" in shown(folder, "a")  # which a template may show, and then it is scored


def test_tokens_have_grounds_of_colour(run):
    assert shown(run, "run-1-1", colour=True).count("\x1b[38;2;16;16;16;48;2;") > 10


def printed_top(run, **options):
    out = io.StringIO()
    top(run, 20, Console(file=out), **options)
    return out.getvalue()


def squeezed(printed):
    return "\n".join(line.strip() for line in printed.splitlines())


@pytest.mark.parametrize("colour", [False, True])
def test_text_sends_no_escape_and_is_no_markup(run, colour):
    printed = shown(run, "run-\x1b[2J[red]", colour=colour)
    left = re.sub(r"\x1b\[[\d;]*m", "", printed) if colour else printed
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", left)
    assert "␛[31mred␛]0;title␇ [bold]no[/bold] ‹U+202E›gnp ␍␀‹U+009B›0m" in left
    assert "run-␛[2J[red]" in left
    assert "1,400 more characters; --full shows them" in left
    assert "x" * 2000 in shown(run, "run-\x1b[2J[red]", full=True)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("run-1", "no trajectory 'run-1'; nearest: run-1-0, run-1-1, run-1-2"),
        ("rnu-2-3", "no trajectory 'rnu-2-3'; nearest: run-2-3"),
        ("\x1b[2J", "no trajectory '␛[2J'; nearest: run-␛[2J[red]"),
        ("\udcff", r"no trajectory '\\udcff'"),
    ],
)
def test_an_unknown_id_is_one_line_with_the_nearest(run, wanted, told):
    with pytest.raises(RunFolderError) as caught:
        shown(run, wanted)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_lowest_and_the_largest_drops(run):
    scores = run.dataset("scores").to_table().to_pylist()
    expected = sorted((r["progress_advantage__mean__mean"], r["trajectory_id"]) for r in scores if r["reward"] != 1.0)
    found = lowest_scores(run, 5, 1.0, failures=True)
    assert [row["trajectory_id"] for row in found] == [key for _, key in expected[:5]]
    steps = run.dataset("steps").to_table().to_pylist()
    falls = []
    for before, after in itertools.pairwise(steps):
        if before["trajectory_id"] == after["trajectory_id"]:
            falls.append(
                (after["progress_advantage__mean"] - before["progress_advantage__mean"], after["trajectory_id"])
            )
    drops = largest_drops(run, 4, 1.0, failures=False)
    assert [(row["drop"], row["trajectory_id"]) for row in drops] == [fall for fall in sorted(falls) if fall[0] < 0][:4]
    assert all(not row["trajectory_id"].endswith("-0") for row in largest_drops(run, 9, 1.0, failures=True))


def test_top_says_what_it_ranks_by_and_how_steps_begin(run):
    printed = printed_top(run, failures=True)
    score, drop = "progress_advantage__mean__mean", "progress_advantage__mean"
    assert f"Lowest scores, by {score}: 9 failures, 1 unknown; known successes left out\n" in squeezed(printed)
    drops = largest_drops(run, 20, 1.0, failures=True)
    assert f"Largest drops from a step to the next, by {drop}: {len(drops)} in {len(drops)} failures;" in printed
    assert re.search(r"run-␛\[2J\[red\] +[+-]\d\.\d+ +unknown", printed)
    assert "run-2-0" not in printed
    assert f"Lowest scores, by {score}: 3 successes, 9 failures, 1 unknown\n" in squeezed(printed_top(run))
    assert "run-2-1" in printed
    assert "It has shipped" in printed
    assert "\x1b" not in printed


def test_bars_and_marks():
    assert [bar(value, 1.0, 4) for value in (1.0, -0.5, 0.28125, 0.0)] == ["████", "██", "█▏", ""]
    assert visible("a\tb\nc\x7f\u2066\ud800") == "a\tb\nc␡‹U+2066›‹U+D800›"


def test_a_run_of_many_files_shows_as_one_of_few_does(run, tmp_path, monkeypatch):
    shutil.copytree(str(run), tmp_path / "many")
    many = RunFolder(str(tmp_path / "many"))
    keys = run.dataset("scores").to_table()["trajectory_id"].to_pylist()
    for name in ("trajectories", "logprobs", "steps", "scores"):
        many.clear(name)
        for number, key in enumerate(keys):
            many.write(name, f"part-{number:05d}", run.dataset(name).to_table(filter=pc.field("trajectory_id") == key))
    assert printed_top(many) == printed_top(run)
    read = []
    monkeypatch.setattr("pa_dist.report.terminal.show.rows", lambda *given: read.append(given[1]) or index.rows(*given))
    assert shown(many, "run-1-1") == shown(run, "run-1-1")
    assert read
    assert max(map(len, read)) == 1  # the file of its rows alone
