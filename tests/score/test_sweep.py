"""A sweep on Ray: the policy is scored once, alpha 1 is the policy, and what died goes on."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shared_ray

import pa_dist
from pa_dist import cli, config, schema, stages
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.score import recall as recalling
from pa_dist.score import sweep
from pa_dist.score.stage import ScoreStage
from pa_dist.status import status
from pa_dist.store import index
from pa_dist.store.folder import CHECKPOINT, RunFolder
from pa_dist.store.lease import LOCK

pytestmark = pytest.mark.integration

POLICY, REFERENCE = ([f"{model}_{name}" for name in schema.TOKEN_COLUMNS] for model in schema.MODELS)


def load(pair, chat_file, out, **merge):
    return config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "score": {"dtype": "float32", "device": "cpu", "rows_per_block": 4, "max_length": 200, "columns": "all"},
            "merge": {"method": "linear", "alphas": [0, 1], **merge},
            "evaluate": {"resamples": 20},
            "output": str(out),
        }
    )


def columns(folder, *names):
    """Of each trajectory, the values of some columns."""
    rows = folder.dataset("logprobs").to_table(columns=["trajectory_id", *names]).to_pylist()
    return {row["trajectory_id"]: [np.concatenate(row[name]) for name in names] for row in rows}


@pytest.fixture(scope="module")
def swept(pair, chat_file, tmp_path_factory):
    """A scored run, then a sweep that goes on after it died: the run's folder, alpha 1's part, and what was said."""
    loaded = load(pair, chat_file, tmp_path_factory.mktemp("sweep") / "out")
    run, one = (RunFolder(loaded.output, alpha) for alpha in (None, 1.0))
    lines = []
    shared_ray.join()
    stages.ingest_and_score(loaded.model_copy(update={"merge": None}), lambda line: None)
    first_block_done(run, one, ScoreStage(run, loaded.scoring).settings(1.0))
    stages.run(loaded, lines.append)
    return run, one, lines


def first_block_done(run, part, settings):
    """What a sweep leaves that is killed after the first block; the block is the run's, to be known again by."""
    part.start("score", settings)
    path = Path(run.parts("logprobs")[0])
    Path(part.path("logprobs")).mkdir()
    shutil.copy(path, part.path("logprobs"))
    part.write(CHECKPOINT, path.stem.rpartition("-")[0], pq.read_table(path, columns=["trajectory_id"]))
    assert "alpha 1.0: score: 4 of 13 done" in status(run)[3]


def test_alpha_1_is_the_policy_which_is_scored_once(swept):
    run, one, _ = swept
    kept = pq.read_table(run.parts("logprobs")[0])["trajectory_id"].to_pylist()
    for reference, policy in zip(REFERENCE, POLICY, strict=True):
        was, is_now = columns(run, reference, policy), columns(one, reference, policy)
        assert len(was) == 12
        assert is_now.keys() == was.keys()
        for name in was:
            assert np.array_equal(is_now[name][1], was[name][1])
            assert np.abs(was[name][0] - was[name][1]).max() > 1e-3
            np.testing.assert_allclose(is_now[name][0], was[name][0 if name in kept else 1], atol=1e-5)
    assert one.manifest["stages"]["score"]["models"].keys() == {"reference"}


def test_a_sweep_that_died_goes_on(swept):
    run, one, lines = swept
    assert "score: done before" in lines
    assert any(line.startswith("alpha 1.0: score: 12 trajectories scored, 1 rejected, 4 of them") for line in lines)
    (reject,) = one.dataset("rejects").to_table().to_pylist()
    assert (reject["trajectory_id"], reject["reason"]) == ("silent", "no message is an action")
    assert status(run)[3].startswith("alpha 1.0: score: done, 12 scored, 1 rejected")
    assert "alpha 1.0: score: 12 trajectories scored" in Path(run.path("run.log")).read_text()


def test_the_metrics_of_all_alphas_are_one_table(swept):
    run, one, lines = swept
    assert lines[-1] == "alphas: the metrics of 2 alphas are in alphas.parquet"
    table = pa_dist.open_run(run.uri).arrow("alphas")
    assert table.schema.equals(schema.ALPHAS)
    rows = table.to_pylist()
    assert {(row["merge_method"], row["alpha"]) for row in rows} == {("linear", 0.0), ("linear", 1.0)}
    for part in (run, one):
        ours = [{name: row[name] for name in schema.METRICS.names} for row in rows if row["alpha"] == (part.alpha or 0)]
        assert ours == json.loads(Path(part.path("metrics.json")).read_text())


def test_a_command_that_takes_a_run_folder_takes_an_alphas(swept, capsys):
    run, one, _ = swept
    address = f"{run.uri}/alphas/1.0/"
    before = Path(run.path("alphas.parquet")).read_bytes()
    cli.evaluate(address, ["resamples=10"])
    said = capsys.readouterr().err
    assert f"alpha 1.0: report: {one.path('report', 'index.html')}" in said
    assert Path(one.path("report", "index.html")).is_file()
    assert one.manifest["stages"]["evaluate"]["settings"]["evaluate"]["resamples"] == 10
    # Of other settings than the run's, its metrics are no row of a table that compares alphas.
    assert "alphas.parquet stays as it was: alpha 1.0 evaluated with other settings than the run" in said
    assert Path(run.path("alphas.parquet")).read_bytes() == before
    # Its settings begin with the run's: those of its config, which a part has none of.
    assert run.manifest["config"]["evaluate"]["resamples"] == 20
    cli.status(address)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ingest: done, 13 trajectories kept")
    assert [line.split(",")[0] for line in lines[1:]] == ["score: done", "evaluate: done"]
    assert pa_dist.open_run(address).folder == one


