"""How well measured advantages agree with the exact ones of the world."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from pa_dist.demo.forest import Forest
from pa_dist.demo.rollouts import Row, edges_of
from pa_dist.demo.tree import grow
from pa_dist.demo.world import Task, draw_tasks
from pa_dist.pairs import SHIPPED

HELD_OUT_SEED, HELD_OUT_TASKS = 1_000_003, 100


class Agreement(NamedTuple):
    """Of n steps: Pearson correlation, and the slope of measured on exact (least squares)."""

    pearson: float
    slope: float
    n: int


def held_out_tasks() -> list[Task]:
    """The tasks of the shipped rollouts, none of which training sees."""
    return draw_tasks(HELD_OUT_TASKS, HELD_OUT_SEED, held_out=True)


def shipped_rollouts() -> list[Row]:
    """Rows of the chat file that ships with the pair."""
    return rows_of(SHIPPED / "rollouts.jsonl.gz")


def rows_of(path: Path) -> list[Row]:
    """Rows of a compressed chat file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def exact_advantages(
    tasks: Sequence[Task], rows: Sequence[Row], tokenizer: Any, reference: Any, beta: float
) -> dict[str, list[float]]:
    """A* of each action of each row, by its id, against the reference's own action probabilities."""
    forest = Forest([grow(task, tokenizer) for task in tasks])
    with torch.inference_mode():
        exact, _ = forest.optimum(forest.log_probs(reference), beta)
    trees = {tree.task.task_id: (tree, first) for tree, first in zip(forest.trees, forest.first_edge, strict=True)}
    found = {}
    for row in rows:
        tree, first = trees[row["task_id"]]
        found[row["id"]] = [float(exact[first + edge]) for edge in edges_of(tree, row["messages"])]
    return found


def agreement(exact: ArrayLike, measured: ArrayLike, weights: ArrayLike | None = None) -> Agreement:
    """Compare steps one by one, each counting once or by its weight."""
    x, y = np.asarray(exact, np.float64), np.asarray(measured, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    dx, dy = x - w @ x, y - w @ y
    covariance, spread = w @ (dx * dy), w @ dx**2
    return Agreement(float(covariance / np.sqrt(spread * (w @ dy**2))), float(covariance / spread), len(x))
