"""Classifiers side by side against one plain pass a prompt."""

import math
import random

import pytest
import torch
from tiny_models import save_classifier, save_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from pa_dist.errors import EngineError
from pa_dist.reward_models.classifier import ClassifierEngine, load_classifier, reading

PROMPTS = [[random.Random(length).randrange(320) for _ in range(length)] for length in (5, 90, 1, 33, 90, 34, 7)]


def engine(folder, read, label=None, batch_tokens=100):
    model = load_classifier(str(folder), dtype="float32", device="cpu")
    return ClassifierEngine(model, reading(read, label), batch_tokens)


def by_hand(folder, read, label=None):
    """One prompt a pass, without pads or masks; the logits read in plain Python."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for prompt in PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0].tolist()
        if read == "logit":
            scores.append(logits[0])
        elif read == "ordinal":
            scores.append(1 + sum(1 / (1 + math.exp(-x)) for x in logits))
        else:
            scores.append(math.exp(logits[label]) / sum(math.exp(x) for x in logits))
    return scores


@pytest.mark.parametrize("pad", [None, 7])
@pytest.mark.parametrize(("read", "labels", "label"), [("logit", 1, None), ("ordinal", 4, None), ("probability", 2, 1)])
def test_batches_equal_single_plain_passes(tmp_path, read, labels, label, pad):
    save_classifier(tmp_path, 0, labels=labels, pad=pad)
    scorer = engine(tmp_path, read, label)
    scores = scorer.score(PROMPTS)
    assert scores == pytest.approx(by_hand(tmp_path, read, label), abs=1e-5)
    assert max(scores) - min(scores) > 1e-3
    assert scorer.work.tokens == sum(map(len, PROMPTS))
    assert scorer.score([]) == []


def test_encoders_that_read_both_ways(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    assert engine(tmp_path, "logit").score(PROMPTS) == pytest.approx(by_hand(tmp_path, "logit"), abs=1e-5)


def test_passes_without_memory_are_halved_and_what_no_pass_holds_is_none(tmp_path, monkeypatch):
    save_classifier(tmp_path, 0)
    scorer = engine(tmp_path, "logit", batch_tokens=10_000)
    plain = scorer._pass

    def scarce(prompts):
        if len(prompts) * max(map(len, prompts)) > 80:
            raise torch.OutOfMemoryError
        return plain(prompts)

    monkeypatch.setattr(scorer, "_pass", scarce)
    expected = [None if len(prompt) > 80 else s for prompt, s in zip(PROMPTS, by_hand(tmp_path, "logit"), strict=True)]
    assert scorer.score(PROMPTS) == [pytest.approx(s, abs=1e-5) if s is not None else None for s in expected]
    assert scorer.batch_tokens < 10_000


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    save_model(tmp_path, 0)
    with pytest.raises(EngineError, match=r"lacks weights of LlamaForSequenceClassification, 1 in all: score\.weight"):
        load_classifier(str(tmp_path), dtype="float32", device="cpu")
