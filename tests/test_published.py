"""The commands of the README's table of published work, each on a small pair and files in the published layout."""

import json
from pathlib import Path

import pytest
import ray

from pa_dist import config, stages
from pa_dist.run import RunFolder

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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

    for name in ("airline", "retail"):
        put(f"tau2/greedy/qwen3-14b/{name}.json", simulations(name, 0))
    for trial in range(3):
        for benchmark in ("webshop", "bfcl"):
            put(f"{benchmark}/bon8/qwen3-14b/trial_{trial}/{benchmark}.json", simulations(benchmark, trial))
    for split in ("Hand-Crafted", "Algorithm-Generated"):
        agents = [{**message, "name": agent} for message, agent in zip(history, "ABAB", strict=True)]
        labels = {"mistake_step": "1", "mistake_agent": "B", "question_ID": split}
        put(f"who_and_when/{split}/1.json", {"question": "q", "history": agents, **labels})
    monkeypatch.chdir(tmp_path)


BFCL = ["trajectories={format: tau2, benchmark: bfcl, paths: ['data/bfcl/bon8/qwen3-14b/trial_*/bfcl.json']}"]


@pytest.mark.parametrize(
    ("name", "overrides", "scenario", "groups"),
    [
        ("uq_tau2_qwen3-14b", [], "uq", {("tau2", "airline"), ("tau2", "retail")}),
        ("uq_tau2_gemma4-4b_on_qwen3-14b", [], "uq", {("tau2", "airline"), ("tau2", "retail")}),
        ("bon_webshop_qwen3-14b", [], "best_of_n", {("webshop", "webshop")}),
        ("bon_webshop_qwen3-14b", BFCL, "best_of_n", {("bfcl", "bfcl")}),
        (
            "fa_who_and_when_qwen3-14b",
            [],
            "fa",
            {("who_and_when", "Hand-Crafted"), ("who_and_when", "Algorithm-Generated")},
        ),
    ],
)
def test_a_published_command_gives_its_figures(name, overrides, scenario, groups, published, pair):
    small = [f"pair={{policy: {pair['policy']}, reference: {pair['reference']}}}", "score.dtype=float32"]
    small += ["score.device=cpu", "evaluate.resamples=5", "output=out"]
    loaded = config.load(CONFIGS / f"{name}.yaml", [*overrides, *small])
    stages.run(loaded, lambda line: None)
    found = json.loads(RunFolder("out").read("metrics.json"))
    of = [row for row in found if row["scenario"] == scenario and row["method"] == "progress_advantage"]
    assert {(row["benchmark"], row["domain"]) for row in of} == groups
    assert any(row["value"] is not None for row in of)
    # The paper's own conventions are another reading of the same columns.
    stages.evaluate_folder(
        RunFolder("out"), config.Evaluate(preset="paper", resamples=0), lambda line: None, loaded.ray
    )
