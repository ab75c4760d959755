"""Linear-attention layers that take a pass in one row, against plain passes and against the model's own cache."""

import itertools

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hf import BASE, FAMILIES, LINEAR, VOCABULARY, branching, check
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

from pa_dist.engine import linear
from pa_dist.engine.forward import Forward, linear_way, linear_ways
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.linear import PADS, Recurrence, buckets, convolve_on_cpu, over_trees
from pa_dist.engine.prefix_tree import prefix_tree, separate
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.schedule import Schedule

DELTA_NETS = {
    "qwen3_5": FAMILIES["qwen3_5"],
    "qwen3_next": lambda: tf.Qwen3NextForCausalLM(
        Qwen3NextConfig(**BASE, **LINEAR, head_dim=16, mlp_only_layers=[0, 1, 2, 3])
    ),
    "olmo_hybrid": lambda: tf.OlmoHybridForCausalLM(
        tf.OlmoHybridConfig(**BASE, **LINEAR, pad_token_id=0, eos_token_id=1)
    ),
}
# Of layers with other functions: these run by the model's own cache.
BAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "attn_layer_indices": [1]}


def made(family):
    torch.manual_seed(0)
    return DELTA_NETS[family]().eval()


def by_lengths(rule):
    """A rule as flash-linear-attention has it: sequences side by side in one row, by where each ends."""

    def torch_chunk_gated_delta_rule(*inputs, g, beta, initial_state, output_final_state, cu_seqlens, **others):
        assert initial_state is None or len(initial_state) == len(cu_seqlens) - 1
        found = []
        for i, (a, b) in enumerate(itertools.pairwise(cu_seqlens.tolist())):
            state = None if initial_state is None else initial_state[i : i + 1]
            part = [x[:, a:b] for x in (*inputs, g, beta)]
            found.append(
                rule(*part[:3], g=part[3], beta=part[4], initial_state=state, output_final_state=True, **others)
            )
        out = torch.cat([out for out, _ in found], dim=1)
        return out, torch.cat([state for _, state in found]) if output_final_state else None

    return torch_chunk_gated_delta_rule


@pytest.fixture
def kernel(monkeypatch):
    """Puts a rule that takes lengths in the place of transformers' own, as if a library had brought it, and lets its
    convolution run on a CPU too.
    """

    def put(model, make=by_lengths):
        module = linear.source(model.base_model)
        Forward(model, together=True)
        own = getattr(module, linear.RULE).__wrapped__
        rule = make(own)

        def torch_chunk_gated_delta_rule(*inputs, cu_seqlens=None, **others):
            return own(*inputs, **others) if cu_seqlens is None else rule(*inputs, cu_seqlens=cu_seqlens, **others)

        monkeypatch.setattr(module, linear.RULE, over_trees(torch_chunk_gated_delta_rule))
        monkeypatch.setattr(linear, "convolve_on_cpu", getattr(module, linear.CONVOLUTION).__wrapped__)
        monkeypatch.setattr("pa_dist.engine.forward.ways", lambda *_: ["lengths", "batches", "rows"])
        return model

    return put


@pytest.mark.parametrize("family", DELTA_NETS)
@pytest.mark.parametrize("way", ["lengths", "batches", "rows"])
def test_columns_equal_the_full_forward_pass(family, way, kernel, monkeypatch):
    model = kernel(made(family))
    monkeypatch.setattr("pa_dist.engine.forward.ways", lambda *_: [way])
    sequences = list(branching(np.random.default_rng(2)))[:10]
    for batch_tokens in (60, 10_000):
        engine = HFEngine(model, top_k=5, batch_tokens=batch_tokens, worthwhile=0)
        assert (engine.apart, engine._forward.linear, engine._forward.rows) == (None, way, way == "rows")
        check(model, sequences, engine.score(sequences))


def test_layers_of_other_functions_run_by_the_models_own_cache():
    torch.manual_seed(0)
    model = tf.BambaForCausalLM(tf.BambaConfig(**BASE, **BAMBA)).eval()
    assert linear_way(model) == ("rows", None)
    engine = HFEngine(model, top_k=5, batch_tokens=300, worthwhile=0)
    assert (engine.apart, engine._forward.rows) == (None, True)
    sequences = list(branching(np.random.default_rng(2)))[:8]
    check(model, sequences, engine.score(sequences))
    assert linear_way(FAMILIES["llama"]()) == (None, None)


MODEL = made("qwen3_5")
TREES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=10)


def states(sequences, budget, way, together=True):
    """[d] final hidden states by sequence and position."""
    forward = Forward(MODEL, together=together, linear=way)
    roots = (prefix_tree if together else separate)([np.array(s, np.int32) for s in sequences])
    schedule = Schedule(roots, rows=forward.rows, cut=together)
    found = {}
    with torch.inference_mode():
        while segments := schedule.take(budget):
            hidden, places = forward(segments, schedule.path().intersection(segments))
            for segment in segments:
                rows = hidden[places[segment]].numpy()
                found |= {(i, segment.start + k): row for i in segment.sequences for k, row in enumerate(rows)}
            forward.release(schedule.path())
    return np.stack([found[key] for key in sorted(found)])


