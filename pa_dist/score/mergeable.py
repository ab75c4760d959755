"""Whether a pair can be merged, found out from configs and tokenizers before anything is scored."""

from typing import Any

from pa_dist import config
from pa_dist.engine.load import skeleton
from pa_dist.engine.merge import Merging, check_models
from pa_dist.errors import ConfigError, EngineError


def check_merge(pair: config.Pair, settings: config.Merged, tokenizers: tuple[Any, Any]) -> None:
    """Refuse a pair that cannot be merged.

    Args:
      tokenizers: the policy's and the reference's.

    Raises:
      ConfigError: as `check_tokens` and `check_models`.
    """
    if pair.policy_adapter or pair.reference_adapter:
        raise ConfigError("merge: a pair with adapters is not merged; save the adapted model whole, and name that")
    check_tokens(*tokenizers)
    policy, reference = (
        skeleton(
            getattr(pair, name),
            revision=getattr(pair, f"{name}_revision"),
            trust_remote_code=pair.trust_remote_code,
        )
        for name in ("policy", "reference")
    )
    try:
        check_models(policy, reference, merging(pair, settings))
    except EngineError as error:
        raise ConfigError(str(error)) from None


def merging(pair: config.Pair, settings: config.Merged) -> Merging:
    """A merged reference, as `load_model` takes it."""
    return Merging(
        policy=pair.policy,
        policy_revision=pair.policy_revision,
        alpha=settings.alpha,
        method=settings.method,
        density=settings.density,
        seed=settings.seed,
        common_vocabulary=settings.vocabulary == "common",
    )


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
