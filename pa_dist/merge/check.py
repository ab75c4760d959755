"""Whether a pair can be merged, found out from configs and tokenizers before anything is scored."""

from typing import Any

from transformers import PreTrainedModel

from pa_dist import config
from pa_dist.errors import ConfigError
from pa_dist.score.load import skeleton


def check_merge(pair: config.Pair, settings: config.Merge, tokenizers: tuple[Any, Any]) -> None:
    """Refuse a pair that cannot be merged.

    Args:
      tokenizers: the policy's and the reference's.

    Raises:
      ConfigError: as `check_tokens` and `check_models`.
    """
    check_tokens(*tokenizers)
    policy, reference = (
        skeleton(
            getattr(pair, name),
            revision=getattr(pair, f"{name}_revision"),
            trust_remote_code=pair.trust_remote_code,
        )
        for name in ("policy", "reference")
    )
    check_models(policy, reference, settings)


def check_tokens(policy: Any, reference: Any) -> None:
    """Refuse tokenizers that give a token two ids: rows of their embeddings then do not belong together.

    Raises:
      ConfigError: naming a token.
    """
    theirs, ours = policy.get_vocab(), reference.get_vocab()
    differing = [token for token in theirs.keys() & ours.keys() if theirs[token] != ours[token]]
    if differing:
        token = min(differing, key=lambda token: theirs[token])
        raise ConfigError(
            f"merge: {len(differing)} tokens have another id in each tokenizer, {token!r} {theirs[token]} in the "
            f"policy's and {ours[token]} in the reference's: their weights cannot be merged"
        )


def check_models(policy: PreTrainedModel, reference: PreTrainedModel, settings: config.Merge) -> None:
    """Refuse models whose tensors do not correspond. Of models on the meta device too, which hold no weights.

    Raises:
      ConfigError: other classes, quantised weights, a tensor that one of them lacks, or shapes that differ otherwise
        than declared.
    """
    if type(policy) is not type(reference):
        raise ConfigError(f"merge: the policy is a {type(policy).__name__}, the reference a {type(reference).__name__}")
    for name, model in (("policy", policy), ("reference", reference)):
        if getattr(model.config, "quantization_config", None) is not None:
            raise ConfigError(f"merge: pair.{name} is quantised; merging needs weights of floating point")
    theirs, ours = policy.state_dict(), reference.state_dict()
    if lone := sorted(theirs.keys() ^ ours.keys()):
        raise ConfigError(f"merge: {len(lone)} tensors are in one of the two models only, {lone[0]!r} the first")
    for name in ours:
        shapes = tuple(ours[name].shape), tuple(theirs[name].shape)
        if shapes[0] == shapes[1]:
            continue
        what = f"merge: {name!r} is {list(shapes[0])} in the reference and {list(shapes[1])} in the policy"
        if not all(shape[:1] in _vocabularies(model) for shape, model in zip(shapes, (reference, policy), strict=True)):
            raise ConfigError(what)
        if shapes[0][1:] != shapes[1][1:]:
            raise ConfigError(what)
        if settings.vocabulary == "same":
            raise ConfigError(f"{what}; merge.vocabulary=common merges the tokens that both have")


def _vocabularies(model: PreTrainedModel) -> set[tuple[int]]:
    """Lengths of the axes that count tokens."""
    text = model.config.get_text_config()
    return {(text.vocab_size,), (getattr(text, "vocab_size_per_layer_input", text.vocab_size),)}
