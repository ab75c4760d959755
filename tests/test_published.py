"""The README's commands of published work, one of each kind, on a small pair and files in the published layout.

`test_config.py` reads the configs of all.
"""

import json
from pathlib import Path

import pytest
import shared_ray
from tiny_models import save_classifier, save_critic, save_tokenizer

from pa_dist import config, stages
from pa_dist.store.folder import RunFolder

pytestmark = pytest.mark.integration

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    shared_ray.join()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder like the published dataset's, to run commands in."""
    said = ["Please cancel my order.", "It has shipped already.", "Then refund it.", "Done, 25.50 are on their way."]
    history = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said, strict=True)]

    def put(name, content):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(json.dumps(content))

    def simulations(name, trial):
        one = {"messages": history, "trial": trial}
        return {
            "simulations": [
                {**one, "id": f"{name}-{task}", "task_id": str(task), "reward_info": {"reward": (task + trial) % 2}}
                for task in range(4)
            ]
        }

    for policy in ("qwen3-14b", "gemma4-4b"):
        for name in ("airline", "retail"):
            put(f"tau2/greedy/{policy}/{name}.json", simulations(name, 0))
        for trial in range(3):
            for benchmark in ("webshop", "bfcl"):
                put(f"{benchmark}/bon8/{policy}/trial_{trial}/{benchmark}.json", simulations(benchmark, trial))
    for split in ("Hand-Crafted", "Algorithm-Generated"):
        agents = [{**message, "name": agent} for message, agent in zip(history, "ABAB", strict=True)]
        labels = {"mistake_step": "1", "mistake_agent": "B", "question_ID": split}
        put(f"who_and_when/{split}/1.json", {"question": "q", "history": agents, **labels})
    monkeypatch.chdir(tmp_path)


BFCL = ["trajectories={format: tau2, benchmark: bfcl, paths: ['data/bfcl/bon8/qwen3-14b/trial_*/bfcl.json']}"]


@pytest.mark.parametrize(
    ("name", "overrides", "scenario", "groups"),
    [
        ("uq_tau2", ["source=qwen3-14b"], "uq", {("tau2", "airline"), ("tau2", "retail")}),
        ("bon_webshop", BFCL, "best_of_n", {("bfcl", "bfcl")}),
        (
            "fa_who_and_when",
            [],
            "fa",
            {("who_and_when", "Hand-Crafted"), ("who_and_when", "Algorithm-Generated")},
        ),
    ],
)
def test_a_published_command_gives_its_figures(name, overrides, scenario, groups, published, pair):
    loaded, found = ran(name, overrides, pair)
    of = [row for row in found if row["scenario"] == scenario and row["method"] == "progress_advantage"]
    assert {(row["benchmark"], row["domain"]) for row in of} == groups
    assert any(row["value"] is not None for row in of)
    # The paper's own conventions are another reading of the same columns.
    stages.evaluate_folder(
        RunFolder("out"), config.Evaluate(preset="paper", intervals="none"), lambda line: None, loaded.ray
    )


def ran(name, overrides, pair):
    """A shipped config's run by a small pair: the config and its metrics."""
    small = [f"pair={{policy: {pair['policy']}, reference: {pair['reference']}}}", "score.dtype=float32"]
    small += ["score.device=cpu", "evaluate.resamples=10", "output=out"]
    loaded = config.load(CONFIGS / f"{name}.yaml", [*overrides, *small])
    stages.run(loaded, lambda line: None)
    return loaded, json.loads(RunFolder("out").read("metrics.json"))


@pytest.fixture(scope="module")
def reward_models(tmp_path_factory):
    """Overrides of a reward model's keys, by its kind: small ones in place of the published."""
    root = tmp_path_factory.mktemp("reward_models")
    save_classifier(root / "wildreward", 0, labels=4)
    save_tokenizer(root / "wildreward", bos=True)
    save_critic(root / "thinkprm")
    small = {"dtype": "float32", "device": "cpu", "num_gpus": 0, "max_length": 2000}
    return {
        "wildreward": {**small, "model": root / "wildreward"},
        "thinkprm": {**small, "model": root / "thinkprm", "engine": "hf", "max_new_tokens": 20},
    }


@pytest.mark.parametrize(
    ("name", "judges", "where", "value"),
    [
        # All trajectories read alike, so a failure ties with every success.
        (
            "uq_tau2_reward_models",
            ["wildreward", "thinkprm-7b", "thinkprm-14b"],
            {"scenario": "uq", "metric": "auroc"},
            0.5,
        ),
        # The critic doubts the second message, which is the mistake.
        (
            "fa_who_and_when_thinkprm",
            ["thinkprm-14b"],
            {"scenario": "fa", "metric": "step_accuracy", "predictor": "earliest_below"},
            1.0,
        ),
    ],
)
def test_a_published_command_with_reward_models_gives_theirs(
    name, judges, where, value, published, pair, reward_models
):
    overrides = [
        f"reward_models.{judge}.{key}={setting}"
        for judge in judges
        for key, setting in reward_models[judge.partition("-")[0]].items()
    ]
    loaded, found = ran(name, ["source=gemma4-4b", *overrides], pair)
    assert set(loaded.reward_models) == set(judges)
    for judge in judges:
        of = [row for row in found if row["method"] == judge and where.items() <= row.items()]
        assert of
        assert {row["value"] for row in of} == {value}
