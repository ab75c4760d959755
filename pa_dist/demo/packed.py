"""Scoring all actions of a tree in a few forward passes: its histories share their text, and so do the passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pa_dist.demo.tree import Tree

# Subtrees of nodes after this many actions are a sequence each.
TRUNK_DEPTH = 2


@dataclass
class TreePart:
    """A part of a tree as one sequence: some segments with all that stand before them."""

    ids: list[int]
    positions: list[int]
    visible: Tensor
    """[length, length] whether a token sees another: its own segment's past, and its ancestors."""
    before: list[int]
    """Place of the token before each scored one."""
    scored: list[int]
    """Places of the tokens to score."""
    edges: list[int]
    """The action that each scored token belongs to."""


@lru_cache(maxsize=1024)
def pieces(tree: Tree) -> list[TreePart]:
    """A tree as sequences that a model can run: one for each subtree of `TRUNK_DEPTH`, and one for what lies above."""
    edge_of = {edge.segment: index for index, edge in enumerate(tree.edges)}
    top_of: dict[int, int] = {}
    for index, segment in enumerate(tree.segments):
        is_top = segment.depth == TRUNK_DEPTH and index not in edge_of
        top_of[index] = index if is_top else top_of.get(segment.parent, 0)
    members: dict[int, list[int]] = {}
    for index, top in top_of.items():
        members.setdefault(top, []).append(index)
    return [_piece(tree, own, edge_of) for own in members.values()]


def _piece(tree: Tree, own: list[int], edge_of: dict[int, int]) -> TreePart:
    above: list[int] = []
    ancestor = tree.segments[own[0]].parent
    while ancestor >= 0:
        above.insert(0, ancestor)
        ancestor = tree.segments[ancestor].parent
    piece = TreePart([], [], torch.empty(0), [], [], [])
    last: dict[int, int] = {}  # place of each segment's last token
    rows: dict[int, Tensor] = {}
    order = [*above, *own]
    total = sum(len(tree.segments[s].ids) for s in order)
    piece.visible = torch.zeros(total, total, dtype=torch.bool)
    for index in order:
        segment = tree.segments[index]
        start, parent = len(piece.ids), segment.parent
        stop = start + len(segment.ids)
        position = piece.positions[last[parent]] + 1 if parent >= 0 else 0
        seen = rows.get(parent, torch.zeros(total, dtype=torch.bool)).clone()
        piece.visible[start:stop] = seen
        piece.visible[start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
        seen[start:stop] = True
        rows[index], last[index] = seen, stop - 1
        piece.ids += segment.ids
        piece.positions += range(position, position + len(segment.ids))
        if index in edge_of and index in own:
            piece.scored += range(start, stop)
            piece.before += [last[parent], *range(start, stop - 1)]
            piece.edges += [edge_of[index]] * len(segment.ids)
    return piece


def edge_log_probs(
    model: PreTrainedModel, batch: Sequence[TreePart], first_edges: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Run pieces, each of a tree whose edges are numbered from `first_edges`.

    Returns:
      The edge of every scored token, and its log-probability in float64; both [tokens].
    """
    length = max(len(piece.ids) for piece in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    visible = torch.eye(length, dtype=torch.bool).repeat(len(batch), 1, 1)  # a row that sees nothing would be NaN
    for row, piece in enumerate(batch):
        n = len(piece.ids)
        ids[row, :n] = torch.tensor(piece.ids)
        positions[row, :n] = torch.tensor(piece.positions)
        visible[row, :n, :n] = piece.visible
    out = model.base_model(
        input_ids=ids, position_ids=positions, attention_mask=visible.unsqueeze(1), use_cache=False
    ).last_hidden_state
    rows = torch.tensor([row for row, piece in enumerate(batch) for _ in piece.scored])
    before = torch.tensor([place for piece in batch for place in piece.before])
    scored = torch.tensor([place for piece in batch for place in piece.scored])
    logits = model.get_output_embeddings()(out[rows, before])
    chosen = logits.log_softmax(-1).gather(1, ids[rows, scored].unsqueeze(1)).squeeze(1)
    edges = torch.tensor([first + e for first, piece in zip(first_edges, batch, strict=True) for e in piece.edges])
    return edges, chosen.double()
