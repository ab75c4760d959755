"""A run without a label: what its page, `show`, `top` and its tables say, and that they say the same."""

import base64
import gzip
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pytest
from rich.console import Console
from small_run import message, rows, trajectory, write_run
from tiny_models import save_tokenizer

from pa_dist.config import Evaluate
from pa_dist.ingest.labels.stage import LabelsStage
from pa_dist.reduce.stage import EvaluateStage
from pa_dist.report import sections
from pa_dist.report.command import report, report_at_end
from pa_dist.report.terminal.show import show
from pa_dist.report.terminal.top import top
from pa_dist.report.unlabelled import STANDS_OUT, address, corpus, said, tables
from pa_dist.report.viewer.chunks import write_viewer
from pa_dist.report.wording import SCENARIOS

HOSTILE = "<script>alert(1)</script> \x1b[31m \u202e & 'it'"
N = 24


def _trajectory(i: int) -> dict:
    turns = [message("user", "go"), *(message("assistant", f"{HOSTILE} {i} {'word ' * k}") for k in range(7))]
    return trajectory(f"run {i:02d}", None, None, turns)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("unlabelled")
    given = [*(_trajectory(i) for i in range(N)), trajectory("section-<b>", None, None, [message("assistant", "hi")])]
    tokenizer = save_tokenizer(root / "policy", bos=True)
    folder = write_run(str(root / "run"), given, tokenizer, str(root / "policy"))
    report(folder, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def html(run) -> str:
    return Path(run.path("report", "index.html")).read_text()


def _shown(function, *given):
    out = io.StringIO()
    function(*given, Console(file=out))
    return out.getvalue()


def _index(run):
    return json.loads(gzip.decompress(base64.b64decode(write_viewer(run, 100, map).index)))


def _scores(run):
    table = run.dataset("scores").to_table()
    return dict(
        zip(table["trajectory_id"].to_pylist(), table["progress_advantage__mean__mean"].to_pylist(), strict=True)
    )


def test_a_section_takes_the_place_of_empty_ones(html):
    assert html.count("No trajectory has a label, so there are no metrics.") == 1
    assert "pa-dist evaluate OUT labels=FILE" in html
    assert "Left out:" not in html
    assert not [title for title in SCENARIOS.values() if f"<h2>{title}</h2>" in html]
    assert re.findall(r'href="#(section-[a-z]+)"', html) == ["section-suspects", "section-facts"]


def test_trajectories_are_ranked_by_their_scores(run, html):
    expected = sorted((score, key) for key, score in _scores(run).items())[:20]
    table, *_ = tables(corpus(run))
    assert [(line.name, line.cells[0].split()[0]) for line in table.lines] == [
        (key, f"{s:+.3f}") for s, key in expected
    ]
    places = [html.index(f">{key.replace('<', '&lt;').replace('>', '&gt;')}</a></th>") for _, key in expected]
    assert places == sorted(places)


def test_what_is_unusual_is_what_the_tables_say(run, html):
    scores = np.array(list(_scores(run).values()))
    low = np.quantile(scores, 0.05)
    sentence = f"{(scores < low).sum()} of {N + 1} trajectories lie below the 5th percentile of scores, {low:+.3f}."
    assert sentence in html
    assert sum(line.cells[0].endswith("(lowest 5%)") for line in tables(corpus(run))[0].lines) == (scores < low).sum()
    cell = (pc.field("method") == "progress_advantage") & (pc.field("predictor") == "sharpest_drop")
    found = [a for a in run.dataset("attributions").to_table(filter=cell).to_pylist() if not a["fallback"]]
    judged = {a["trajectory_id"]: a["stands_out"] for a in found if a["stands_out"] is not None}
    out = sorted((z, key) for key, z in judged.items() if z <= STANDS_OUT)
    assert out  # or this says nothing
    assert f"In {len(out)} of {len(judged)} trajectories with enough steps" in html
    of_steps = tables(corpus(run))[1]
    assert [(line.name, line.cells[0]) for line in of_steps.lines] == [(key, f"{z:+.1f}") for z, key in out]


def test_the_histogram_holds_every_trajectory(run, html):
    path = run.path("report", "figures", "scores")
    assert ElementTree.parse(f"{path}.svg").getroot().tag.endswith("svg")
    assert Path(f"{path}.png").read_bytes().startswith(b"\x89PNG")
    assert sum(pacsv.read_csv(f"{path}.csv")["count"].to_pylist()) == N + 1
    assert all(f'href="figures/scores.{format}"' in html for format in ("svg", "png", "csv"))


def test_what_steps_say_stays_text(html):
    section = html[html.index('id="section-suspects"') : html.index('id="section-facts"')]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ␛[31m" in section
    assert "<script" not in section
    assert not re.search("[\x00-\x08\x1b\u202e]", section)


def test_tables_show_top_and_the_page_name_the_same_step(run):
    cell = (pc.field("method") == "progress_advantage") & (pc.field("predictor") == "sharpest_drop")
    blamed = {a["trajectory_id"]: a for a in run.dataset("attributions").to_table(filter=cell).to_pylist()}
    index, listed = _index(run), _shown(top, run, 100).split("Largest drops")[0]
    ranked = {line.name: line for line in tables(corpus(run))[0].lines}
    assert len(blamed) == len(index["id"]) == N + 1
    for key, number, n_steps in zip(index["id"], index["suspicious"], index["n_steps"], strict=True):
        of = blamed[key]
        assert number == (None if of["fallback"] else of["number"])
        if number is None:
            continue
        assert f"most suspicious step: {number} of {n_steps}\n" in _shown(show, run, key)
        assert re.search(rf"(?m)^ *{re.escape(key)} .* {number} of {n_steps} ", listed)
        if key in ranked:
            assert f"{number} of {n_steps}" in ranked[key].cells
            assert ranked[key].address == address(key, number)


def test_nothing_failed_that_nobody_labelled(run):
    index = _index(run)
    assert set(index["success"]) == {None}
    printed = _shown(top, run, 100)
    assert f": {N + 1} unknown" in printed
    assert "unknown; score" in _shown(show, run, "run 00")
    assert not re.search("fail", printed + _shown(show, run, "run 00"), re.IGNORECASE)


def test_a_mistake_without_a_reward_is_no_failure(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [{**row, "reward": None} for row in rows(1)]
    folder = write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy"))
    assert set(_index(folder)["success"]) == {None}
    assert "labelled mistake: step 2 of 2" in _shown(show, folder, "run-0-1")
    assert corpus(folder) is None  # there is a label


def test_of_few_trajectories_no_share_is_low_and_without_scores_nothing_is_ranked(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [_trajectory(0), trajectory("silent", None, None, [message("user", "hi")])]
    folder = write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy"))
    found = corpus(folder)
    assert found.low is None
    assert "1 of 2 trajectories have no score and are not ranked." in said(found)
    silent = write_run(str(tmp_path / "silent"), given[1:], tokenizer, str(tmp_path / "policy"))
    section = sections.build(silent, map).unlabelled
    assert (section.figures, section.tables) == ([], [])
    assert "1 of 1 trajectories have no score and are not ranked." in section.said


def test_of_trials_the_picks_are_named_and_no_figures_shown(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    given = [{**row, "reward": None, "mistake_step": None, "mistake_agent": None} for row in rows(3)]
    folder = write_run(str(tmp_path / "run"), given, tokenizer, str(tmp_path / "policy"))
    built = sections.build(folder, map)
    assert "Of 3 tasks with several trials the table selections has each method's pick." in built.unlabelled.said
    assert (built.scenarios, len(built.summary)) == ([], 1)


def test_no_metrics_are_said_with_the_reason(tmp_path, monkeypatch):
    tokenizer = save_tokenizer(tmp_path / "policy", bos=True)
    folder = write_run(str(tmp_path / "run"), [_trajectory(0)], tokenizer, str(tmp_path / "policy"))
    monkeypatch.setattr("pa_dist.reduce.stage.mapper", lambda name: map)
    told = []
    EvaluateStage(folder, Evaluate(), LabelsStage(folder, None)).run(told.append)
    said = "evaluate: 1 trajectories, 7 of 7 steps with an advantage, no metrics: no trajectory has a reward, "
    assert told[0].startswith(f"{said}a mistake_step or step labels (")


def test_a_run_ends_with_what_to_do_next(run, tmp_path):
    told = []
    report_at_end(run, told.append)
    assert told[-1] == f"next: `pa-dist top {run}` lists what is most worth a look; {run}/report/index.html shows it"


@pytest.mark.parametrize(
    ("key", "number", "expected"),
    [
        ("a b/é", 3, "#a%20b%2F%C3%A9&step=3"),
        ("section-a", None, "#%73ection-a"),
        ("&'()*!~._-", 1, "#%26'()*!~._-&step=1"),
        ("", 1, "#&&step=1"),
    ],
)
def test_addresses_are_those_of_the_viewer(key, number, expected):
    assert address(key, number) == expected
