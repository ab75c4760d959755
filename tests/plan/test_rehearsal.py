"""The engine without arithmetic does what the true one does, and a model's shape is what can be counted by hand."""

import numpy as np
import pytest
import torch
import transformers as tf
from benchmarks import gpu
from test_hf import BASE, FAMILIES, VOCABULARY, branching
from transformers import AutoModelForCausalLM

from pa_dist.engine.hf import HFEngine
from pa_dist.engine.protocol import TokenSequence
from pa_dist.plan.flops import Attention, shape
from pa_dist.plan.rehearsal import Rehearsal, unshared


def on_meta(family):
    with torch.device("meta"):
        return FAMILIES[family]().eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [40, 10_000])
@pytest.mark.parametrize("share", [True, False])
def test_work_is_the_true_engines_call_by_call(family, batch_tokens, share):
    true = HFEngine(FAMILIES[family]().eval(), top_k=5, batch_tokens=batch_tokens, share_prefixes=share)
    rehearsed = Rehearsal(on_meta(family), device="cpu", batch_tokens=batch_tokens, share_prefixes=share)
    sequences = list(branching(np.random.default_rng(3)))
    for block in (sequences[:5], sequences[5:]):
        given = true.score(block)
        drawn = rehearsed.score(block)
        assert [len(columns.logprob) for columns in drawn] == [len(columns.logprob) for columns in given]
        assert not any(np.isnan(columns.logprob).any() for columns in drawn)
        assert rehearsed.work.tokens == true.work.tokens
        assert rehearsed.work.distinct_tokens == true.work.distinct_tokens
    # The true engine takes plain attention for one of heads as wide together as a hidden state, counts a window's keys
    # by the block, of which it masks some, and of rows with a state the pads that follow a prefix.
    exact = share and family in ("llama", "qwen2", "qwen3")
    assert rehearsed.work.flops == pytest.approx(true.work.flops, rel=0 if exact else 0.2)


def test_what_is_shared_is_drawn_once():
    engine = Rehearsal(on_meta("llama"), device="cpu", batch_tokens=100, share_prefixes=True)
    ids = np.arange(40, dtype=np.int32)
    at = np.arange(1, 41, dtype=np.int32)
    one, two = engine.score([TokenSequence(np.append(ids, last).astype(np.int32), at) for last in (1, 2)])
    assert (one.logprob[:39] == two.logprob[:39]).all()
    assert one.logprob[39] != two.logprob[39]


def test_a_dense_model_by_hand():
    found = shape(on_meta("llama"))
    # q and o 64 x 64, k and v 64 x 32 (2 of 4 heads of 16), three matrices of 64 x 128, in each of four layers.
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    assert found.matrix_weights == 4 * layer
    assert found.head_weights == VOCABULARY * 64
    # The embeddings, the head, the layers with two norms each, the last norm.
    assert found.parameters == 2 * VOCABULARY * 64 + 4 * (layer + 2 * 64) + 64
    # Of the 3 tokens behind 5 others the pairs are 6 + 7 + 8, each 2 x 16 products in 4 heads, twice, in 4 layers.
    assert found.flops(5, 3) == 2 * 4 * layer * 3 + 4 * 2 * (4 * 2 * 16) * 21
    # A token's keys and values: 2 heads of 16, both, in 4 layers, of two bytes.
    assert found.kept_bytes("bfloat16") == 2 * 4 * 2 * 2 * 16


def test_of_a_mixture_the_active_experts_count():
    config = tf.MixtralConfig(**BASE, num_local_experts=8, num_experts_per_tok=2)
    with torch.device("meta"):
        found = shape(tf.MixtralForCausalLM(config))
    attention = 2 * 64 * 64 + 2 * 64 * 32
    assert found.matrix_weights == 4 * (attention + 2 * 3 * 64 * 128)
    assert found.parameters > 4 * 8 * 3 * 64 * 128
    assert found.intermediate == 2 * 128


@pytest.mark.parametrize(("start", "n"), [(0, 1), (0, 9), (3, 4), (3, 9), (20, 5), (7, 1)])
@pytest.mark.parametrize("window", [None, 1, 8])
def test_pairs_in_a_window(start, n, window):
    pairs = sum(min(position + 1, window or position + 1) for position in range(start, start + n))
    assert Attention(width=10, kept=0, window=window).flops(start, n) == 2 * 10 * pairs


def test_windows_and_shared_keys_are_found():
    olmo, gemma = shape(on_meta("olmo3")).attention, shape(on_meta("gemma4")).attention
    assert [layer.window for layer in olmo] == [16, None, 16, None]
    assert [layer.width for layer in gemma] == [4 * 2 * 16, 4 * 2 * 32] * 2
    assert len(shape(on_meta("qwen3_5")).attention) == 1  # the others keep a state


def test_without_sharing_the_head_is_everywhere():
    found = shape(on_meta("llama"))
    sequences = [TokenSequence(np.zeros(n, np.int32), np.array([1], np.int32)) for n in (4, 6)]
    assert unshared(found, sequences) == found.flops(0, 4) + found.flops(0, 6) + 2 * 10 * VOCABULARY * 64


def test_the_head_of_a_large_vocabulary_takes_half_a_gib_of_a_gpu():
    with torch.device("meta"):
        found = shape(AutoModelForCausalLM.from_config(gpu.MODELS["qwen3-8b"]()))
    assert found.vocabulary > 150_000
    assert 2**28 < found.head_bytes("float16", "cuda", 16_384) <= 2**29
