"""The reductions against a plain loop, on synthetic log-prob columns."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.block.tables import reduce_block

BLOCK = 1500
Step = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")


def compare(sizes: Sequence[int], loop: int, repeats: int, labelled: float) -> None:
    """Print the time per trajectory of the block reduction at several sizes, against a plain loop beside it."""
    one_core()
    for size in sizes:
        fast = _time_fast(size, labelled)
        slow = [_time_loop(loop, labelled, seed) for seed in range(repeats)]
        each = [seconds / min(BLOCK, size) for seconds in fast[: max(1, size // BLOCK)]]
        print(
            f"{size:>9,} trajectories: {sum(fast):.2f} s, {spread(each, 1e6)} us each; plain loop {spread(slow, 1e6)}; "
            f"ratio {np.median(slow) * size / sum(fast):.0f}",
            flush=True,
        )


def spread(times: Sequence[float], unit: float = 1) -> str:
    """The median, the least and the most."""
    return f"{np.median(times) * unit:.2f} ({min(times) * unit:.2f} to {max(times) * unit:.2f})"


def _time_fast(trajectories: int, labelled: float) -> list[float]:
    """Seconds of each block; making the block is not counted."""
    settings = Evaluate()
    reduce_block(block(0, 50, labelled), settings)
    times = []
    for start in range(0, trajectories, BLOCK):
        table = block(start, min(BLOCK, trajectories - start), labelled)
        began = time.perf_counter()
        reduce_block(table, settings)
        times.append(time.perf_counter() - began)
    return times


def _time_loop(trajectories: int, labelled: float, seed: int) -> float:
    rows = [_as_arrays(row) for row in block(seed * trajectories, trajectories, labelled).to_pylist()]
    began = time.perf_counter()
    for row in rows:
        plain_loop(row)
    return (time.perf_counter() - began) / trajectories


def one_core() -> None:
    """Keep all threads of this process on one core, and let its workers start no more of them."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def block(start: int, n: int, labelled: float, step_labels: float = 0.0) -> pa.Table:
    """Rows of `logprobs`: about 15 steps of about 80 tokens, one step in a hundred truncated to nothing.

    Args:
      labelled, step_labels: shares with a mistake_step, and with a label for each step, of which one in five is wrong.
    """
    rng = np.random.default_rng(start)
    n_steps = rng.integers(8, 23, n)
    total = int(n_steps.sum())
    truncated = rng.random(total) < 0.01
    n_tokens = np.where(truncated, 0, rng.integers(20, 141, total))
    outer, inner = (pa.array(np.concatenate([[0], np.cumsum(c)]), pa.int32()) for c in (n_steps, n_tokens))

    def per_token(values: np.ndarray[Any, Any]) -> pa.Array:
        return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, pa.array(values)))

    def per_step(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(outer, values)

    def noise(scale: float) -> np.ndarray[Any, Any]:
        return -scale * rng.random(int(n_tokens.sum()), dtype=np.float32)

    index = np.arange(start, start + n)
    reward = (rng.random(n) < 0.4).astype(float)
    position = np.concatenate([np.arange(2, 2 * count + 2, 2) for count in n_steps])
    mistake = np.where(rng.random(n) < labelled, 2 * rng.integers(1, n_steps + 1), -1)
    columns: dict[str, Any] = {name: pa.nulls(n, schema.LOGPROBS.field(name).type) for name in schema.LOGPROBS.names}
    columns |= {
        "trajectory_id": [f"trajectory-{i:09d}" for i in index],
        "benchmark": pa.repeat("synthetic", n),
        "task_id": [f"task-{i // 8:08d}" for i in index],
        "trial": pa.array(index % 8, pa.int32()),
        "reward": reward,
        "mistake_step": pa.array(mistake, pa.int32(), mask=mistake < 0),
        "mistake_agent": pa.array([None if m < 0 else "assistant" for m in mistake], pa.string()),
        "step": per_step(pa.array(position, pa.int32())),
        "agent": per_step(pa.repeat("assistant", total)),
        "text_hash": per_step(pa.array([f"{i:016x}" for i in rng.integers(0, 2**63, total)])),
        "truncated": per_step(pa.array(truncated)),
        "token_ids": per_token(rng.integers(0, 150_000, int(n_tokens.sum()), dtype=np.int32)),
    }
    scales = {"logprob": 3, "topk_logprob_mean": 9, "entropy": -2, "self_certainty": -20}
    for model in schema.MODELS:
        columns |= {f"{model}_{name}": per_token(noise(scale)) for name, scale in scales.items()}
    if step_labels:
        columns["step_labels"] = _step_labels(np.random.default_rng([start, 1]), n_steps, step_labels)
    return pa.table(columns, schema=schema.LOGPROBS)


def _step_labels(rng: np.random.Generator, n_steps: np.ndarray[Any, Any], share: float) -> pa.Array:
    """Of messages, of which each second one from the third on is a step."""
    ends = np.concatenate([[0], np.cumsum(2 * n_steps + 1)])
    labels, message = rng.choice([1, 1, 1, 0, -1], ends[-1]), np.arange(ends[-1]) - np.repeat(ends[:-1], np.diff(ends))
    values = pa.array(labels, pa.int8(), mask=(message < 2) | (message % 2 == 1))
    without = np.append(rng.random(len(n_steps)) >= share, False)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32(), mask=without), values)


