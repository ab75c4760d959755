"""A run folder written directly, of trajectories whose log-probs are known: no model, no Ray."""

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.evaluate import evaluate
from pa_dist.render.plain import render
from pa_dist.store.folder import RunFolder

Row = dict[str, Any]


def message(role: str, content: str | None, *calls: tuple[str, str], reasoning: str | None = None) -> Row:
    tool_calls = [{"id": f"c{i}", "name": name, "arguments": arguments} for i, (name, arguments) in enumerate(calls)]
    said = {"role": role, "name": None, "content": content, "reasoning": reasoning}
    return {**said, "tool_calls": tool_calls or None, "tool_call_id": None}


def trajectory(key: str, task: str | None, trial: int | None, messages: list[Row], **labels: Any) -> Row:
    names = {"benchmark": "desk", "domain": "orders", "task_id": task, "trial": trial, "behavior": None}
    labels = {"reward": None, "mistake_step": None, "mistake_agent": None, "step_labels": None, **labels}
    return {"trajectory_id": key, **names, **labels, "messages": messages, "system": None, "tools": None, "extra": None}


def rows(n_tasks: int = 3, n_trials: int = 4) -> list[Row]:
    """Tasks of some trials, the first of each a success; the second's failure is labelled."""
    found = []
    for task in range(n_tasks):
        for trial in range(n_trials):
            messages = [
                message("user", f"Cancel order {4700 + task}, please."),
                message(
                    "assistant", None, ("lookup_order", f'{{"order_id": "{4700 + task}", "big": 12345678901234567890}}')
                ),
                message("tool", '{"status": "shipped"}'),
                message("assistant", f"It has shipped – çà, 中文 😀 {trial}."),
            ]
            label = {"mistake_step": 3, "mistake_agent": "assistant"} if trial == 1 else {}
            found.append(
                trajectory(f"run-{task}-{trial}", str(task), trial, messages, reward=float(trial == 0), **label)
            )
    return found


def write_run(path: str, given: list[Row], tokenizer: Any, policy: str) -> RunFolder:
    """An evaluated run folder of beta 1 in which each token's log-probs are drawn at random, but of thousandths."""
    folder, rng = RunFolder(path), np.random.default_rng(0)
    draw = partial(_drawn, rng)
    scored = []
    for row in given:
        rendered = render(row["messages"], "assistant")
        ids = [tokenizer(rendered.texts[i], add_special_tokens=False)["input_ids"] for i in rendered.actions]
        per_step = {name: [draw(len(step)) for step in ids] for name in _token_columns()}
        keys = {field.name: row.get(field.name) for field in (*schema.KEYS, *schema.LABELS, schema.STEP_LABELS)}
        told = {"step": rendered.actions, "agent": rendered.agents, "text_hash": [None] * len(ids)}
        scored.append({**keys, **told, "truncated": [False] * len(ids), "token_ids": ids, **per_step})
    folder.write("trajectories", "part-00000", pa.Table.from_pylist(given, schema.TRAJECTORIES))
    folder.write("logprobs", "part-00000", pa.Table.from_pylist(scored, schema.LOGPROBS))
    pair = {"policy": policy, "reference": policy, "policy_revision": None, "reference_revision": None}
    folder.remember(config={"name": "small"})
    folder.start("score", {"pair": pair, "score": {"max_length": 512}}, commits={"policy": None, "reference": None})
    folder.finish("score", rows=len(given), rejects=0, seconds=1.0)
    settings = Evaluate(intervals="none")
    folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
    summary = evaluate(settings, folder, map)
    folder.finish("evaluate", **asdict(summary), seconds=1.0)
    return folder


def _token_columns() -> list[str]:
    return [f"{model}_{name}" for model in schema.MODELS for name in schema.TOKEN_COLUMNS]


def _drawn(rng: np.random.Generator, n: int) -> list[float]:
    return (-rng.integers(0, 4000, n) / 1000).tolist()
