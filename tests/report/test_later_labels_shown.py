"""Labels that came later through the stages of an evaluation: what the run says of them, and what shows them."""

import base64
import gzip
import io
import json
import shutil

import pytest
from rich.console import Console
from small_run import rows, write_run
from tiny_models import save_tokenizer

from pa_dist.config import Evaluate
from pa_dist.errors import ConfigError
from pa_dist.ingest.labels.stage import LabelsStage
from pa_dist.reduce.stage import EvaluateStage
from pa_dist.report.facts import facts
from pa_dist.report.figures.points import reject_counts
from pa_dist.report.terminal.show import show
from pa_dist.report.terminal.top import top
from pa_dist.report.viewer.chunks import write_viewer
from pa_dist.store.folder import RunFolder

BARE = {"reward": None, "mistake_step": None, "mistake_agent": None, "step_labels": None}


def labelled():
    found = rows()
    for row in found:
        row["reward"] = float(row["trial"] == 1)
    found[2] |= {"mistake_step": 1, "mistake_agent": None, "step_labels": [None, -1, None, 1]}
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose files had the labels, and the same without any."""
    root = tmp_path_factory.mktemp("later")
    tokenizer = save_tokenizer(root / "policy", bos=True)
    with_labels = write_run(str(root / "given"), labelled(), tokenizer, str(root / "policy"))
    return with_labels, write_run(str(root / "bare"), [row | BARE for row in rows()], tokenizer, str(root / "policy"))


@pytest.fixture
def bare(made, tmp_path, monkeypatch):
    monkeypatch.setattr("pa_dist.ingest.labels.stage.mapper", lambda label: map)
    monkeypatch.setattr("pa_dist.reduce.stage.mapper", lambda label: map)
    shutil.copytree(made[1].uri, tmp_path / "run")
    return RunFolder(str(tmp_path / "run"))


def evaluated(folder, labels=None):
    said = []
    settings = Evaluate(intervals="none", labels=labels)
    stage = EvaluateStage(folder, settings, LabelsStage(folder, settings.labels))
    stage.check(said.append)
    stage.run(said.append)
    return said


def viewed(folder):
    viewer = write_viewer(folder, 100, map)
    chunks = {number: gzip.decompress(base64.b64decode(chunk)) for number, chunk in viewer.chunks.items()}
    index = json.loads(gzip.decompress(base64.b64decode(viewer.index)))
    return {name: of for name, of in index.items() if name != "run"}, chunks


def printed(folder):
    out = io.StringIO()
    console = Console(file=out, width=200)
    for row in rows():
        show(folder, row["trajectory_id"], console)
    top(folder, 5, console, failures=True)
    return out.getvalue()


def write(path, *more):
    names = ("reward", "mistake_step", "mistake_agent", "step_labels")
    given = [{"trajectory_id": row["trajectory_id"], **{name: row[name] for name in names}} for row in labelled()]
    path.write_text(json.dumps([*given, *more]))
    return str(path)


def test_viewer_and_terminal_show_what_was_joined(made, bare, tmp_path):
    given, before = made[0], (viewed(bare), printed(bare))
    evaluated(bare, write(tmp_path / "labels.json"))
    assert viewed(bare) == viewed(given) != before[0]
    assert printed(bare) == printed(given) != before[1]
    assert "labelled mistake: step 1 of 2" in printed(bare)
    evaluated(bare)
    assert (viewed(bare), printed(bare)) == before


def test_the_run_says_what_was_joined(bare, tmp_path):
    again = {"trajectory_id": "run-0-0", "success": False}
    contrary = {"trajectory_id": "run-0-1", "mistake_step": 1}
    path = write(tmp_path / "labels.json", again, contrary, {"id": "x", "reward": 1}, {"id": "y", "reward": 1}, 7)
    said = evaluated(bare, path)
    assert said[0].startswith(
        "labels: 17 rows label 11 trajectories; 1 doubled, 2 contradicting another, 2 of no trajectory of this run "
        "(such as trajectory_id x), 1 unusable; rejects has the reasons ("
    )
    record = bare.manifest["stages"]["labels"]
    counts = {"rows": 17, "labelled": 11, "doubled": 1, "contradicting": 2, "unmatched": 2, "unusable": 1}
    assert record | counts == record
    assert record["settings"]["labels"] == bare.manifest["stages"]["evaluate"]["settings"]["evaluate"]["labels"] == path
    digest = record["settings"]["sha256"]
    assert sum(count for _, _, count in reject_counts(bare).reasons) == 5
    assert (
        "Labels that came later",
        "of 11 trajectories, by 17 rows, 1 doubled, 2 contradicting, 2 unmatched, 1 unusable",
    ) in facts(bare)

    assert evaluated(bare, write(tmp_path / "labels.json"))[0].startswith("labels: 12 rows label 12 trajectories (")
    assert bare.manifest["stages"]["labels"]["settings"]["sha256"] != digest
    assert not bare.parts("rejects")

    assert not any(line.startswith("labels") for line in evaluated(bare))
    assert "labels" not in bare.manifest["stages"]
    assert not bare.parts("labels")


def test_a_file_that_cannot_be_leaves_the_evaluation_before_it(bare, tmp_path):
    before = bare.manifest
    with pytest.raises(ConfigError, match=r"^evaluate\.labels: nothing matches"):
        evaluated(bare, str(tmp_path / "none.csv"))
    assert bare.manifest == before


def test_credentials_are_left_out(bare, tmp_path):
    settings = Evaluate(labels="s3://key:secret@bucket/labels.csv")
    stage = EvaluateStage(bare, settings, LabelsStage(bare, settings.labels))
    assert "secret" not in json.dumps([stage.settings(), stage.labels.settings()])
