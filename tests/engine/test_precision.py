"""Half precision: a float32 head, what leaves the range of float16, and what a row's company changes."""

import copy

import numpy as np
import pytest
import torch
import transformers as tf
from test_hf import BASE, FAMILIES, branching, plain

from pa_dist.engine import precision
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.precision import Guarded, dtype_on, keep_logits_in_float32
from pa_dist.engine.protocol import TokenSequence

LARGE = 7
"""The token that takes `outgrowing` out of the range of float16."""


def of_dtype(model, dtype, *, head=True):
    model = copy.deepcopy(model).to(dtype)
    if head:
        keep_logits_in_float32(model)
    return model


def outgrowing():
    """A model whose first layer multiplies two large numbers where it reads the token `LARGE`, and no other."""
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**BASE)).eval()
    layer = model.model.layers[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        layer.self_attn.o_proj.weight[0] = 0
        model.model.embed_tokens.weight[LARGE, 0] = 5
        layer.mlp.gate_proj.weight[:, 0] = layer.mlp.up_proj.weight[:, 0] = 300
        layer.mlp.down_proj.weight *= 1e-4
    return model


def sequences():
    rng = np.random.default_rng(0)
    found = []
    for length, large in ((40, False), (30, True), (50, False), (25, True)):
        ids = rng.integers(LARGE + 1, BASE["vocab_size"], length).astype(np.int32)
        if large:
            ids[length // 2] = LARGE
        found.append(TokenSequence(ids, np.arange(1, length, dtype=np.int32)))
    return found


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("device", "asked", "dtype"),
    [
        ("cuda", "auto", "float16"),
        ("cuda:1", "auto", "float16"),
        ("cpu", "auto", "float32"),
        ("cpu", "float16", "float16"),
        ("cuda", "bfloat16", "bfloat16"),
    ],
)
def test_what_auto_means(device, asked, dtype):
    assert dtype_on(device, asked) == dtype


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_are_summed_and_kept_in_float32(dtype, bias):
    torch.manual_seed(0)
    model = FAMILIES["llama"]().to(dtype)
    model.lm_head = torch.nn.Linear(64, 300, bias=bias, dtype=dtype)
    hidden = torch.randn(2, 5, 64, dtype=dtype)
    exact = torch.nn.functional.linear(*(x if x is None else x.double() for x in (hidden, *_parts(model.lm_head))))
    rounded = (model.lm_head(hidden).double() - exact).abs().max()
    keep_logits_in_float32(model)
    assert model.lm_head(hidden).dtype == torch.float32
    assert (model.lm_head(hidden).double() - exact).abs().max() < rounded / 50


def _parts(linear):
    return linear.weight, linear.bias


def test_what_leaves_the_range_is_scored_in_float32():
    model, given = outgrowing(), sequences()
    half = of_dtype(model, torch.float16)
    before, engine = weights(half), Guarded(HFEngine(half, top_k=5))
    lost = HFEngine(of_dtype(model, torch.float16), top_k=5).score(given)
    assert [bool(np.isnan(columns.logprob).any()) for columns in lost] == [False, True, False, True]
    for sequence, columns in zip(given, engine.score(given), strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=5e-3)
    facts = engine.facts()
    assert (facts["dtype"], facts["overflowed"], engine.overflowed) == ("float16", 2, 2)
    after = weights(half)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    np.testing.assert_array_equal(engine.score(given[:1])[0].logprob, lost[0].logprob)


def test_a_model_that_keeps_leaving_it_goes_on_in_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "MOST_OVERFLOWS", 1)
    model, given = outgrowing(), sequences()
    engine = Guarded(HFEngine(of_dtype(model, torch.float16), top_k=5))
    for sequence, columns in zip(given, engine.score(given), strict=True):
        np.testing.assert_allclose(columns.logprob, plain(model, sequence, 5)[0], atol=0.1)
    assert engine.facts()["dtype"] == "bfloat16"
    assert not np.isnan(engine.score(given)[1].logprob).any()
    assert engine.overflowed == 2


def test_where_float32_has_no_room_it_goes_on_in_bfloat16(monkeypatch):
    model, given, recast = outgrowing(), sequences(), precision.recast

    def without_room(engine, dtype):
        if dtype == torch.float32:
            first = next(engine.model.parameters())
            first.data = first.data.float()  # it comes as far as that
            raise torch.OutOfMemoryError
        recast(engine, dtype)

    monkeypatch.setattr(precision, "recast", without_room)
    engine = Guarded(HFEngine(of_dtype(model, torch.float16), top_k=5))
    assert not any(np.isnan(columns.logprob).any() for columns in engine.score(given))
    assert {tensor.dtype for tensor in engine.engine.model.state_dict().values()} == {torch.bfloat16}


def test_a_sequence_that_fits_in_half_precision_alone_is_not_given_up(monkeypatch):
    model, given = outgrowing(), sequences()
    engine = Guarded(HFEngine(of_dtype(model, torch.float16), top_k=5))
    score = engine.engine.score

    def no_room_in_float32(asked):
        found = score(asked)
        return [None] * len(found) if engine.engine.model.dtype == torch.float32 else found

    monkeypatch.setattr(engine.engine, "score", no_room_in_float32)
    assert not any(np.isnan(columns.logprob).any() for columns in engine.score(given))
    assert engine.facts()["dtype"] == "bfloat16"


@pytest.mark.parametrize("family", ["qwen3", "olmo3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_order_and_company_change_no_number_beyond_the_noise(family, dtype):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval().to(dtype).float()
    given = list(branching(np.random.default_rng(2)))
    exact = np.concatenate([plain(model, sequence, 5)[0] for sequence in given])
    half = of_dtype(model, dtype)
    alone = [columns for sequence in given for columns in HFEngine(half, top_k=5).score([sequence])]
    together = HFEngine(half, top_k=5, worthwhile=0).score(given)
    turned = HFEngine(half, top_k=5, batch_tokens=200, worthwhile=0).score(given[::-1])[::-1]
    alone, together, turned = (np.concatenate([c.logprob for c in found]) for found in (alone, together, turned))
    noise = np.std(alone - exact)
    for other in (together, turned):
        assert np.std(other - alone) < 2 * noise
        assert np.abs(np.mean(other - alone)) < noise
