"""Tokenizers and configs of models, loaded once a process."""

from functools import cache
from typing import Any

from pa_dist.config import Pair
from pa_dist.engine.tokens import load_tokenizer


@cache
def load_tokenizer_once(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A tokenizer, loaded once a process."""
    return load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)


def tokenizer(pair: Pair, model: str) -> Any:
    """A model's tokenizer, loaded once a process."""
    return load_tokenizer_once(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)


@cache
def load_config_once(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A model's own config, loaded once a process."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def text_config(pair: Pair, model: str) -> Any:
    """The config of a model's language part."""
    config = load_config_once(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)
    return config.get_text_config()


def vocabulary(pair: Pair, model: str) -> int:
    """How many tokens a model knows; its tokenizer may know more."""
    return int(text_config(pair, model).vocab_size)
