"""All histories of a task as one tree, tokenised as trajectories are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pa_dist.demo.world import Message, State, Task, actions, request
from pa_dist.ingest.messages import messages
from pa_dist.render.plain import Rendered, render


@dataclass
class Passage:
    """A piece of text in the tree: an action, or what stands before one (the request, a tool's result)."""

    parent: int
    """Index of the segment before it, -1 for the request."""
    depth: int
    """Actions before it; an action's own depth is that of its node."""
    ids: list[int]


@dataclass
class Edge:
    """An action at a node."""

    node: int
    segment: int
    message: Message
    outcomes: list[tuple[float, int, float]]
    """Probability, next node (-1 at an end) and reward."""


@dataclass(eq=False)  # by identity, so that what is made of a tree can be cached
class Tree:
    """A task's nodes in order of depth, and the actions at each."""

    task: Task
    segments: list[Passage]
    node_segments: list[int]
    edges: list[Edge]
    replies: list[Message]
    """[nodes] the message that leads to each node."""

    def edges_at(self, node: int) -> list[int]:
        """The actions of a state."""
        return [index for index, edge in enumerate(self.edges) if edge.node == node]


def as_text(history: Sequence[Message]) -> Rendered:
    """Messages as a run would render them."""
    table: Any = messages(list(history)).messages
    return render(table, "assistant")


def grow(task: Task, tokenizer: Any) -> Tree:
    """The tree of a task, tokenised as trajectories are: rendered message by message, BOS first."""

    @cache
    def tokens(text: str) -> list[int]:  # most texts stand in many places of the tree
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def ids(message: Message, first: bool = False) -> list[int]:
        # A message's text does not depend on the others, but for the newline that leads every one but the first.
        rendered = as_text([message] if first else [message, message]).texts[-1]
        return [tokenizer.bos_token_id, *tokens(rendered)] if first else tokens(rendered)

    opening = request(task)
    tree = Tree(task, [Passage(-1, 0, ids(opening, first=True))], [0], [], [opening])
    states = [State()]
    node = 0
    while node < len(states):
        depth = tree.segments[tree.node_segments[node]].depth
        for action in actions(task, states[node]):
            segment = len(tree.segments)
            tree.segments.append(Passage(tree.node_segments[node], depth, ids(action.message)))
            outcomes = []
            for outcome in action.outcomes:
                child = -1
                if outcome.state is not None and outcome.reply is not None:
                    child = len(states)
                    states.append(outcome.state)
                    tree.node_segments.append(len(tree.segments))
                    tree.segments.append(Passage(segment, depth + 1, ids(outcome.reply)))
                    tree.replies.append(outcome.reply)
                outcomes.append((outcome.probability, child, outcome.reward))
            tree.edges.append(Edge(node, segment, action.message, outcomes))
        node += 1
    return tree
