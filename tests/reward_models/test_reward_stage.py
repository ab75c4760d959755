"""A run with reward models on Ray: their tables, its scores and metrics, rerun, resume and refusals."""

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shared_ray
import torch
from tiny_models import CRITIQUE, save_classifier, save_critic, save_model, save_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pa_dist import config, stages
from pa_dist.engine import vllm
from pa_dist.errors import ConfigError, PaDistError, ResourceError, RunFolderError
from pa_dist.render.plain import render
from pa_dist.reward_models.stage import RewardStage
from pa_dist.runtime.targets import reward_target
from pa_dist.status import status
from pa_dist.store.folder import RunFolder

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_classifier(root / "ordinal", 0, labels=4)
    save_tokenizer(root / "ordinal", bos=True)
    save_critic(root / "critic")
    common = {"dtype": "float32", "device": "cpu", "num_gpus": 0, "rows_per_block": 3}
    return {
        "wild": {**common, "kind": "wildreward", "model": str(root / "ordinal"), "input": "plain", "max_length": 60},
        "prm": {
            **common,
            "kind": "thinkprm",
            "engine": "hf",
            "model": str(root / "critic"),
            "max_length": 4000,
            "max_new_tokens": 20,
        },
    }


@pytest.fixture(scope="module", autouse=True)
def on_ray():
    shared_ray.join()


def settings(pair, chat_file, out, models):
    return config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "score": {"dtype": "float32", "device": "cpu", "max_length": 60},
            "reward_models": models,
            "evaluate": {"resamples": 20},
            "output": str(out),
        }
    )


@pytest.fixture(scope="module")
def finished(pair, chat_file, models, tmp_path_factory):
    loaded = settings(pair, chat_file, tmp_path_factory.mktemp("run") / "out", models)
    lines = []
    stages.run(loaded, lines.append)
    return loaded, lines


def rows(folder, table):
    return folder.dataset(table).to_table().sort_by("trajectory_id").to_pylist()


def test_whole_trajectories_have_the_scores_of_a_plain_pass(finished, models):
    folder = RunFolder(finished[0].output)
    where = models["wild"]["model"]
    tokenizer, model = AutoTokenizer.from_pretrained(where), AutoModelForSequenceClassification.from_pretrained(where)
    judged, scores = rows(folder, "rewards/wild"), rows(folder, "scores")
    messages = {row["trajectory_id"]: row["messages"] for row in rows(folder, "trajectories")}
    assert len(judged) == len(scores) == 12
    for row, score in zip(judged, scores, strict=True):
        text = "".join(render(messages[row["trajectory_id"]], "assistant").texts)
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids[-60:]])).logits[0].tolist()
        expected = 1 + sum(1 / (1 + math.exp(-x)) for x in logits)
        assert score["wild__none__none"] == row["score"] == pytest.approx(expected, abs=1e-4)
        assert (row["n_tokens"], row["truncated"], row["step"]) == (60, True, None)


def test_steps_have_the_critics_probabilities(finished):
    folder = RunFolder(finished[0].output)
    first, second = 4 / 5, 1 / 10
    for row in rows(folder, "rewards/prm"):
        assert row["critique"] == "".join(CRITIQUE[:-1])
        assert row["step"] == [1, 3]
        assert row["step_read"] == ["logprob", "logprob"]
        assert row["step_score"] == pytest.approx([first, second], abs=1e-4)
    for row in rows(folder, "scores"):
        assert row["prm__none__mean"] == pytest.approx((first + second) / 2, abs=1e-4)
    blamed = [row for row in rows(folder, "attributions") if row["method"] == "prm"]
    assert {row["step"] for row in blamed if row["predictor"] == "earliest_below"} == {3}
    assert finished[0].evaluate.reward_threshold == 0.5


def test_what_has_no_action_is_a_reject_of_every_stage_and_still_one_trajectory(finished):
    rejects = [row for row in rows(RunFolder(finished[0].output), "rejects") if row["place"] == "silent"]
    found = sorted((row["stage"], row["trajectory_id"], row["reason"]) for row in rejects if row["stage"] == "reward")
    assert found == [
        ("reward", None, "prm: no message is an action"),
        ("reward", None, "wild: no message is an action"),
    ]
    assert [row["trajectory_id"] for row in rejects if row["stage"] == "score"] == ["silent"]


def test_what_a_run_says_and_leaves(finished):
    loaded, lines = finished
    assert any(line.startswith("reward wild: 12 trajectories judged, 1 rejected, ") for line in lines)
    assert "reward wild: 12 of them shown in part: longer than max_length 60" in lines
    assert "reward prm: of 24 steps 24 read from log-probs, 0 from verdicts, 0 never judged" in lines
    said = status(RunFolder(loaded.output))
    assert [line.partition(" (")[0] for line in said[2:4]] == [
        "reward wild: done, 12 scored, 1 rejected",
        "reward prm: done, 12 scored, 1 rejected",
    ]
    metrics = json.loads(Path(loaded.output, "metrics.json").read_text())
    scenarios = {name: {row["scenario"] for row in metrics if row["method"] == name} for name in ("wild", "prm")}
    assert scenarios == {"wild": {"uq", "prefix", "best_of_n"}, "prm": {"uq", "prefix", "best_of_n", "fa"}}
    assert not list(Path(loaded.output, "checkpoint_rewards").rglob("*.parquet"))


