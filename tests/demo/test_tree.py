"""The world's trees against plain passes, plain recursion and the properties that make values exact."""

import math

import numpy as np
import pytest
import torch
from demo_pair.train import Recipe, make_model, make_tokenizer

from pa_dist.demo.agreement import held_out_tasks
from pa_dist.demo.forest import Forest
from pa_dist.demo.tree import as_text, grow
from pa_dist.demo.world import ITEMS, PAYMENTS, draw_tasks
from pa_dist.engine.hf import HFEngine
from pa_dist.score.tokenize import tokenize

RECIPE = Recipe(hidden_size=32, layers=2, vocabulary=400)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(RECIPE)


@pytest.fixture(scope="module")
def forest(tokenizer):
    return Forest([grow(task, tokenizer) for task in draw_tasks(2, 3, held_out=False)])


@pytest.fixture(scope="module")
def log_probs(forest):
    """Random log-probs that leave a little to what is not listed."""
    generator = torch.Generator().manual_seed(0)
    pull = 3 * torch.rand(forest.n_edges, dtype=torch.float64, generator=generator)
    total = torch.zeros(forest.n_nodes, dtype=torch.float64).index_add(0, forest.edge_node, pull.exp())
    return pull - total[forest.edge_node].log() + math.log(0.99)


def paths(tree):
    """Every action with the messages up to it."""
    leading = {0: [tree.replies[0]]}
    for edge in tree.edges:
        so_far = [*leading[edge.node], edge.message]
        yield edge, so_far
        for _, child, _ in edge.outcomes:
            if child >= 0:
                leading[child] = [*so_far, tree.replies[child]]


def test_a_tree_is_scored_as_trajectories_are(forest, tokenizer):
    model = make_model(RECIPE).eval()
    engine = HFEngine(model, top_k=5)
    tree, first = forest.trees[1], int(forest.first_edge[1])
    with torch.inference_mode():
        found = forest.log_probs(model)[first:].numpy()
    tokenized = [tokenize(as_text(history), tokenizer, 512) for _, history in paths(tree)]
    columns = engine.score([t.sequence for t in tokenized])
    expected = [c.logprob[-t.step_lengths[-1] :].sum() for c, t in zip(columns, tokenized, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def plain_values(tree, logp, beta, best):
    """V of the root by recursion: the optimum, or what the policy `logp[0]` is worth against `logp[1]`."""

    def value(node):
        edges = [i for i, edge in enumerate(tree.edges) if edge.node == node]
        q = {i: sum(p * (r + (value(c) if c >= 0 else 0.0)) for p, c, r in tree.edges[i].outcomes) for i in edges}
        policy, reference = ({i: math.exp(table[i]) for i in edges} for table in logp)
        rest, rest_reference = 1 - sum(policy.values()), 1 - sum(reference.values())
        if best:
            return beta * math.log(sum(reference[i] * math.exp(q[i] / beta) for i in edges) + rest_reference)
        gain = sum(policy[i] * (q[i] - beta * math.log(policy[i] / reference[i])) for i in edges)
        return gain - beta * rest * math.log(rest / rest_reference)

    return value(0)


def test_values_equal_plain_recursion(forest, log_probs):
    tree, n = forest.trees[0], len(forest.trees[0].edges)
    reference = log_probs
    policy = (0.5 * log_probs.exp() + 0.1).log()
    _, best = forest.optimum(reference, 0.3)
    pair = policy[:n].tolist(), reference[:n].tolist()
    assert best[0].item() == pytest.approx(plain_values(tree, pair, 0.3, best=True), abs=1e-9)
    worth = forest.objective(policy, reference, 0.3)
    assert worth[0].item() == pytest.approx(plain_values(tree, pair, 0.3, best=False), abs=1e-9)


def test_the_log_ratio_of_the_best_policy_is_the_exact_advantage(forest, log_probs):
    """The theorem: pi*(a|s) = ref(a|s) exp(A*(s, a) / beta) reaches V*, and no other policy does."""
    beta = 0.3
    exact, values = forest.optimum(log_probs, beta)
    best = log_probs + exact / beta
    torch.testing.assert_close(forest.objective(best, log_probs, beta), values[forest.roots])
    for seed in range(5):
        noise = torch.randn(forest.n_edges, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pull = best + 0.3 * noise
        total = torch.zeros(forest.n_nodes, dtype=torch.float64).index_add(0, forest.edge_node, pull.exp())
        other = pull - total[forest.edge_node].log() + math.log(0.99)
        assert (forest.objective(other, log_probs, beta) < values[forest.roots]).all()


def test_visits_are_chances(forest, log_probs):
    visits = forest.visits(log_probs.exp())
    assert visits[forest.roots].tolist() == [1.0, 1.0]
    ends = (visits[forest.edge_node] * log_probs.exp())[forest.outcome_edge] * forest.outcome_probability
    ended = ends[forest.outcome_child == forest.n_nodes].sum()
    elsewhere = (visits * forest.rest(log_probs).exp()).sum()
    assert (ended + elsewhere).item() == pytest.approx(2.0)


def test_the_world_keeps_its_promises(tokenizer):
    for task in draw_tasks(30, 5, held_out=True):
        tree = grow(task, tokenizer)
        for edge in tree.edges:
            assert sum(p for p, _, _ in edge.outcomes) == pytest.approx(1.0)
        for node in range(len(tree.node_segments)):
            texts = [tree.segments[tree.edges[e].segment].ids for e in tree.edges_at(node)]
            assert not any(a is not b and b[: len(a)] == a for a in texts for b in texts)
        assert max(len(history) // 2 for _, history in paths(tree)) <= 12


def test_held_out_tasks_are_not_trained_on():
    def wanted(tasks):
        return {(task.item, task.quantity, task.payment) for task in tasks}

    trained = wanted(draw_tasks(20_000, Recipe.seed + 1, held_out=False))
    assert len(trained) == pytest.approx(0.8 * len(ITEMS) * 9 * len(PAYMENTS), abs=8)
    assert not trained & wanted(held_out_tasks())
