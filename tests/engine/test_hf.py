"""Every model family's columns against a plain full forward pass over one sequence at a time."""

import math

import numpy as np
import pytest
import torch
import transformers as tf
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

from pa_dist.engine import attention, head, hf
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import widen
from pa_dist.engine.protocol import TokenSequence

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


def check(model, sequences, scored):
    for sequence, columns in zip(sequences, scored, strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=1e-4)


def ragged(rng, lengths):
    for length in lengths:
        ids = rng.integers(0, VOCABULARY, length).astype(np.int32)
        scored = rng.random(max(length - 1, 0)) < 0.6
        yield TokenSequence(ids, (np.flatnonzero(scored) + 1).astype(np.int32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [5, 90, 10_000])
def test_columns_equal_the_full_forward_pass(family, batch_tokens, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", {"cpu": 7 * VOCABULARY})
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    sequences = list(ragged(np.random.default_rng(1), [1, 2, 17, 64, 3, 110]))
    scored = HFEngine(model, top_k=5, batch_tokens=batch_tokens).score(sequences)
    assert sum(len(columns.logprob) for columns in scored) > 50
    check(model, sequences, scored)


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
@pytest.mark.parametrize("batch_tokens", [24, 300, 100_000])
def test_shared_prefixes_change_no_column(family, batch_tokens):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    sequences = list(branching(np.random.default_rng(2)))
    engine = HFEngine(model, top_k=5, batch_tokens=batch_tokens, worthwhile=0)
    assert engine.apart is None
    check(model, sequences, engine.score(sequences))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_sequences_of_another_call_shared_is_not_run_again(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, VOCABULARY, 50)
    engine = HFEngine(model, top_k=5, batch_tokens=30, worthwhile=0)
    for n in (3, 1, 4):
        ends = [rng.integers(0, VOCABULARY, rng.integers(1, 20)) for _ in range(n)]
        sequences = [
            TokenSequence(np.concatenate([prompt, e]).astype(np.int32), np.arange(1, 50 + len(e))) for e in ends
        ]
        before = engine.work.distinct_tokens
        check(model, sequences, engine.score(sequences))
        ran = engine.work.distinct_tokens - before
        assert ran <= sum(map(len, ends)) + (50 if n == 3 else 0)
    other = [TokenSequence(rng.integers(0, VOCABULARY, 9).astype(np.int32), np.arange(1, 9))]
    check(model, other, engine.score(other))


class OutOfMemory:
    """A decoder that holds so many tokens, kept ones included, and no more."""

    def __init__(self, engine, limit):
        self.forward, self.limit, self.refused = engine._forward, limit, 0
        self.decoder = self.forward.decoder

    def __call__(self, *, input_ids, **others):
        if input_ids.numel() + sum(len(s.ids) for s in self.forward.memory) > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.decoder(input_ids=input_ids, **others)


@pytest.mark.parametrize("family", ["llama", "qwen3_5"])
def test_out_of_memory_halves_the_passes_and_gives_up_single_sequences(family, monkeypatch):
    monkeypatch.setattr(hf, "LEAST_TOKENS", 8)
    model = FAMILIES[family]().eval()
    engine = HFEngine(model, top_k=5, worthwhile=0)
    engine._forward.decoder = OutOfMemory(engine, 100)
    rng = np.random.default_rng(4)
    sequences = list(ragged(rng, [60, 400, 30, 95, 70]))
    sequences.append(TokenSequence(np.concatenate([sequences[0].ids, sequences[2].ids]), np.array([61, 80], np.int32)))
    scored = engine.score(sequences)
    assert engine._forward.decoder.refused
    assert [columns is None for columns in scored] == [False, True, False, False, False, False]
    del sequences[1], scored[1]
    check(model, sequences, scored)
    check(model, sequences, engine.score(sequences))


def test_an_error_that_is_not_of_memory_is_raised():
    engine = HFEngine(FAMILIES["llama"]().eval())

    def broken(**_):
        raise RuntimeError("an illegal memory access was encountered")

    engine._forward.decoder = broken
    with pytest.raises(RuntimeError, match="illegal"):
        engine.score([TokenSequence(np.arange(4, dtype=np.int32), np.array([2], np.int32))])


def test_a_model_that_cannot_share_is_scored_plainly_and_says_why(monkeypatch):
    config = tf.GptOssConfig(**BASE, head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=16)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = tf.GptOssForCausalLM(config).eval()
    sequences = list(branching(np.random.default_rng(5)))[:6]
    engine = HFEngine(model, top_k=5, worthwhile=0)
    assert "GptOssForCausalLM does not run on a prefix tree" in engine.apart
    check(model, sequences, engine.score(sequences))
    assert engine.work.distinct_tokens == engine.work.tokens

    llama = FAMILIES["llama"]().eval()
    right = attention._kernel
    monkeypatch.setattr(attention, "_kernel", lambda q, *others: (right(q, *others)[0], q[..., 0].float()))
    assert "gives other numbers" in HFEngine(llama).apart
    assert HFEngine(llama, share_prefixes=False).apart == "as asked"


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


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_heads_that_call_their_decoder_otherwise(family):
    """GPT-2 names its tokens by place, OPT runs a decoder in its decoder; both look positions up in a table."""
    torch.manual_seed(0)
    small = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        model = tf.GPT2LMHeadModel(tf.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **small))
    else:
        shape = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "num_attention_heads": 2}
        model = tf.OPTForCausalLM(tf.OPTConfig(num_hidden_layers=2, max_position_embeddings=64, **shape, **small))
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCABULARY, 30)
    ids = [np.concatenate([prompt, rng.integers(0, VOCABULARY, n)]).astype(np.int32) for n in (5, 20)]
    sequences = [TokenSequence(one, np.arange(1, len(one), dtype=np.int32)) for one in ids]
    check(model.eval(), sequences, HFEngine(model, top_k=5, worthwhile=0).score(sequences))


def test_an_engine_of_the_logprob_alone():
    torch.manual_seed(0)
    model = FAMILIES["qwen3"]().eval()
    sequences = list(branching(np.random.default_rng(2)))
    every = HFEngine(model, top_k=5, worthwhile=0).score(sequences)
    alone = HFEngine(model, only_logprob=True, worthwhile=0).score(sequences)
    for one, other in zip(every, alone, strict=True):
        np.testing.assert_allclose(other.logprob, one.logprob, atol=1e-5)
        assert other[1:] == (None, None, None)
