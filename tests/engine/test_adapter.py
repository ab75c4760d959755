"""Adapters beside their base: both sides of a pair from one set of weights."""

import copy

import numpy as np
import peft
import pytest
import torch
from test_hf import FAMILIES, branching, check

from pa_dist.engine.adapter import Adapted, Side
from pa_dist.engine.errors import EngineError
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.precision import Guarded, recast

LINEAR = r".*(_proj|in_proj_qkv|in_proj_z|out_proj)"


def save_adapter(model, folder, seed, targets=LINEAR, **other):
    """Write a random adapter of a model; the same model with the adapter in its weights."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **other)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "modules_to_save" in name:
                weights += 0.1 * torch.randn_like(weights)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()


def with_one(model, folder):
    adapted = Adapted(model)
    adapted.add(str(folder), "one")
    return adapted


def sides(adapted, labels):
    return {label: Side(adapted, label, lambda m: HFEngine(m, top_k=5, worthwhile=0)) for label in labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_are_as_if_each_had_its_weights(family, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    base, held = copy.deepcopy(model), sum(weights.numel() for weights in model.parameters())
    merged = {label: save_adapter(model, tmp_path / label, seed) for seed, label in enumerate(("one", "two"))}
    adapted = Adapted(model)
    for label in merged:
        adapted.add(str(tmp_path / label), label)
    more = sum(weights.numel() for weights in model.parameters()) - held
    assert 0 < more < held  # tiny models have tiny layers: what is added is two times four rows and columns of each
    assert len({weights.data_ptr() for weights in model.parameters()}) == len(list(model.parameters()))
    engines = sides(adapted, [None, "one", "two"])
    assert [engine.facts()["prefixes_apart"] for engine in engines.values()] == [None] * 3
    sequences = list(branching(np.random.default_rng(2)))
    for _ in range(2):  # in turns, with what each has in memory from before
        for label, engine in engines.items():
            check(base if label is None else merged[label], sequences, engine.score(sequences))
    assert engines["one"].work.tokens == 2 * sum(len(sequence.ids) for sequence in sequences)


@pytest.mark.parametrize(
    "other",
    [
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"targets": ["lm_head", "embed_tokens", "q_proj"]},
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}},
    ],
    ids=lambda other: "-".join(other),
)
def test_what_else_adapters_hold(other, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES["llama"]().eval()
    base, merged = copy.deepcopy(model), save_adapter(model, tmp_path, 1, **other)
    adapted = with_one(model, tmp_path)
    engines = sides(adapted, [None, "one"])
    sequences = list(branching(np.random.default_rng(2)))
    for _ in range(2):
        check(merged, sequences, engines["one"].score(sequences))
        check(base, sequences, engines[None].score(sequences))


def test_one_side_leaves_the_range_of_float16(tmp_path):
    torch.manual_seed(0)
    model = FAMILIES["llama"]().eval()
    save_adapter(model, tmp_path, 1)
    adapted = with_one(model.half(), tmp_path)
    sequences = list(branching(np.random.default_rng(2)))
    engines = {label: Side(adapted, label, lambda m: Guarded(HFEngine(m, worthwhile=0))) for label in (None, "one")}
    before = [engine.score(sequences) for engine in engines.values()]
    recast(engines["one"]._engine.engine, torch.bfloat16)
    after = [engine.score(sequences) for engine in engines.values()]
    for there, here in zip(before, after, strict=True):
        for a, b in zip(there, here, strict=True):
            np.testing.assert_allclose(a.logprob, b.logprob, atol=0.05)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    torch.manual_seed(0)
    save_adapter(FAMILIES["qwen3"](), tmp_path, 1)
    smaller = FAMILIES["llama"]()
    del smaller.model.layers[3]
    with pytest.raises(EngineError, match=r"the adapter has more than the weights of LlamaForCausalLM, \d+ in all: "):
        with_one(smaller, tmp_path)
