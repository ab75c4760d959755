"""`pa-dist show` and `pa-dist top`: what they print, by hand, and nothing that a terminal would obey."""

import io
import itertools
import re
from pathlib import Path

import pytest
from rich.console import Console
from small_run import message, rows, trajectory, write_run
from tiny_models import save_tokenizer

from pa_dist.errors import RunFolderError
from pa_dist.report.show import show
from pa_dist.report.terminal import bar, visible
from pa_dist.report.top import largest_drops, lowest_scores, top
from pa_dist.run import RunFolder

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
    assert f"1 assistant  advantage {first:+.3f}" in printed
    assert f"sum {first + second:+.3f}" in printed
    assert "[assistant]: It has shipped – çà, 中文 😀 1." in printed
    marked = [line for line in printed.splitlines() if "✕ labelled failure" in line]
    assert len(marked) == 1
    assert marked[0].startswith("3 assistant")
    assert "\x1b" not in printed
    assert "▼" in printed
    assert "▼" not in shown(run, "run-1-0")  # which succeeded


def test_an_alphas_part_shows_the_runs_trajectories(run, tmp_path):
    path = tmp_path / "alphas" / "0.5"
    path.mkdir(parents=True)
    for name in Path(run.uri).iterdir():
        (tmp_path if name.name == "trajectories" else path).joinpath(name.name).symlink_to(name)
    assert shown(RunFolder.of(f"{path}/"), "run-1-1") == shown(run, "run-1-1")
    assert RunFolder.of(f"{path}/") == RunFolder(str(tmp_path), 0.5)
    assert RunFolder.of(run.uri) == run


def test_tokens_have_grounds_of_colour(run):
    assert shown(run, "run-1-1", colour=True).count("\x1b[38;2;16;16;16;48;2;") > 10


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
    out = io.StringIO()
    top(run, 20, Console(file=out), failures=True)
    printed = out.getvalue()
    assert "Lowest scores, that did not succeed, by progress_advantage__mean__mean" in printed
    assert "run-2-0" not in printed
    assert "run-2-1" in printed
    assert "It has shipped" in printed
    assert "\x1b" not in printed


def test_bars_and_marks():
    assert [bar(value, 1.0, 4) for value in (1.0, -0.5, 0.28125, 0.0)] == ["████", "██", "█▏", ""]
    assert visible("a\tb\nc\x7f\u2066\ud800") == "a\tb\nc␡‹U+2066›‹U+D800›"
