"""Logits to columns where a head masks tokens. The values are those of the tokens that are left, by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import PhiConfig, PhiForCausalLM

from pa_dist.engine.head import chosen_logprobs, reduce_logits, token_columns
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.protocol import TokenColumns, TokenRow, TokenSequence
from pa_dist.runtime.attempts import Attempts, outcomes

# Log-odds of probabilities 1/2, 1/4, 1/8, 1/8.
HALVES = [math.log(4), math.log(2), 0.0, 0.0]
MASKS = [
    -math.inf,
    torch.finfo(torch.float32).min,
    torch.finfo(torch.bfloat16).min,
    torch.finfo(torch.float16).min,
    -1e9,
]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n_masked", [1, 10])
def test_what_a_head_masks_is_not_there(mask, n_masked):
    logits = torch.tensor([HALVES + [mask] * n_masked] * 2)
    chosen, topk, entropy, certainty = reduce_logits(logits, torch.tensor([0, 3]), 3)
    assert chosen.tolist() == pytest.approx([math.log(1 / 2), math.log(1 / 8)])
    assert topk.tolist() == pytest.approx([(math.log(1 / 2) + math.log(1 / 4) + math.log(1 / 8)) / 3] * 2)
    # -sum p log p = (1/2) log 2 + (1/4) log 4 + 2 (1/8) log 8 = (1/2 + 1/2 + 3/4) log 2
    assert entropy.tolist() == pytest.approx([1.75 * math.log(2)] * 2)
    assert torch.distributions.Categorical(logits=logits[0, :4]).entropy().item() == pytest.approx(entropy[0].item())
    assert certainty.isnan().all()


@pytest.mark.parametrize("mask", MASKS)
def test_of_fewer_tokens_than_top_k_the_mean_is_of_those(mask):
    logits = torch.tensor([HALVES + [mask] * 20])
    _, topk, *_ = reduce_logits(logits, torch.tensor([1]), 20)
    # (log 1/2 + log 1/4 + 2 log 1/8) / 4 = -(1 + 2 + 6) / 4 log 2
    assert topk.item() == pytest.approx(-9 / 4 * math.log(2))


@pytest.mark.parametrize("mask", MASKS)
def test_a_masked_token_that_was_said_has_no_logprob(mask):
    chosen, *_ = reduce_logits(torch.tensor([[*HALVES, mask]]), torch.tensor([4]), 2)
    assert chosen.item() == -math.inf


def test_a_mask_is_one_where_all_logits_are_low():
    """The normaliser, here -20, is taken from the mask: its log-probability is -9,980."""
    logits = torch.tensor([[*(logit - 20 for logit in HALVES), -1e4]])
    _, topk, entropy, certainty = reduce_logits(logits, torch.tensor([0]), 20)
    assert topk.item() == pytest.approx(-9 / 4 * math.log(2), rel=1e-5)
    assert entropy.item() == pytest.approx(7 / 4 * math.log(2), rel=1e-5)
    assert certainty.isnan().all()


def test_a_very_unlikely_token_is_not_masked():
    chosen, _, entropy, certainty = reduce_logits(torch.tensor([[0.0, -500.0]]), torch.tensor([1]), 2)
    assert chosen.item() == -500
    assert entropy.item() == 0
    assert certainty.item() == pytest.approx(250 - math.log(2))  # the mean of 0 and 500, less log 2


def test_no_positions_have_no_columns():
    """As of a trajectory whose only action is its first token."""
    assert reduce_logits(torch.empty(0, 5), torch.empty(0, dtype=torch.long), 2).shape == (4, 0)


def test_what_is_no_number_spoils_its_row_alone():
    found = reduce_logits(torch.tensor([[math.nan, *HALVES[1:]], HALVES]), torch.tensor([1, 1]), 2)
    assert found[:3, 0].isnan().all()
    assert found[:, 1].isfinite().all()


def test_an_engine_knows_that_its_head_masks_tokens():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = PhiForCausalLM(PhiConfig(vocab_size=40, **shape)).eval()
    assert not HFEngine(model).facts()["masked_vocabulary"]
    with torch.no_grad():
        model.lm_head.bias[30:] = -torch.inf
    engine = HFEngine(model)
    assert engine.facts()["masked_vocabulary"]
    (columns,) = engine.score([TokenSequence(np.arange(9, dtype=np.int32), np.arange(1, 9, dtype=np.int32))])
    assert np.isfinite(np.stack(columns[:3])).all()
    assert np.isnan(columns.self_certainty).all()


def test_only_the_column_that_is_undefined_is_null():
    columns = reduce_logits(torch.tensor([[*HALVES, -math.inf]] * 2), torch.tensor([0, 1]), 2)

    def score(rows):
        return [TokenColumns(*columns.numpy())]

    row = TokenRow(np.arange(3, dtype=np.int32), np.array([1, 2], np.int32), np.array([3], np.int32))
    (found,) = outcomes(score, ["a"], [row], Attempts())
    assert found.self_certainty is None
    assert all(np.isfinite(column).all() for column in found[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logprob_alone_is_what_it_is_among_the_others(dtype):
    torch.manual_seed(0)
    logits, targets = 5 * torch.randn(40, 100), torch.randint(100, (40,))
    logits[3, 7], logits[4, targets[4]], logits[5] = -1e4, -torch.inf, torch.nan
    logits = logits.to(dtype)
    np.testing.assert_allclose(chosen_logprobs(logits, targets), reduce_logits(logits, targets, 5)[0], atol=1e-5)
    hidden = torch.eye(40)
    alone = token_columns(hidden, targets, lambda h: h.to(dtype) @ logits.nan_to_num(0), 100, 5, only_logprob=True)
    assert alone[1:] == (None, None, None)
    every = token_columns(hidden, targets, lambda h: h.to(dtype) @ logits.nan_to_num(0), 100, 5)
    np.testing.assert_allclose(alone.logprob, every.logprob, atol=1e-5)
    assert token_columns(hidden[:0], targets[:0], lambda h: h, 100, 5, only_logprob=True).logprob.shape == (0,)
