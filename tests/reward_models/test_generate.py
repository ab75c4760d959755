"""Greedy generation against transformers' own, with the log-probs it was chosen by."""

import pytest
import torch
from tiny_models import CRITIQUE, save_critic, save_model
from transformers import AutoTokenizer

from pa_dist.config import ThinkPRM
from pa_dist.engine.load import load_model
from pa_dist.reward_models.generate import HFGenerator, VLLMGenerator

PROMPTS = [[5, 9, 200], [17] * 40, [1]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, 3)
    model = load_model(str(folder))
    model.generation_config.eos_token_id = None
    return model


def test_equals_generate_with_log_probs_of_a_plain_pass(model):
    generator = HFGenerator(model, 12)
    for prompt, critique in zip(PROMPTS, generator.score(PROMPTS), strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert critique.token_ids == expected[0, len(prompt) :].tolist()
        with torch.no_grad():
            table = model(torch.tensor([[*prompt, *critique.token_ids]])).logits[0].log_softmax(-1)
        for place, top in enumerate(critique.top, start=len(prompt) - 1):
            values, tokens = table[place].topk(20)
            assert top == pytest.approx(dict(zip(tokens.tolist(), values.tolist(), strict=True)), abs=1e-4)
    assert generator.work.tokens == sum(map(len, PROMPTS)) + 3 * 12


def test_ends_at_the_end_of_turn(model, monkeypatch):
    (critique,) = HFGenerator(model, 12).score(PROMPTS[:1])
    assert not critique.finished
    end = critique.token_ids[4]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [end])
    (shorter,) = HFGenerator(model, 12).score(PROMPTS[:1])
    assert shorter.finished
    assert shorter.token_ids == critique.token_ids[: critique.token_ids.index(end) + 1]


def test_without_memory_there_is_no_critique(model, monkeypatch):
    def scarce(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "forward", scarce)
    assert HFGenerator(model, 12).score(PROMPTS[:2]) == [None, None]


@pytest.mark.integration
def test_vllm_gives_what_transformers_gives(tmp_path):
    pytest.importorskip("vllm")
    save_critic(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Step by step:", "a" * 50 + ":")]
    settings = ThinkPRM(
        kind="thinkprm", model=str(tmp_path), dtype="float32", max_length=200, max_new_tokens=20, gpu_memory=0.1
    )
    found = VLLMGenerator(settings, 0).score(prompts)
    for ours, theirs in zip(HFGenerator(load_model(str(tmp_path)), 20).score(prompts), found, strict=True):
        assert tokenizer.decode(theirs.token_ids) == "".join(CRITIQUE)
        assert theirs.token_ids == ours.token_ids
        assert theirs.finished == ours.finished is True
        for mine, top in zip(ours.top, theirs.top, strict=True):
            shared = mine.keys() & top.keys()
            assert len(shared) >= 2
            assert [top[token] for token in shared] == pytest.approx([mine[token] for token in shared], abs=1e-3)