@pytest.mark.parametrize("alphas", [[1], [0.5]])
def test_alphas_of_one_folder_have_the_same_settings(swept, alphas, pair, chat_file):
    refused = load(pair, chat_file, swept[0].uri, alphas=alphas, density=0.3)
    with pytest.raises(
        RunFolderError, match=r"out, alpha 1\.0: made with other settings \(merge\.density: 0\.2 -> 0\.3"
    ):
        stages.run(refused, print)


def test_a_fresh_start_leaves_no_alpha(swept, tmp_path):
    shutil.copytree(swept[0].uri, tmp_path / "out")
    run = RunFolder(str(tmp_path / "out"))
    run.start_over()
    assert sweep.begun(run) == []
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left - {LOCK} == {"manifest.json"}  # the lock is whoever's works here, and stays


@pytest.fixture
def scored(tmp_path):
    """A run of seven trajectories in three files, with columns that say whose they are."""
    run = RunFolder(str(tmp_path))
    for part, names in enumerate(("abc", "de", "fg")):
        rows = [
            {"trajectory_id": name, **{column: [[ord(name) + k], [], [k, -1.5]] for k, column in enumerate(POLICY)}}
            for name in names
        ]
        run.write("logprobs", f"part-{part}", pa.Table.from_pylist(rows, schema.LOGPROBS))
    return run


@pytest.mark.parametrize("digest_size", [8, 1])
def test_columns_are_found_again_in_the_files_that_hold_them(scored, digest_size, monkeypatch):
    if digest_size == 1:  # digests that clash
        monkeypatch.setattr(index, "_digests", lambda ids: np.array([ord(i[0]) % 2 for i in ids], np.uint64))
    where = index.locate(scored, "logprobs")
    assert (np.diff(where.digests.astype(float)) >= 0).all()
    found = recalling.recall(scored, where, ["g", "unknown", "b", "a"])
    assert found[1] == "the run itself did not score it"
    for name, columns in zip("gba", (found[0], *found[2:]), strict=True):
        assert [column.tolist() for column in columns] == [[ord(name) + k, k, -1.5] for k in range(4)]


def test_what_is_null_is_found_again_as_it_was_scored(tmp_path):
    run, ids = RunFolder(str(tmp_path)), [[7, 7], [7]]
    topk = {"policy_topk_logprob_mean": [[-1.0, -2.0], [-3.0]], "policy_entropy": [[1.0, 2.0], [3.0]]}
    row = {"policy_logprob": [None, [-4.0]], **topk, "policy_self_certainty": [None, None]}
    row |= {"trajectory_id": "a", "token_ids": ids}
    run.write("logprobs", "part-0", pa.Table.from_pylist([row], schema.LOGPROBS))
    (found,) = recalling.recall(run, index.locate(run, "logprobs"), ["a"])
    assert found.logprob.tolist() == [-math.inf, -math.inf, -4]
    assert found.entropy.tolist() == [1, 2, 3]
    assert found.self_certainty is None


def test_only_files_that_hold_the_rows_are_read(scored, monkeypatch):
    where, read = index.locate(scored, "logprobs"), []
    nothing = pa.table({"trajectory_id": []})
    monkeypatch.setattr(RunFolder, "read_table", lambda self, path, *_: read.append(path) or nothing)
    recalling.recall(scored, where, ["d", "e"])
    assert read == [scored.parts("logprobs")[1]]


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"alphas": []}, "merge.alphas: List should have at least 1 item"),
        ({"alphas": [0, 0.0]}, "merge.alphas: an alpha is there twice"),
        ({"alphas": [float("nan")]}, "merge.alphas.0: Input should be a finite number"),
        ({"density": 0}, "merge.density: Input should be greater than 0, got 0"),
        ({"method": "tie"}, "merge.method: Input should be 'linear', 'ties'"),
    ],
)
def test_mistakes_in_the_section(pair, chat_file, tmp_path, merge, message):
    with pytest.raises(ConfigError) as caught:
        load(pair, chat_file, tmp_path, **merge)
    assert str(caught.value).startswith(message)


def test_a_part_of_a_folder_reads_the_trajectories_of_the_whole():
    run, part = RunFolder("/a/b"), RunFolder("/a/b", 0.25)
    assert part.path("trajectories") == run.path("trajectories") == "/a/b/trajectories"
    assert (part.path("logprobs", "x"), part.path()) == ("/a/b/alphas/0.25/logprobs/x", "/a/b/alphas/0.25")
    assert (part.whole, run.whole) == (run, run)
    assert RunFolder.of("alphas/0.25") == RunFolder(".", 0.25)
