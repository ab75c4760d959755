"""What is found out of a pair before anything starts: whether it is there, fits the settings, and at which commits."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from pa_dist import schema
from pa_dist.config import Config, Pair, Score
from pa_dist.errors import ConfigError, first_line
from pa_dist.render.chat import control_tokens
from pa_dist.render.trial import why_not
from pa_dist.render.unrenderable import SECONDS
from pa_dist.score import vllm
from pa_dist.score.actors import text_config, tokenizer, vocabulary
from pa_dist.score.tokenize import fingerprint


def pinned(pair: Pair, before: Mapping[str, str | None]) -> Pair:
    """A pair with the commits its models on the Hub are at now, or were at when the run began."""
    revisions = {model: getattr(pair, f"{model}_revision") for model in schema.MODELS}
    commits = {m: before.get(m) or hub_commit(getattr(pair, m), revisions[m]) for m in schema.MODELS}
    return pair.model_copy(update={f"{model}_revision": commit for model, commit in commits.items()})


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit of a model on the Hub, by where its config lies in the cache since it was checked."""
    cached = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def check(pair: Pair, settings: Score) -> None:
    """Find out whether both models are there, and the device or engine is one, before anything starts.

    Raises:
      ConfigError: naming the key and the reason.
    """
    import torch  # slow to import; a driver that goes on has no need of it

    try:
        torch.device("cpu" if settings.device in (None, "auto") else settings.device)
    except RuntimeError as error:
        raise ConfigError(f"score.device: {first_line(error)}") from None
    for model in schema.MODELS:
        name = getattr(pair, model)
        try:
            vocabulary(pair, model)
            tokenizer(pair, model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"pair.{model}: no model and tokenizer at {name!r}: {first_line(error)}") from None
        if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
            raise ConfigError(f"pair.{model}: no weights (*.safetensors) in {name!r}")
    if settings.engine == "vllm":
        _check_vllm(pair, settings)


def _check_vllm(pair: Pair, settings: Score) -> None:
    if vllm.installed() is None:
        raise ConfigError("score.engine: vllm is not installed; `pip install 'pa-dist[vllm]'` installs it")
    for model in schema.MODELS:
        most = vllm.longest(text_config(pair, model))
        if most is not None and settings.max_length > most:
            raise ConfigError(
                f"score.max_length: vLLM takes at most {most} tokens of pair.{model}, got {settings.max_length}"
            )


def check_templates(config: Config, *, seconds: float = SECONDS) -> None:
    """Find out whether the chat templates are there and render a plain question and answer, each in so many seconds.

    Raises:
      ConfigError: naming the key and the reason.
    """
    if config.render.style != "chat":
        return
    for model in schema.MODELS if config.render.template_from == "own" else schema.MODELS[:1]:
        own, name = tokenizer(config.pair, model), getattr(config.pair, model)
        if own.chat_template is None:
            other = "; render.template_from=policy lends it the policy's" if model == "reference" else ""
            raise ConfigError(f"pair.{model}: no chat template (chat_template.jinja) at {name!r}{other}")
        if why := why_not(own, control_tokens(own), config.render.template_options, seconds=seconds):
            raise ConfigError(f"pair.{model}: its chat template cannot be used: {why}")


def shares_tokens(config: Config) -> bool:
    """Whether both models read the same token ids."""
    own = config.render.style == "chat" and config.render.template_from == "own"
    policy, reference = (fingerprint(tokenizer(config.pair, model), template=own) for model in schema.MODELS)
    return policy == reference
