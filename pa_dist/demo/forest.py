"""Exact values over the trees of some tasks.

They are those of KL-regularised RL against the reference's own action probabilities (arXiv 2606.26080):

    Q(s, a) = E[r + V(s')],   optimum: V*(s) = beta log sum_a ref(a|s) exp(Q*(s, a) / beta),   A* = Q* - V*

What a model says outside the listed actions is one more action, which ends the episode with nothing.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pa_dist.demo.packed import edge_log_probs, pieces
from pa_dist.demo.tree import Tree


class Forest:
    """Several trees as one, laid out for a model's forward passes and for values from the leaves up."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self.trees = list(trees)
        first_node = np.cumsum([0, *(len(tree.node_segments) for tree in trees)])
        first_edge = np.cumsum([0, *(len(tree.edges) for tree in trees)])
        self.first_edge = first_edge[:-1]
        self.n_nodes, self.n_edges = int(first_node[-1]), int(first_edge[-1])
        edges = [(n, edge) for n, tree in zip(first_node, trees, strict=False) for edge in tree.edges]
        self.edge_node = torch.tensor([n + edge.node for n, edge in edges])
        outcomes = [
            (e, probability, n + child if child >= 0 else self.n_nodes, reward)
            for e, (n, edge) in enumerate(edges)
            for probability, child, reward in edge.outcomes
        ]
        edge, probability, child, reward = zip(*outcomes, strict=True)
        self.outcome_edge, self.outcome_child = torch.tensor(edge), torch.tensor(child)
        self.outcome_probability = torch.tensor(probability, dtype=torch.float64)
        self.outcome_reward = torch.tensor(reward, dtype=torch.float64)
        self.node_depth = torch.tensor([t.segments[s].depth for t in trees for s in t.node_segments])
        self.roots = torch.from_numpy(first_node[:-1])

    def log_probs(self, model: PreTrainedModel, budget: int = 20_000) -> Tensor:
        """[edges] log-probability of each action's text after its history, float64."""
        packed = [
            (piece, int(n)) for tree, n in zip(self.trees, self.first_edge, strict=True) for piece in pieces(tree)
        ]
        batches = pack([len(piece.ids) for piece, _ in packed], budget)
        found = [edge_log_probs(model, [packed[i][0] for i in b], [packed[i][1] for i in b]) for b in batches]
        edges, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        return torch.zeros(self.n_edges, dtype=torch.float64).index_add(0, edges, values)

    def rest(self, log_probs: Tensor) -> Tensor:
        """[nodes] log-probability of saying something else than a listed action."""
        listed = torch.zeros(self.n_nodes, dtype=log_probs.dtype).index_add(0, self.edge_node, log_probs.exp())
        return torch.log1p(-listed.clamp(max=1 - 1e-9))

    def _by_depth(self) -> list[tuple[Tensor, Tensor]]:
        """Nodes and edges of each depth, deepest first."""
        edge_depth = self.node_depth[self.edge_node]
        depths = range(int(self.node_depth.max()), -1, -1)
        return [(torch.where(self.node_depth == d)[0], torch.where(edge_depth == d)[0]) for d in depths]

    def _backed_up(self, values: Tensor) -> Tensor:
        """[edges] Q from the values of all nodes, the last of which is the end's."""
        worth = self.outcome_probability * (self.outcome_reward + values[self.outcome_child])
        return torch.zeros(self.n_edges, dtype=values.dtype).index_add(0, self.outcome_edge, worth)

    def optimum(self, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """The exact optimum against the reference's log-probs [edges]: A* [edges] and V* [nodes]."""
        values = torch.zeros(self.n_nodes + 1, dtype=torch.float64)
        rest = self.rest(reference)
        for nodes, edges in self._by_depth():
            weight = torch.zeros(self.n_nodes, dtype=torch.float64)
            q = self._backed_up(values)[edges]
            # Rewards are at most 1 and beta is no smaller than 0.05, so exp(Q / beta) stays well inside float64.
            weight.index_add_(0, self.edge_node[edges], (reference[edges] + q / beta).exp())
            values[nodes] = beta * (weight[nodes] + rest[nodes].exp()).log()
        return self._backed_up(values) - values[self.edge_node], values[:-1]

    def objective(self, policy: Tensor, reference: Tensor, beta: float) -> Tensor:
        """[trees] expected reward of the policy less beta times its KL divergence from the reference; differentiable.

        Args:
          policy: [edges] log-probs, of which the result is a function.
          reference: [edges] log-probs.
        """
        rest, rest_reference = self.rest(policy), self.rest(reference)
        values = torch.zeros(self.n_nodes + 1, dtype=torch.float64)
        for nodes, edges in self._by_depth():
            gain = self._backed_up(values)[edges] - beta * (policy - reference)[edges]
            here = torch.zeros(self.n_nodes + 1, dtype=torch.float64)
            here = here.index_add(0, self.edge_node[edges], policy[edges].exp() * gain)
            other = -beta * rest[nodes].exp() * (rest - rest_reference)[nodes]
            values = values + here.index_add(0, nodes, other)
        return values[self.roots]

    def visits(self, choice: Tensor) -> Tensor:
        """[nodes] chance that an episode comes by, taking actions with probabilities `choice` [edges]."""
        arriving = torch.zeros(self.n_nodes + 1, dtype=torch.float64)
        arriving[self.roots] = 1.0
        for _, edges in reversed(self._by_depth()):
            taken = torch.zeros(self.n_edges, dtype=torch.float64)
            taken[edges] = arriving[self.edge_node[edges]] * choice[edges]
            arriving.index_add_(0, self.outcome_child, taken[self.outcome_edge] * self.outcome_probability)
        return arriving[:-1]


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Batches of indices, longest first, each of at most `budget` padded tokens or of a single sequence."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
