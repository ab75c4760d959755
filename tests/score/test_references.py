"""Several references on Ray: the policy is scored once, each further reference alone, and what died goes on."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shared_ray
from tiny_models import save_model, save_tokenizer

from pa_dist import cli, config, schema, stages
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.reduce.evaluate import evaluate
from pa_dist.report.numbers import signed
from pa_dist.report.tables.metrics import measured, swept
from pa_dist.runtime.targets import reference_target
from pa_dist.status import status
from pa_dist.store.folder import RunFolder
from pa_dist.store.lease import LOCK

pytestmark = pytest.mark.integration

MERGE = {"method": "linear", "alphas": [0, 1]}
DPO, MERGED = reference_target("dpo"), reference_target("linear-1")


def load(pair, chat_file, out, **sections):
    score = {"dtype": "float32", "device": "cpu", "rows_per_block": 4, "max_length": 200}
    return config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "score": score,
            "evaluate": {"resamples": 10},
            "output": str(out),
            **sections,
        }
    )


@pytest.fixture(scope="module")
def references(pair, tmp_path_factory):
    """Those of the policy: the pair's, and one whose tokenizer cuts texts otherwise."""
    folder = tmp_path_factory.mktemp("models") / "dpo"
    save_model(folder, 7)
    save_tokenizer(folder, bos=True, vocabulary=270)
    return {"base": pair["reference"], "dpo": str(folder)}


@pytest.fixture(scope="module")
def runs(pair, references, chat_file, tmp_path_factory):
    """A run with each reference alone; and the first, to which the other is added, and a merged one, half of which was
    scored when it died. With what was said of the last."""
    place = tmp_path_factory.mktemp("runs")
    shared_ray.join()
    alone = []
    for name, reference in references.items():
        loaded = load({"policy": pair["policy"], "reference": reference}, chat_file, place / name)
        stages.ingest_and_score(loaded, lambda line: None)
        evaluate(loaded.evaluate, folder := RunFolder(loaded.output), map)
        alone.append(folder)
    shutil.copytree(place / "base", place / "both")
    loaded = load({"policy": pair["policy"], "references": references}, chat_file, place / "both", merge=MERGE)
    both, lines = RunFolder(loaded.output), []
    first_block_done(both, next(stage for stage in stages.stages(loaded) if stage.name == MERGED.stage))
    stages.run(loaded, lines.append)
    return *alone, both, lines


def first_block_done(run, stage):
    """What a stage leaves that is killed after the first block; the block is the first reference's, to be known."""
    run.start(stage.name, stage.settings())
    path = Path(run.parts("logprobs")[0])
    table = pq.read_table(path)
    run.write(MERGED.table, path.stem, table.select(schema.REFERENCE.names))
    run.write(MERGED.checkpoint, path.stem.rpartition("-")[0], table.select(["trajectory_id"]))
    assert "reference linear-1: 4 of 13 done" in status(run)


def by_id(run, name, columns=None):
    return run.dataset(name).to_table(columns=columns).sort_by("trajectory_id")


def numbers(table, name):
    return np.concatenate([step for row in table[name].to_pylist() for step in row])


def test_the_policy_is_scored_once_and_each_reference_alone(runs):
    base, dpo, both, lines = runs
    assert by_id(both, "logprobs").equals(by_id(base, "logprobs"))
    theirs, alone = by_id(both, DPO.table), by_id(dpo, "logprobs", schema.REFERENCE.names)
    assert theirs.schema.equals(schema.REFERENCE)
    exact = ["trajectory_id", "truncated", "token_ids_reference"]
    assert theirs.select(exact).equals(alone.select(exact))
    assert theirs["token_ids_reference"].null_count < len(theirs) == 12
    np.testing.assert_allclose(numbers(theirs, "reference_logprob"), numbers(alone, "reference_logprob"), atol=1e-5)
    made = both.manifest["stages"]
    assert [made[name]["models"].keys() for name in ("score", DPO.stage, MERGED.stage)] == [
        {"policy", "reference"},
        {"reference"},
        {"reference"},
    ]
    assert "score: done before" in lines
    assert made[DPO.stage]["noise"] == {"reason": "all is scored in float32"}