def test_a_finished_run_is_not_done_again_and_a_half_done_one_goes_on(finished, tmp_path):
    loaded, _ = finished
    shutil.copytree(loaded.output, tmp_path / "out")
    again = loaded.model_copy(update={"output": str(tmp_path / "out")})
    lines = []
    stages.run(again, lines.append)
    assert lines[2:4] == ["reward wild: done before", "reward prm: done before"]

    # As a driver leaves it that dies after all blocks but one: their ids are committed, and its reject.
    folder, into = RunFolder(again.output), reward_target("wild")
    expected = rows(folder, into.table)
    lost, *kept = folder.parts(into.table)
    folder.filesystem.delete_file(lost)
    for path in kept:
        ids = pq.read_table(path, columns=["trajectory_id"])
        folder.write(into.checkpoint, Path(path).stem.rpartition("-")[0], ids)
    folder.write(into.checkpoint, "rejected", pa.table({"trajectory_id": ["silent"]}))
    folder.start(into.stage, folder.manifest["stages"][into.stage]["settings"])
    assert status(folder)[2].startswith("reward wild: ")
    stages.run(again, lines.append)
    assert rows(folder, into.table) == expected
    assert 0 < folder.manifest["stages"][into.stage]["done_before"] < 13


def test_the_version_of_vllm_decides_what_it_generates(finished, monkeypatch):
    monkeypatch.setattr(vllm, "installed", lambda: "0.32.0")
    tree = finished[0].model_dump(mode="json")
    tree["reward_models"]["by_vllm"] = {**tree["reward_models"]["prm"], "engine": "vllm"}
    loaded = config.parse(tree)
    of = {
        name: RewardStage(RunFolder(loaded.output), name, model, "auto").settings()["versions"]
        for name, model in loaded.reward_models.items()
    }
    assert of["by_vllm"] == {**of["prm"], "vllm": "0.32.0"}
    assert of["wild"] == of["prm"]


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_critiques_by_vllm_are_those_by_transformers(finished, tmp_path):
    pytest.importorskip("vllm")
    shutil.copytree(finished[0].output, tmp_path / "out")
    tree = {**finished[0].model_dump(mode="json"), "output": str(tmp_path / "out")}
    tree["reward_models"]["by_vllm"] = {**tree["reward_models"]["prm"], "engine": "vllm", "gpu_memory": 0.1}
    stages.run(config.parse(tree), lambda line: None)
    folder = RunFolder(tree["output"])
    ours, theirs = (rows(folder, f"rewards/{name}") for name in ("prm", "by_vllm"))
    assert len(ours) == len(theirs) == 12
    for one, other in zip(ours, theirs, strict=True):
        assert other["step_score"] == pytest.approx(one["step_score"], abs=1e-3)
        assert {**other, "step_score": None} == {**one, "step_score": None}
    metrics = json.loads(Path(folder.path("metrics.json")).read_text())
    assert {row["scenario"] for row in metrics if row["method"] == "by_vllm"} == {"uq", "prefix", "best_of_n", "fa"}


def test_other_settings_are_refused_and_other_pools_are_not(finished, models):
    loaded, _ = finished

    def altered(**keys):
        tree = loaded.model_dump(mode="json")
        tree["reward_models"]["wild"].update(keys)
        return config.parse(tree)

    with pytest.raises(RunFolderError, match=r"model\.max_length: 60 -> 61"):
        stages.ingest_and_score(altered(max_length=61), print)
    lines = []
    stages.ingest_and_score(altered(replicas=2, rows_per_block=7, batch_tokens=100), lines.append)
    assert "reward wild: done before" in lines


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "not/a/model"}, ConfigError, r"reward_models\.rm\.model: there is no folder 'not/a/model'"),
        ({"model": "not/there"}, ConfigError, r"reward_models\.rm\.model: 'not/there' is neither a folder"),
        ({"read": "logit"}, ConfigError, r"reward_models\.rm\.read: the model has 4 labels; ordinal, or probability"),
        ({"read": "probability", "label": 4}, ConfigError, r"reward_models\.rm\.label: the model has 4 labels, from 0"),
        ({"input": "chat"}, ConfigError, r"reward_models\.rm\.model: the tokenizer of .* has no chat template"),
        ({"max_length": 9999}, ConfigError, r"reward_models\.rm\.max_length: the model reads at most 2048 tokens"),
        (
            {"num_gpus": 2, "device": None},
            ConfigError,
            r"reward_models\.rm\.num_gpus of 2: transformers' reward mod",
        ),
        ({"num_gpus": 4}, ResourceError, r"reward_models\.rm\.num_gpus: rm 1 x 4 = 4 GPUs, the cluster has 0"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_starts(
    pair, chat_file, models, tmp_path, changes, error, message
):
    loaded = settings(pair, chat_file, tmp_path / "out", {"rm": {**models["wild"], **changes}})
    with pytest.raises(error, match=message):
        stages.run(loaded, print)
    assert not (tmp_path / "out" / "trajectories").exists()


def test_a_name_of_a_method_is_taken(pair, chat_file, models, tmp_path):
    with pytest.raises(ConfigError, match=r"reward_models\.entropy: a method has this name; take another"):
        stages.run(settings(pair, chat_file, tmp_path / "out", {"entropy": models["wild"]}), print)


def test_a_checkpoint_without_a_head_ends_the_run_in_one_line(finished, models, tmp_path):
    save_model(tmp_path / "model", 0)
    save_tokenizer(tmp_path / "model", bos=True)
    shutil.copytree(finished[0].output, tmp_path / "out")
    headless = {**models["wild"], "model": str(tmp_path / "model"), "read": "probability", "label": 1}
    tree = {**finished[0].model_dump(mode="json"), "output": str(tmp_path / "out")}
    lines = []
    with pytest.raises(PaDistError, match=r"^reward rm: .* lacks weights of LlamaForSequenceClassification, 1 in all"):
        stages.run(config.parse({**tree, "reward_models": {"rm": headless, **models}}), lines.append)
    assert "score: done before" in lines