@settings(max_examples=15, deadline=None)
@given(TREES, st.sampled_from([1, 5, 9, 40]), st.integers(1, 4))
def test_small_segments_of_any_tree(sequences, budget, most):
    """Of one token, shorter than the convolution's reach, in chains and forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "MOST_SEGMENTS", most)
        tree = states(sequences, budget, "batches")
    np.testing.assert_allclose(tree, states(sequences, 1, None, together=False), atol=2e-5)


def test_pads_change_no_state_that_is_gone_on_from():
    """Of five roots that share a batch, each as long as no other, and with leaves of its own."""
    rng = np.random.default_rng(5)
    roots = [[i, *rng.integers(0, VOCABULARY, n)] for i, n in enumerate((60, 56, 50, 49, 52))]
    sequences = [[*root, last, last] for root in roots for last in (1, 2, 3)]
    tree = states(sequences, 1000, "batches")
    np.testing.assert_allclose(tree, states(sequences, 1, None, together=False), atol=2e-5)


def test_company_and_order_change_nothing():
    sequences = list(branching(np.random.default_rng(4)))[:9]
    whole = HFEngine(MODEL, top_k=5, worthwhile=0).score(sequences)
    order = np.random.default_rng(0).permutation(len(sequences))
    mixed = HFEngine(MODEL, top_k=5, worthwhile=0).score([sequences[i] for i in order])
    for at, i in enumerate(order):
        [alone] = HFEngine(MODEL, top_k=5).score([sequences[i]])
        np.testing.assert_allclose(mixed[at], whole[i], atol=1e-5)
        np.testing.assert_allclose(alone, whole[i], atol=1e-5)


@pytest.mark.parametrize("way", ["lengths", "batches"])
def test_what_overflows_in_one_segment_stays_there(way, kernel):
    model = kernel(made("qwen3_5"))
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = torch.inf
    rng = np.random.default_rng(0)
    ids = [np.array([1, 2, 3, *rng.integers(8, VOCABULARY, n)], np.int32) for n in (1, 40, 2, 9)]
    ids[1][[4, -1]] = 7
    sequences = [TokenSequence(one, np.arange(1, len(one), dtype=np.int32)) for one in ids]
    engine = HFEngine(model, top_k=5, worthwhile=0)
    engine._forward = Forward(model, together=True, linear=way)
    scored = engine.score(sequences)
    assert np.isnan(scored[1].logprob).any()
    for i in (0, 2, 3):
        check(model, [sequences[i]], [scored[i]])


def test_a_kernel_that_takes_no_lengths_is_not_used_and_is_named(kernel):
    """As where a library is too old to take them, and drops them in silence; or says so."""

    def deaf(own):
        return lambda *inputs, initial_state, cu_seqlens, **others: own(
            *inputs, **others, initial_state=None if initial_state is None else initial_state[:1]
        )

    def broken(own):
        def rule(*_, **__):
            raise ValueError("can't keep packed sequences apart")

        return rule

    sequences = list(branching(np.random.default_rng(2)))[:6]
    for make, reason in ((deaf, "gives other numbers"), (broken, "ValueError: can't keep packed sequences apart")):
        model = kernel(made("qwen3_5"), make)
        engine = HFEngine(model, top_k=5, worthwhile=0)
        assert (engine.apart, engine._forward.linear) == (None, "batches")
        assert reason in engine.facts()["linear_attention_fell_back"]
        check(model, sequences, engine.score(sequences))


def test_a_gpu_with_the_kernel_takes_lengths(monkeypatch):
    assert linear_ways(MODEL) == ["batches", "rows"]
    monkeypatch.setattr(linear, "find_spec", lambda name: name == "fla" or None)
    assert linear_ways(MODEL) == ["batches", "rows"]
    with torch.device("meta"):
        assert linear_ways(FAMILIES["qwen3_5"]()) == ["lengths", "batches", "rows"]
        assert linear_ways(FAMILIES["llama"]()) == ["rows"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_the_convolution_is_transformers_own(dtype, biased):
    torch.manual_seed(0)
    own = getattr(linear.source(MODEL.base_model), linear.CONVOLUTION)
    row, weight = torch.randn(3, 6, 9, dtype=dtype), torch.randn(6, 4, dtype=dtype)
    bias = torch.randn(6, dtype=dtype) if biased else None
    for activation in (None, "silu"):
        expected = own(row, weight, bias, activation=activation)
        found = convolve_on_cpu(row, weight, bias, activation)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, **({"atol": 0.05, "rtol": 0.02} if dtype != torch.float32 else {}))


def trees(lengths):
    return separate([np.zeros(n, np.int32) for n in lengths])


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_batches_hold_every_segment_once_and_few_pads(lengths):
    segments = trees(lengths)
    found = list(buckets(segments))
    assert sorted(id(s) for bucket in found for s in bucket) == sorted(map(id, segments))
    for bucket in found:
        takes = [linear._room(len(s.ids)) for s in bucket]
        assert max(takes) * len(bucket) <= (1 + PADS) * sum(takes)


def test_waves_put_leaves_of_all_depths_in_the_last_call():
    chains = [[0], [0, 1], [0, 1, 2], [3], [0, 4], [5, 6], [5, 7]]
    schedule = Schedule(prefix_tree([np.array(c, np.int32) for c in chains]), rows=False, cut=True)
    segments = schedule.take(100)
    ends = np.cumsum([len(s.ids) for s in segments]).tolist()
    places = {s: slice(b - len(s.ids), b) for s, b in zip(segments, ends, strict=True)}
    pass_ = Recurrence(places, ends[-1], {}, [], torch.device("cpu"), "lengths")
    calls = [(sorted(s.ids.tolist() for s in group.segments), group.leave) for group in pass_._groups]
    assert calls == [([[0], [5]], True), ([[1]], True), ([[2], [3], [4], [6], [7]], False)]
