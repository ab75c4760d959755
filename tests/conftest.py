"""A tiny random policy/reference pair with a tokenizer trained here, and trajectory files to score with it."""

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TEXTS = [
    "[user]: Please cancel my order 4711 and refund the card.",
    "[assistant]: tool_call(lookup_order, {'order_id': '4711', 'fields': ['status', 'total']})",
    '[tool]: {"status": "shipped", "total": 25.5}',
    "[assistant]: The order has shipped already, so I cannot cancel it. Shall I open a return instead?",
]


def save_tokenizer(folder: Path, *, bos: bool, vocabulary: int = 300) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    raw.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>" if bos else None, eos_token="</s>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny policy and reference that share a tokenizer."""
    root = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("policy", "reference")):
        save_model(root / name, seed)
        save_tokenizer(root / name, bos=True)
    return {name: str(root / name) for name in ("policy", "reference")}


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rollouts of three tasks with rewards and mistakes, one line without actions and one that is not JSON."""
    lines = []
    for index in range(12):
        call = {"id": "c1", "function": {"name": "lookup_order", "arguments": json.dumps({"order_id": str(index)})}}
        messages = [
            {"role": "user", "content": f"Please cancel my order {4700 + index} and refund the card."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": '{"status": "shipped", "total": 25.5}'},
            {"role": "assistant", "content": "The order has shipped already. " * (index % 3 + 1)},
        ]
        row = {"id": f"run-{index}", "task_id": str(index // 4), "trial": index % 4, "messages": messages}
        lines.append(
            json.dumps({**row, "reward": float(index % 3 == 0), "mistake_step": 1, "mistake_agent": "assistant"})
        )
    lines.append(json.dumps({"id": "silent", "messages": [{"role": "user", "content": "Anyone?"}]}))
    lines.append("{not json")
    path = tmp_path_factory.mktemp("data") / "desk.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