def _as_arrays(row: dict[str, Any]) -> dict[str, Any]:
    """What a loop would hold in memory: one float32 array a step and column."""
    nested = [name for name in row if name.startswith(("policy_", "reference_"))]
    return row | {name: [np.array(step, np.float32) for step in row[name]] for name in nested}


def plain_loop(row: dict[str, Any]) -> tuple[list[Step], Step, list[Step]]:
    """The same rows of steps, scores and attributions as `reduce_block`, a trajectory, a step and a cell at a time."""
    read = [_loop_step(row, position) for position in range(len(row["step"]))]
    keys = {field.name: row[field.name] for field in schema.KEYS}
    steps = [
        keys | {"step": row["step"][i], "agent": row["agent"][i], "n_tokens": len(row["policy_logprob"][i])}
        | {"text_hash": row["text_hash"][i], "truncated": row["truncated"][i]}
        | {"label": _loop_label(row, row["step"][i])}
        | {"reason": "truncated" if not values and row["truncated"][i] else None}
        | {f"{m}__{a}": values.get((m, a)) for m in _ADVANTAGES for a in schema.TOKEN_AGGS}
        for i, values in enumerate(read)
    ]  # fmt: skip
    valid = [i for i, values in enumerate(read) if values]
    scores = keys | {field.name: row[field.name] for field in schema.LABELS}
    labels = row["step_labels"] or []
    scores |= {"first_wrong": labels.index(schema.WRONG) if schema.WRONG in labels else None}
    n_labelled = sum(_loop_label(row, message) is not None for message in row["step"])
    n_tokens = sum(step["n_tokens"] for step in steps)
    scores |= {"n_steps": len(read), "n_scored_steps": len(valid), "n_tokens": n_tokens}
    scores |= {"n_labelled_steps": n_labelled}
    for method, token_aggs, step_aggs, _ in _LOOP_METHODS:
        for token_agg in token_aggs:
            values = np.array([read[i][_SOURCE.get(method, method), token_agg] for i in valid])
            for step_agg in step_aggs:
                scores[f"{method}__{token_agg}__{step_agg}"] = _LOOP_STEP[step_agg](values) if valid else None
    scores |= {f"fewest_{of}__none__none": float(scores[f"n_{of}"]) for of in ("steps", "tokens")}
    labelled = row["mistake_step"] is not None or scores["first_wrong"] is not None
    return steps, scores, _loop_attributions(row, keys | {"labelled": labelled}, read, valid)


def _loop_label(row: dict[str, Any], message: int) -> int | None:
    return None if row["step_labels"] is None else row["step_labels"][message]


def _loop_step(row: dict[str, Any], position: int) -> dict[tuple[str, str], float]:
    policy, reference = row["policy_logprob"][position], row["reference_logprob"][position]
    if not len(policy):
        return {}
    topk = row["policy_topk_logprob_mean"][position]
    read = {
        "policy_logprob": policy,
        "reference_logprob": reference,
        "progress_advantage_per_token": policy.astype(np.float64) - reference,
        "topk_logprob_mean": topk,
        "confidence": -topk,
        "self_certainty": row["policy_self_certainty"][position],
        "entropy": row["policy_entropy"][position],
    }
    values = {
        (name, agg): float(_LOOP_TOKEN[agg](tokens)) for name, tokens in read.items() for agg in schema.TOKEN_AGGS
    }
    for agg in schema.TOKEN_AGGS:
        values["progress_advantage", agg] = values["policy_logprob", agg] - values["reference_logprob", agg]
    for agg in ("mean", "sum"):
        values["sequence_probability", agg] = float(np.exp(values["policy_logprob", agg]))
    values["perplexity", "mean"] = float(np.exp(-values["policy_logprob", "mean"]))
    return values


