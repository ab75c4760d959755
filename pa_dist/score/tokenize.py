"""Rendered messages to token ids and action spans, one tokenizer at a time."""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from pa_dist.render.plain import Rendered
from pa_dist.score.engine import Ints, TokenSequence


class TokenizedTrajectory(NamedTuple):
    """One trajectory for one model. The scored tokens of all steps follow each other in `sequence.positions`."""

    sequence: TokenSequence
    step_lengths: Ints
    """[steps] scored tokens of each action."""
    truncated: list[bool]
    """[steps] whether some or all of the action's tokens were cut."""


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A tokenizer from a folder or the Hugging Face Hub. Raises OSError if there is none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    # Trajectories are longer than some models' limit; left truncation below is ours, and the warning would be noise.
    tokenizer.model_max_length = int(1e12)
    return tokenizer


def fingerprint(tokenizer: Any) -> str:
    """Equal for two tokenizers exactly when they give the same ids for every text, BOS included."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        spec: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        # Neither touches how a text without special tokens is split; chat models often differ from their base here.
        for setting in ("truncation", "padding", "post_processor", "decoder"):
            spec.pop(setting, None)
    spec = json.dumps([spec, tokenizer.bos_token_id], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(spec.encode()).hexdigest()


def tokenize(rendered: Rendered, tokenizer: Any, max_length: int) -> TokenizedTrajectory:
    """Tokenise each message on its own, join, truncate on the left, and find the tokens to score.

    A BOS token comes first where the tokenizer has one, and is the first to go when the trajectory is too long. The
    first token that remains has no log-probability and is never scored.

    Source: METHOD.md, published conventions.
    """
    pieces = tokenizer(rendered.texts, add_special_tokens=False)["input_ids"]
    bos = [] if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id]]
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ids = np.fromiter((token for piece in [*bos, *pieces] for token in piece), dtype=np.int32)
    cut = max(0, len(ids) - max_length)

    ends = np.cumsum(lengths) + len(bos) - cut
    ends, starts = ends[rendered.actions], (ends - lengths)[rendered.actions]
    first, last = np.maximum(starts, 1), np.maximum(ends, 1)
    positions = [np.arange(a, b, dtype=np.int32) for a, b in zip(first, last, strict=True)]
    return TokenizedTrajectory(
        TokenSequence(ids[cut:], np.concatenate([np.empty(0, np.int32), *positions])),
        (last - first).astype(np.int32),
        (starts < 0).tolist(),
    )
