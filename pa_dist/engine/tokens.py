"""Tokenizers: loading one, and knowing two that are alike."""

import hashlib
import json
from typing import Any


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, local_files_only: bool = False
) -> Any:
    """A tokenizer from a folder or the Hugging Face Hub, or of the Hub's only what is here already. Raises OSError if
    there is none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        name, revision=revision, trust_remote_code=trust_remote_code, local_files_only=local_files_only
    )
    # Trajectories are longer than some models' limit; left truncation below is ours, and the warning would be noise.
    tokenizer.model_max_length = int(1e12)
    return tokenizer


def fingerprint(tokenizer: Any, *, template: bool = False) -> str:
    """Equal for two tokenizers exactly when they give the same ids for every text, BOS included.

    Args:
      template: whether a trajectory's text is the tokenizer's to decide as well, by its chat template.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        spec: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        # Neither touches how a text without special tokens is split; chat models often differ from their base here.
        for setting in ("truncation", "padding", "post_processor", "decoder"):
            spec.pop(setting, None)
    spec = [spec, tokenizer.bos_token_id]
    if template:
        spec += [tokenizer.chat_template, tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(spec, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