@pytest.mark.parametrize("name", ["steps", "scores", "prefixes"])
def test_its_tables_have_the_columns_of_runs_of_their_own(runs, name):
    base, dpo, both, _ = runs
    keys = [("trajectory_id", "ascending"), *([("step", "ascending")] if name == "steps" else [])]
    first, second, found = (run.dataset(name).to_table().sort_by(keys) for run in (base, dpo, both))
    assert found.select(first.column_names).equals(first)
    compared = [column for column in found.column_names if "@dpo__" in column]
    assert compared
    for column in compared:
        theirs = second[column.replace("@dpo", "")]
        if "worst" in column:
            assert len(found[column].to_pylist()) == len(theirs)
            continue
        ours, theirs = (x.to_numpy().astype(float) for x in (found[column], theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, equal_nan=True)


def test_alpha_1_is_the_policy_and_what_died_goes_on(runs):
    _, _, both, lines = runs
    kept = set(pq.read_table(both.parts("logprobs")[0])["trajectory_id"].to_pylist())
    logprobs, merged = by_id(both, "logprobs"), by_id(both, MERGED.table)
    for row, its in zip(logprobs.to_pylist(), merged.to_pylist(), strict=True):
        was = np.concatenate(row["reference_logprob" if row["trajectory_id"] in kept else "policy_logprob"])
        np.testing.assert_allclose(np.concatenate(its["reference_logprob"]), was, atol=1e-5)
    said = "reference linear-1: 12 trajectories scored, 1 rejected, 4 of them before"
    assert any(line.startswith(said) for line in lines)
    rejects = both.dataset("rejects").to_table().to_pylist()
    assert {(row["stage"], row["place"], row["trajectory_id"]) for row in rejects if row["stage"] != "ingest"} == {
        ("score", "silent", "silent"),
        (DPO.stage, "silent", None),
        (MERGED.stage, "silent", None),
    }
    assert [line.partition(",")[0] for line in status(both)][1:4] == [
        "score: done",
        "reference dpo: done",
        "reference linear-1: done",
    ]
    assert [row["alpha"] for row in swept(both, measured(both))["uq"]] == [0.0, 1.0]


def test_the_report_and_the_terminal_name_the_references(runs, capsys):
    both = runs[2]
    page = Path(both.path("report", "index.html"))
    cli.evaluate(both.uri, ["resamples=11"])
    out = capsys.readouterr().out
    assert "progress_advantage@dpo" in out
    text = page.read_text()
    assert "progress_advantage@dpo" in text
    assert "Reference base" in text
    assert "Reference dpo" in text
    assert "merged with the policy: method linear, alpha 1.0" in text
    cli.show(both.uri, "run-1")
    out = capsys.readouterr().out
    steps = by_id(both, "steps").filter(pc.field("trajectory_id") == "run-1").to_pylist()
    said = [
        f"  {name} {signed(step[f'progress_advantage@{name}__mean'])}" for step in steps for name in ("dpo", "linear-1")
    ]
    assert len(said) == 4
    assert all(of in out for of in said)


def test_one_that_was_scored_otherwise_is_refused(runs, references, pair, chat_file):
    several = {"policy": pair["policy"], "references": references}
    changed = load(several, chat_file, runs[2].uri, merge={**MERGE, "density": 0.3})
    with pytest.raises(RunFolderError, match=r"made with other settings \(merge\.density: 0\.2 -> 0\.3\)"):
        stages.run(changed, print)
    swapped = load({**several, "references": dict(reversed(references.items()))}, chat_file, runs[2].uri)
    with pytest.raises(RunFolderError, match=r"made with other settings \(pair\.reference: "):
        stages.run(swapped, print)


def test_all_models_are_given_as_much_as_the_shortest_reads(pair, references, chat_file, tmp_path):
    save_model(tmp_path / "short", 3, max_position_embeddings=100)
    save_tokenizer(tmp_path / "short", bos=True)
    several = {"policy": pair["policy"], "references": {**references, "short": str(tmp_path / "short")}}
    loaded, lines = load(several, chat_file, tmp_path / "out"), []
    _, score, *further, _ = stages.stages(loaded)
    stages.check([score, *further], lines.append)
    said = "reference short: score.max_length is 100, not 200: pair.references.short reads at most 100 tokens"
    assert any(line.startswith(said) for line in lines)
    assert not any(line.startswith("reference short: policy: ") for line in lines)
    score._cut_with_all()
    assert score.settings()["score"]["max_length"] == 100
    score.folder.start("score", score.settings(), **score._facts)
    assert stages.stages(loaded)[2].settings()["score"]["max_length"] == 100
    # One that is added later cannot shorten what was scored.
    score.folder.start("score", score.settings(), **{**score._facts, "positions": {}})
    with pytest.raises(ConfigError, match=r"^pair\.references\.short: it reads at most 100 tokens, and the run was"):
        stages.check(stages.stages(loaded)[3:4], print)


def test_mistakes_are_named_once_and_by_their_key(pair, references, chat_file, tmp_path):
    several = {"policy": str(tmp_path / "no"), "references": {**references, "sft": pair["policy"]}}
    with pytest.raises(ConfigError) as caught:
        stages.check(stages.stages(load(several, chat_file, tmp_path / "out"))[1:4], print)
    assert str(caught.value).count("pair.policy") == 1
    several = {"policy": pair["policy"], "references": {**references, "sft": pair["policy"], "rl": str(tmp_path)}}
    with pytest.raises(ConfigError) as caught:
        stages.check(stages.stages(load(several, chat_file, tmp_path / "out"))[1:5], print)
    first, second = str(caught.value).split("; pair.references.rl")
    assert first.startswith("pair.policy, pair.references.sft: both are")
    assert "config.json" in second


def test_a_fresh_start_leaves_no_reference(runs, tmp_path):
    shutil.copytree(runs[2].uri, tmp_path / "out")
    RunFolder(str(tmp_path / "out")).start_over()
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left - {LOCK} == {"manifest.json"}  # the lock is whoever's works here, and stays


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"alphas": []}, "merge.alphas: List should have at least 1 item"),
        ({"alphas": [0, 0.0]}, "merge.alphas: an alpha is there twice"),
        ({"alphas": [float("nan")]}, "merge.alphas.0: Input should be a finite number"),
        ({"density": 0}, "merge.density: Input should be greater than 0, got 0"),
        ({"method": "tie"}, "merge.method.0: Input should be 'linear', 'ties'"),
    ],
)
def test_mistakes_in_the_section(pair, chat_file, tmp_path, merge, message):
    with pytest.raises(ConfigError) as caught:
        load(pair, chat_file, tmp_path, merge={**MERGE, **merge})
    assert str(caught.value).startswith(message)
