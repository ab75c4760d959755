"""Every model family's columns against a plain full forward pass over one sequence at a time."""

import math

import numpy as np
import pytest
import torch
import transformers as tf
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

from pa_dist.score.engine import TokenSequence
from pa_dist.score.hf import HFEngine, pack, widen

VOCABULARY = 300
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
GEMMA = {
    "global_head_dim": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "final_logit_softcapping": 0.5,
}
FAMILIES = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**BASE)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**BASE)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**BASE, head_dim=16)),
    "olmo3": lambda: tf.Olmo3ForCausalLM(tf.Olmo3Config(**BASE, **SLIDING, pad_token_id=0, eos_token_id=1)),
    "qwen3_5": lambda: tf.Qwen3_5ForCausalLM(Qwen3_5TextConfig(**BASE, **LINEAR, head_dim=16)),
    "gemma4": lambda: tf.Gemma4ForCausalLM(Gemma4TextConfig(**BASE, **SLIDING, **GEMMA, head_dim=16)),
}


def plain(model, sequence, top_k):
    """The published way: the whole [sequence, vocabulary] table, then the positions asked for."""
    with torch.no_grad():
        table = model(torch.tensor(sequence.ids[None].astype(np.int64))).logits[0].float().log_softmax(-1)
    columns = []
    for position in sequence.positions:
        row = table[position - 1]
        entropy = -(row.exp() * row).sum()
        certainty = -row.mean() - math.log(len(row))
        columns.append([row[sequence.ids[position]], row.topk(top_k).values.mean(), entropy, certainty])
    return np.array(columns, dtype=np.float64).reshape(-1, 4).T


def ragged(rng, lengths):
    for length in lengths:
        ids = rng.integers(0, VOCABULARY, length).astype(np.int32)
        scored = rng.random(max(length - 1, 0)) < 0.6
        yield TokenSequence(ids, (np.flatnonzero(scored) + 1).astype(np.int32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 90, 10_000])
def test_columns_equal_the_full_forward_pass(family, batch_tokens, monkeypatch):
    monkeypatch.setattr("pa_dist.score.logprobs.CHUNK_ELEMENTS", {"cpu": 7 * VOCABULARY})
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    sequences = list(ragged(np.random.default_rng(1), [1, 2, 17, 64, 3, 110]))
    scored = HFEngine(model, top_k=5, batch_tokens=batch_tokens).score(sequences)
    assert sum(len(columns.logprob) for columns in scored) > 50
    for sequence, columns in zip(sequences, scored, strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=1e-4)


def branching(rng):
    """Sequences that share prefixes at several depths; two are the same, and one is a prefix of another."""

    def grow(before, depth):
        ids = np.concatenate([before, rng.integers(0, VOCABULARY, rng.integers(1, 40))]).astype(np.int32)
        if depth == 0:
            return [ids]
        return [leaf for _ in range(rng.integers(1, 4)) for leaf in grow(ids, depth - 1)]

    leaves = [leaf for _ in range(2) for leaf in grow(np.empty(0, np.int32), 3)]
    for ids in [*leaves, leaves[0], leaves[1][:-2]]:
        scored = rng.random(max(len(ids) - 1, 0)) < 0.6
        yield TokenSequence(ids, (np.flatnonzero(scored) + 1).astype(np.int32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_shared_prefixes_change_no_column(family, batch_tokens, monkeypatch):
    monkeypatch.setattr("pa_dist.score.hf.WORTHWHILE", 1)
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    sequences = list(branching(np.random.default_rng(2)))
    scored = HFEngine(model, top_k=5, batch_tokens=batch_tokens).score(sequences)
    for sequence, columns in zip(sequences, scored, strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_widened_layers_round_as_bfloat16_ones_do(bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 7, bias=bias, dtype=torch.bfloat16)
    hidden = torch.randn(2, 5, 300, dtype=torch.bfloat16)
    exact = torch.nn.functional.linear(hidden.double(), layer.weight.double(), layer.bias.double() if bias else None)
    widen(layer)
    assert layer(hidden).dtype == torch.bfloat16
    torch.testing.assert_close(layer(hidden).double(), exact, rtol=2**-8, atol=1e-5)


def test_ids_outside_the_vocabulary_are_refused():
    engine = HFEngine(FAMILIES["llama"]().eval())
    with pytest.raises(ValueError, match="token id 300 is outside the model's vocabulary of 300"):
        engine.score([TokenSequence(np.array([1, 300], np.int32), np.array([1], np.int32))])


def test_pack_keeps_to_the_budget_and_loses_nothing():
    lengths = [5, 100, 7, 7, 1, 40, 0]
    batches = list(pack(lengths, 40))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 40 for b in batches)
