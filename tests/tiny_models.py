"""Tiny random models and tokenizers, saved as `from_pretrained` reads them."""

import itertools
import math
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

TEXTS = [
    "[user]: Please cancel my order 4711 and refund the card.",
    "[assistant]: tool_call(lookup_order, {'order_id': '4711', 'fields': ['status', 'total']})",
    '[tool]: {"status": "shipped", "total": 25.5}',
    "[assistant]: The order has shipped already, so I cannot cancel it. Shall I open a return instead?",
]

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# What the critic writes after a colon, a token each, and the log-odds of `correct` after those that end in a brace.
CRITIQUE = [" Step 1 is \\boxed{", "correct", "}\n Step 2 is \\boxed{", "incorrect", "}.", "</s>"]
LOG_ODDS = {0: math.log(4), 2: -math.log(9)}


def save_tokenizer(
    folder: Path, *, bos: bool, vocabulary: int = 300, specials: tuple[str, ...] = ("<s>", "</s>")
) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(specials), initial_alphabet=alphabet)
    raw.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>" if bos else None, eos_token="</s>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_panicking_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """One whose pattern gives up on `PANICS` by a panic of its Rust code: so many ways are there to read these."""
    tokenizer = save_tokenizer(folder, bos=True)
    pattern = pre_tokenizers.Split(Regex("(?:a|aa)+c"), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pattern, bytes_only])
    tokenizer.save_pretrained(folder)
    return tokenizer


PANICS = "a" * 60

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def save_model(folder: Path, seed: int, **other: float) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(**{**SHAPE, "max_position_embeddings": 512, **other})
    LlamaForCausalLM(config).save_pretrained(folder)


def save_classifier(folder: Path, seed: int, *, labels: int = 1, pad: int | None = None) -> None:
    """A sequence classifier that pools at the last token."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **SHAPE,
        max_position_embeddings=2048,
        num_labels=labels,
        pad_token_id=pad,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)


def save_critic(folder: Path) -> None:
    """A language model whose next token depends on the last one only, so that its critique is known."""
    tokenizer = save_tokenizer(folder, bos=True)
    tokenizer.chat_template = CHAT
    tokenizer.add_tokens(CRITIQUE[:-1])
    tokenizer.save_pretrained(folder)
    size = 320
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=5,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    # The last norm makes a one-hot row as long as the square root of its size.
    logit = 20 / math.sqrt(size)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers" in name and "norm" not in name:
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        head = model.lm_head.weight.zero_()
        ids = tokenizer.convert_tokens_to_ids([":", *CRITIQUE])
        for last, following in itertools.pairwise(ids):
            head[following, last] = logit
        correct, incorrect = tokenizer.convert_tokens_to_ids(["correct", "incorrect"])
        for place, log_odds in LOG_ODDS.items():
            head[correct, ids[place + 1]] = logit + log_odds / math.sqrt(size)
            head[incorrect, ids[place + 1]] = logit
    model.save_pretrained(folder)
