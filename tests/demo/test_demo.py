"""The shipped pair and rollouts, and the command over them without a network."""

import numpy as np
import pytest
from benchmarks.planning import planned, used
from demo_pair.make import write_rollouts
from demo_pair.train import Recipe
from transformers import AutoModelForCausalLM

from pa_dist.demo.agreement import SHIPPED, agreement, exact_advantages, held_out_tasks, rows_of, shipped_rollouts
from pa_dist.demo.command import demo_config
from pa_dist.demo.rollouts import TRIALS, WRONG
from pa_dist.demo.tree import as_text
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.tokens import load_tokenizer
from pa_dist.plan.plan import plan
from pa_dist.score.tokenize import tokenize
from pa_dist.store.folder import RunFolder

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(SHIPPED / "policy"))


@pytest.fixture(scope="module")
def engines():
    return {name: HFEngine(load_model(str(SHIPPED / name))) for name in ("policy", "reference")}


def test_what_ships_is_small_and_needs_no_code():
    for name in ("policy", "reference"):
        assert (SHIPPED / name / "model.safetensors").stat().st_size <= 4_000_000
        assert type(AutoModelForCausalLM.from_pretrained(SHIPPED / name)).__name__ == "LlamaForCausalLM"
    assert (SHIPPED / "rollouts.jsonl.gz").stat().st_size < 200_000


def test_shipped_rollouts_are_what_the_demo_needs():
    rows = shipped_rollouts()
    tasks = {task.task_id for task in held_out_tasks()}
    sampled = [row for row in rows if row["domain"] == "sampled"]
    assert {(row["task_id"], row["trial"]) for row in sampled} == {(t, i) for t in tasks for i in range(TRIALS)}
    assert len(tasks) >= 100
    assert {row["task_id"] for row in rows if row["domain"] == "greedy"} == tasks
    injected = [row for row in rows if row["domain"] == "injected"]
    assert all(row["messages"][row["mistake_step"]]["role"] == "assistant" for row in injected)
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_log_ratio_is_the_exact_advantage(tokenizer, engines):
    """The paper's theorem on tasks that were not trained on, each step scored as a run scores it."""
    tasks = held_out_tasks()[:40]
    rows = [r for r in shipped_rollouts() if r["domain"] == "sampled" and r["task_id"] in {t.task_id for t in tasks}]
    exact = exact_advantages(tasks, rows, tokenizer, engines["reference"].model, Recipe.beta)
    tokenized = [tokenize(as_text(row["messages"]), tokenizer, 512) for row in rows]
    summed = {}
    for name, engine in engines.items():
        columns = engine.score([t.sequence for t in tokenized])
        bounds = [np.cumsum(t.step_lengths)[:-1] for t in tokenized]
        summed[name] = [s.sum() for c, b in zip(columns, bounds, strict=True) for s in np.split(c.logprob, b)]
    measured = Recipe.beta * (np.array(summed["policy"]) - np.array(summed["reference"]))
    found = agreement([a for row in rows for a in exact[row["id"]]], measured)
    assert found.n > 1000
    assert found.pearson >= 0.97
    assert 0.9 <= found.slope <= 1.1


def test_agreement_equals_a_plain_fit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 0.5 * x + 0.1 * rng.normal(size=50)
    found = agreement(x, y)
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.slope == pytest.approx(np.polyfit(x, y, 1)[0])
    doubled = agreement(x, y, np.where(np.arange(50) < 10, 2.0, 1.0))
    assert doubled[:2] == pytest.approx(agreement([*x, *x[:10]], [*y, *y[:10]])[:2])


def test_rollouts_come_again_from_their_seed(tmp_path):
    for name in ("policy", "reference"):
        (tmp_path / name).symlink_to(SHIPPED / name)
    write_rollouts(tmp_path, Recipe())
    assert rows_of(tmp_path / "rollouts.jsonl.gz") == shipped_rollouts()


def test_what_was_put_in_is_the_only_wrong_action(tokenizer, engines):
    tasks = held_out_tasks()[:20]
    rows = [r for r in shipped_rollouts() if r["domain"] == "injected" and r["task_id"] in {t.task_id for t in tasks}]
    exact = exact_advantages(tasks, rows, tokenizer, engines["reference"].model, Recipe.beta)
    assert len(rows) == len(tasks)
    for row in rows:
        wrong = [1 + 2 * i for i, advantage in enumerate(exact[row["id"]]) if advantage <= WRONG]
        assert wrong == [row["mistake_step"]]


def test_the_command_needs_no_network(demo):
    out, done = demo
    for title in ("uq: demo greedy", "best_of_n: demo sampled, success", "fa: demo injected, step accuracy"):
        assert title in done.stdout
    assert "Per-step advantage against the exact A*: Pearson 0.9" in done.stdout
    folder = RunFolder(str(out))
    assert f"report: {out}/report/index.html" in done.stderr
    assert (out / "report" / "index.html").is_file()
    assert folder.count("logprobs") == folder.count("trajectories") == len(shipped_rollouts())
    assert folder.count("rejects") == 0
    expected, found = planned(plan(demo_config(str(out)), device="L4")), used(folder)
    # The world's few texts repeat, and with them the numbers: they take less room than those of a real model.
    assert 1 <= expected.pop("logprobs_bytes") / found.pop("logprobs_bytes") < 1.3
    assert expected == pytest.approx(found, rel=0.15)
