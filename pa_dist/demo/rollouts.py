"""Episodes of the world as chat trajectories: sampled, greedy, and sampled with one wrong action put in."""

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pa_dist.demo.forest import Forest
from pa_dist.demo.tree import Tree
from pa_dist.demo.world import Message

BENCHMARK = "demo"
TRIALS = 8
# An action this much worse than the optimum counts as wrong.
WRONG = -0.1

Row = dict[str, Any]


def rollouts(forest: Forest, policy: Tensor, exact: Tensor, seed: int) -> list[Row]:
    """Of each task: `TRIALS` sampled episodes, one greedy, and one sampled with a wrong action put in.

    Args:
      policy: [edges] log-probs of the policy that acts.
      exact: [edges] exact advantages, which say what is wrong.
    """
    rng = random.Random(seed)
    rows = []
    for tree, first in zip(forest.trees, forest.first_edge, strict=True):
        stop = first + len(tree.edges)
        logp, wrong = policy[first:stop].tolist(), (exact[first:stop] <= WRONG).tolist()
        for trial in range(TRIALS):
            rows.append(_row(tree, "sampled", trial, *_play(tree, logp, rng)))
        rows.append(_row(tree, "greedy", 0, *_play(tree, logp, rng, greedy=True)))
        played = _play(tree, logp, rng, wrong=wrong)
        while played[2] is None:  # it ended before the turn that was drawn
            played = _play(tree, logp, rng, wrong=wrong)
        rows.append(_row(tree, "injected", 0, *played))
    return rows


def _play(
    tree: Tree, logp: Sequence[float], rng: random.Random, greedy: bool = False, wrong: Sequence[bool] | None = None
) -> tuple[list[Message], float, int | None]:
    """One episode: its messages, its reward, and the message that was put in, all others being no mistakes."""
    messages, node, mistake = [tree.replies[0]], 0, None
    turn = rng.randrange(4)  # the first turn at which something wrong may be put in
    while True:
        edges = tree.edges_at(node)
        bad = [e for e in edges if wrong is not None and wrong[e]]
        edges = [e for e in edges if e not in bad]  # the best action of a state is never a wrong one
        if mistake is None and bad and len(messages) >= 2 * turn:
            edge = rng.choice(bad)
            mistake = len(messages)
        elif greedy:
            edge = max(edges, key=lambda e: logp[e])
        else:
            edge = rng.choices(edges, torch.tensor([logp[e] for e in edges]).exp().tolist())[0]
        messages.append(tree.edges[edge].message)
        outcomes = tree.edges[edge].outcomes
        _, node, reward = rng.choices(outcomes, [probability for probability, _, _ in outcomes])[0]
        if node < 0:
            return messages, reward, mistake
        messages.append(tree.replies[node])


def _row(tree: Tree, domain: str, trial: int, messages: list[Message], reward: float, mistake: int | None) -> Row:
    task = tree.task.task_id
    row: Row = {"id": f"{domain}-{task}-{trial}", "benchmark": BENCHMARK, "domain": domain, "task_id": task}
    row |= {"trial": trial, "reward": reward, "messages": messages}
    return row if mistake is None else row | {"mistake_step": mistake, "mistake_agent": "assistant"}


def write(rows: Iterable[Row]) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def edges_of(tree: Tree, messages: Sequence[Message]) -> list[int]:
    """The actions of an episode, as edges of its task's tree."""
    node, taken = 0, []
    for action, reply in zip(messages[1::2], [*messages[2::2], None], strict=True):
        edge = next(e for e in tree.edges_at(node) if tree.edges[e].message == action)
        taken.append(edge)
        children = [child for _, child, _ in tree.edges[edge].outcomes if child >= 0]
        node = next((child for child in children if tree.replies[child] == reply), -1)
    return taken
