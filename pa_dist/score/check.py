"""What is found out of a pair before anything starts: whether it is there, fits the settings, and at which commits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pa_dist import schema
from pa_dist.config import Pair, Score, ScoreSections
from pa_dist.engine import vllm
from pa_dist.engine.tokens import fingerprint
from pa_dist.errors import ConfigError, first_line
from pa_dist.models.adapters import check_adapter
from pa_dist.models.devices import check_spread
from pa_dist.models.examine import Examined, examine
from pa_dist.models.files import ADAPTER, CONFIG, FolderFault, named_fault, same_weights
from pa_dist.models.hub import hub_commit
from pa_dist.models.loaded import tokenizer
from pa_dist.models.positions import has_table, positions, shortened
from pa_dist.models.quantised import check_quantised
from pa_dist.render.chat import control_tokens
from pa_dist.render.trial import why_not
from pa_dist.render.unrenderable import SECONDS


def pinned_pair(pair: Pair, before: Mapping[str, str | None]) -> Pair:
    """A pair with the commits its models on the Hub are at now, or were at when the run began."""
    commits = {part: before.get(part) or _commit(pair, part) for part in pair.parts}
    return pair.model_copy(update={f"{part}_revision": commit for part, commit in commits.items()})


def _commit(pair: Pair, part: str) -> str | None:
    return hub_commit(
        getattr(pair, part), getattr(pair, f"{part}_revision"), CONFIG if part in schema.MODELS else ADAPTER
    )


@dataclass(frozen=True)
class Checked:
    """A pair that can be scored with.

    Attributes:
      models: what was found out of each.
      positions: of each, the tokens that the engine can give it at most; None where no limit is known.
      wanting: of each, why it needs a GPU, as far as this machine without one tells; None where it does not.
    """

    models: dict[str, Examined]
    positions: dict[str, int | None]
    wanting: dict[str, str | None]

    @property
    def loaded(self) -> dict[str, Any]:
        """What will be loaded, for the manifest."""
        return {model: found.facts for model, found in self.models.items()}


def check_models(pair: Pair, settings: Score) -> Checked:
    """Find out whether both models are there and whole, and the device or engine is one, before anything starts.

    Raises:
      ConfigError: naming the key, the file and the reason, of both models where both are at fault.
    """
    import torch  # slow to import; a driver that goes on has no need of it

    try:
        torch.device(settings.device or "cpu")
    except RuntimeError as error:
        raise ConfigError(f"score.device: {first_line(error)}") from None
    models, wanting, faults = {}, dict[str, str | None](), []
    for model in schema.MODELS:
        adapter = getattr(pair, f"{model}_adapter")
        try:
            name, revision = getattr(pair, model), getattr(pair, f"{model}_revision")
            models[model] = replace(examine(name, revision, pair.trust_remote_code), adapter=adapter)
            if settings.engine == "hf":
                wanting[model] = check_quantised(models[model].config, adapter=adapter is not None)
        except FolderFault as fault:
            faults.append(named_fault(f"pair.{model}", name, fault))
        try:
            if adapter is not None:
                check_adapter(adapter, getattr(pair, f"{model}_adapter_revision"), one_base=pair.one_base)
        except FolderFault as fault:
            faults.append(named_fault(f"pair.{model}_adapter", adapter, fault))
    if faults:
        raise ConfigError("; ".join(faults))
    if settings.engine == "vllm" and pair.parts != list(schema.MODELS):
        raise ConfigError("score.engine: vllm takes no adapter here; score.engine=hf does")
    for model in pair.pools if settings.engine == "hf" else ():
        adapter = models[model].adapter is not None
        check_spread(f"score.{model}", models[model].config, settings.width(model), adapter=adapter)
    if settings.engine == "vllm" and vllm.installed() is None:
        raise ConfigError("score.engine: vllm is not installed; `pip install 'pa-dist[vllm]'` installs it")
    if settings.engine == "vllm" and settings.vllm.options:
        for name, near in vllm.unknown_options(settings.vllm.options).items():
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"score.vllm.options.{name}: no argument of the engine of vLLM {vllm.installed()}{meant}")
    # One position is left to the token that every request of vLLM's draws.
    spare = 1 if settings.engine == "vllm" else 0
    most = {model: positions(found.text) for model, found in models.items()}
    return Checked(models, {model: None if n is None else n - spare for model, n in most.items()}, wanting)


def check_lengths(sections: ScoreSections, found: Checked) -> list[str]:
    """What is to be said of `score.max_length`, which no model is to be given more than.

    Raises:
      ConfigError: more is asked for by name than there can be.
    """
    names = {model: None if of.weights is None else of.weights.shapes for model, of in found.models.items()}
    takes = {m: "its table of positions" for m, of in found.models.items() if has_table(of.text, names[m])}
    if sections.score.engine == "vllm":
        takes = dict.fromkeys(schema.MODELS, "vLLM")
    explicit = "max_length" in sections.score.model_fields_set
    return shortened(sections.score.max_length, explicit, found.positions, takes)


def check_pair(sections: ScoreSections, found: Checked) -> list[str]:
    """Refuse a pair of one model twice.

    Returns:
      What is to be said of the two models: what is loaded, and where they do not read alike.

    Raises:
      ConfigError: every advantage would be 0.
    """
    if sections.merge is None and (same := _same_model(sections.pair)):
        raise ConfigError(f"pair.policy, pair.reference: {same}: every advantage would be 0; name two checkpoints")
    said = [f"{model}: {of.described}" for model, of in found.models.items()]
    sizes = {model: int(of.text.vocab_size) for model, of in found.models.items()}
    if not shares_tokens(sections):
        said.append(
            "the policy and the reference read a text as different tokens; where they do, the sum over an action's "
            "tokens is the only progress advantage that is defined, and the others are null"
        )
    elif len(set(sizes.values())) > 1:
        rows = " and ".join(f"the {model}'s vocabulary has {n:,} rows" for model, n in sizes.items())
        said.append(
            f"{rows}, with one tokenizer: those beyond it are padding, each model's probabilities are over its own, "
            f"and a trajectory with a token beyond {min(sizes.values()):,} is a reject"
        )
    for model, of in found.models.items():
        if len(of.tokenizer) > sizes[model]:
            said.append(
                f"{model}: its tokenizer has {len(of.tokenizer):,} tokens and its vocabulary {sizes[model]:,} rows: a "
                "trajectory with one of the others is a reject"
            )
    return said


def _same_model(pair: Pair) -> str | None:
    """How the two are one, where they are."""
    if len(pair.parts) > len(schema.MODELS):
        adapters = [(getattr(pair, f"{m}_adapter"), getattr(pair, f"{m}_adapter_revision")) for m in schema.MODELS]
        return f"both are {pair.policy!r} with one adapter" if pair.one_base and len(set(adapters)) == 1 else None
    folders = [Path(pair.policy), Path(pair.reference)]
    here = [folder.is_dir() for folder in folders]
    if not any(here):
        commits = [hub_commit(getattr(pair, model), getattr(pair, f"{model}_revision")) for model in schema.MODELS]
        same = pair.policy == pair.reference and commits[0] == commits[1]
        return f"both are {pair.policy!r}" if same else None
    if not all(here):
        return None
    if folders[0].samefile(folders[1]):
        return f"both are {pair.policy!r}"
    return f"{pair.policy!r} and {pair.reference!r} hold the same weights" if same_weights(*folders) else None


def check_templates(sections: ScoreSections, *, seconds: float = SECONDS) -> None:
    """Find out whether the chat templates are there and render a plain question and answer, each in so many seconds.

    Raises:
      ConfigError: naming the key and the reason.
    """
    if sections.render.style != "chat":
        return
    for model in schema.MODELS if sections.render.template_from == "own" else schema.MODELS[:1]:
        own, name = tokenizer(sections.pair, model), getattr(sections.pair, model)
        if own.chat_template is None:
            other = "; render.template_from=policy lends it the policy's" if model == "reference" else ""
            raise ConfigError(f"pair.{model}: no chat template (chat_template.jinja) at {name!r}{other}")
        if why := why_not(own, control_tokens(own), sections.render.template_options, seconds=seconds):
            raise ConfigError(f"pair.{model}: its chat template cannot be used: {why}")


def shares_tokens(sections: ScoreSections) -> bool:
    """Whether both models read the same token ids."""
    own = sections.render.style == "chat" and sections.render.template_from == "own"
    policy, reference = (fingerprint(tokenizer(sections.pair, model), template=own) for model in schema.MODELS)
    return policy == reference