def _loop_attributions(
    row: dict[str, Any], keys: Step, read: list[dict[tuple[str, str], float]], valid: list[int]
) -> list[Step]:
    blamed = []
    keys = keys | {"mistake_step": row["mistake_step"], "mistake_agent": row["mistake_agent"]}
    mistake, mistake_agent = row["mistake_step"], row["mistake_agent"]
    scored = mistake is None or mistake in [row["step"][i] for i in valid]
    why = None if scored else "truncated" if row["mistake_step"] in row["step"] else "no action"
    for method, token_aggs, step_aggs, orientation in _LOOP_METHODS:
        for token_agg in token_aggs if len(step_aggs) > 1 else ():
            if not keys["labelled"] and (method, token_agg) != schema.HEADLINE:
                continue
            values = orientation * np.array([read[i][method, token_agg] for i in valid])
            for predictor, (position, fallback) in zip(schema.PREDICTORS, _loop_blame(values), strict=True):
                step, agent = row["step"][valid[position]], row["agent"][valid[position]]
                cell = {"method": method, "token_agg": token_agg, "predictor": predictor, "step": step, "agent": agent}
                cell |= {"number": valid[position] + 1, "stands_out": _loop_stands_out(values, position)}
                cell |= {"fallback": fallback, "label": _loop_label(row, step), "unreachable": why}
                right = {
                    "correct": None if mistake is None else step == mistake,
                    "agent_correct": None if mistake_agent is None else agent.startswith(mistake_agent),
                }
                blamed.append(keys | cell | right)
    return blamed


def _loop_stands_out(values: np.ndarray[Any, Any], position: int) -> float | None:
    centre = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - centre))
    return float((values[position] - centre) / spread) if len(values) >= schema.FEWEST_STEPS and spread > 0 else None


def _loop_blame(values: np.ndarray[Any, Any]) -> Iterator[tuple[int, bool]]:
    """The place each predictor blames, and whether that is only its tie rule."""
    deepest = int(np.argmin(np.cumsum(values)))
    yield deepest, bool(values[deepest] >= 0)
    lowest = int(np.argmin(values))
    yield (lowest, False) if values[lowest] < 0 else (0, True)
    falls = np.diff(values)
    yield (int(np.argmin(falls)) + 1, False) if len(falls) and falls.min() < 0 else (0, True)


_ADVANTAGES = ("progress_advantage", "progress_advantage_per_token")
_SOURCE = {"deepconf_tail": "confidence", "deepconf_bottom10": "confidence"}
_LOOP_TOKEN: dict[str, Any] = {
    "mean": lambda x: np.mean(x, dtype=np.float64),
    "sum": lambda x: np.sum(x, dtype=np.float64),
    "last": lambda x: x[-1],
    "min": np.min,
    "max": np.max,
}
_LOOP_STEP: dict[str, Any] = {
    "mean": lambda x: float(np.mean(x)),
    "sum": lambda x: float(np.sum(x)),
    "last": lambda x: float(x[-1]),
    "max": lambda x: float(np.max(x)),
    "min": lambda x: float(np.min(x)),
    "bottom10": lambda x: float(np.mean(np.sort(x)[: max(1, (len(x) + 9) // 10)])),
}
_ALL = (schema.TOKEN_AGGS, schema.STEP_AGGS)
_LOOP_METHODS = (
    *((name, *_ALL, 1) for name in (*_ADVANTAGES, "policy_logprob", "reference_logprob", "topk_logprob_mean")),
    ("self_certainty", *_ALL, 1),
    ("entropy", *_ALL, -1),
    ("deepconf_tail", schema.TOKEN_AGGS, ("last",), 1),
    ("deepconf_bottom10", schema.TOKEN_AGGS, ("bottom10",), 1),
    ("perplexity", ("mean",), schema.STEP_AGGS, -1),
    ("sequence_probability", ("mean", "sum"), ("mean",), 1),
)
