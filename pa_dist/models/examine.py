"""A model before its weights are loaded: whether its files are whole and fit each other, and what they are.

What a folder's files cannot tell of a model on the Hugging Face Hub, whose weights are not here yet, loading finds out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, try_to_load_from_cache
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel
from transformers.utils.hub import cached_file

from pa_dist.engine.load import language_model_name, quiet, skeleton
from pa_dist.engine.quantised import settings_of
from pa_dist.errors import PaDistError
from pa_dist.models.files import ADAPTER, CONFIG, FolderFault, Weights, check_files, local, read_json, weights
from pa_dist.models.loaded import load_config_once, load_tokenizer_once
from pa_dist.models.quantised import made_for, method_of

T = TypeVar("T")
Empty = Callable[..., PreTrainedModel]
# Layers that no model has; where the weights are here, it is theirs that count.
_MOST_LAYERS = 10_000
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_SIZES = ("vocab_size", "hidden_size", "max_position_embeddings", "n_positions", *_LAYERS)
_LONGEST_REASON = 240
_HUB_SECONDS = 20.0


@dataclass(frozen=True)
class Examined:
    """What was found out of a model.

    Attributes:
      config: its own; `text` that of its language part.
      weights: of a folder; None for a model on the Hub.
      parameters: how many they are, unpacked; None where there are no weights here.
      adapter: that it is given, by name.
    """

    name: str
    config: Any
    text: Any
    tokenizer: Any
    weights: Weights | None
    parameters: int | None = None
    adapter: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What is loaded, for the manifest."""
        made = getattr(self.config, "architectures", None) or [type(self.config).__name__]
        return {
            "name": self.name,
            "architecture": str(made[0]) if isinstance(made, list) else str(made),
            "files": None if self.weights is None else self.weights.files,
            "parameters": self.parameters,
            "quantised": method_of(self.config),
            "made_for": made_for(self.config),
            "adapter": self.adapter,
        }

    @property
    def described(self) -> str:
        """The same in words."""
        facts = self.facts
        kind = facts["architecture"] + (f" quantised by {facts['quantised']}" if facts["quantised"] else "")
        adapter = "no adapter" if self.adapter is None else f"with the adapter {self.adapter}"
        if self.weights is None:
            return f"{self.name}, a {kind} on the Hub, {adapter}"
        files = self.weights.files
        named = files[0] if len(files) == 1 else f"{len(files)} files of weights, {files[0]} the first"
        return f"{self.name}, a {kind}: {named}, {self.weights.numbers:,} numbers, {adapter}"


def examine(name: str, revision: str | None, trust_remote_code: bool, empty: Empty = skeleton) -> Examined:
    """Find out whether a model is there, whole and consistent.

    Args:
      empty: makes the model without its weights, as `skeleton` does.

    Raises:
      FolderFault: in one line, naming the file.
    """
    folder = local(name)
    if folder is None:
        raw, held = read_json(_of_the_hub(name, revision)), None
    else:
        check_files(folder)
        raw = read_json(folder / CONFIG)
        held = weights(folder, raw)
    _bounded(raw, held)
    config = _guarded(CONFIG, lambda: load_config_once(name, revision, trust_remote_code))
    text = _guarded(CONFIG, config.get_text_config)
    for key in _SIZES:
        if (value := getattr(text, key, 1)) is not None and not (type(value) is int and value > 0):
            raise FolderFault(f"{CONFIG}: {key} is {value!r}")
    if empty is skeleton and _reads_ahead(text):
        raise FolderFault(
            f"{CONFIG}: {text.model_type} is an encoder, which reads what follows a token too: no probability of the "
            "next one is its own"
        )
    parameters = None if held is None else held.numbers
    if held is not None and "auto_map" not in raw:
        model = _guarded(CONFIG, lambda: empty(name, revision=revision))
        if settings_of(config) is None:
            _check_fit(model, held)
        else:  # its tensors are packed
            parameters = sum(parameter.numel() for parameter in model.parameters())
    tokenizer = _guarded("its tokenizer", lambda: load_tokenizer_once(name, revision, trust_remote_code))
    _check_tokenizer(tokenizer)
    return Examined(name, config, text, tokenizer, held, parameters)


def _of_the_hub(name: str, revision: str | None) -> Path:
    """Where the config of a model on the Hub lies. Raises `FolderFault`."""
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        if not isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str):
            # Asked once: the library asks for a file six times over where nobody answers, and says so each time.
            HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS)
        if cached_file(name, ADAPTER, revision=revision, **quietly) is not None:
            raise FolderFault(
                f"{ADAPTER}: {name!r} holds an adapter; {{model: BASE, adapter: {name}}} names its base too"
            )
        found = cached_file(name, CONFIG, revision=revision)
    except PaDistError:
        raise
    except Exception as error:  # of the library that connects, whichever it is
        raise FolderFault(
            f"{name!r} is neither a folder here nor a model on the Hugging Face Hub that can be had: {_said(error)}"
        ) from None
    return Path(str(found))


def _guarded(what: str, make: Callable[[], T]) -> T:
    """What a library makes of a file; whatever it raises is one line, and what it logs before that is not shown."""
    try:
        with quiet():
            return make()
    except (KeyboardInterrupt, SystemExit, PaDistError):
        raise
    except RecursionError:
        raise FolderFault(f"{what}: nested too deeply") from None
    except BaseException as error:  # a panic of a tokenizer is no Exception
        raise FolderFault(f"{what} cannot be used: {_said(error)}") from None


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):  # which may say a key alone
        text = f"KeyError: {text}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _bounded(raw: dict[str, Any], held: Weights | None) -> None:
    """Refuse a config of more layers than there are weights, before anybody makes a list of them."""
    most = _MOST_LAYERS if held is None else len(held.shapes)
    parts = [raw, *(raw[key] for key in ("text_config", "llm_config", "language_config") if key in raw)]
    for part in parts:
        for key in _LAYERS:
            asked = part.get(key) if isinstance(part, dict) else None
            if type(asked) is int and asked > most:
                has = f"there are {most} tensors" if held else f"at most {most} are believed"
                raise FolderFault(f"{CONFIG}: {key} asks for {asked:,} layers, and {has}")


def _reads_ahead(text: Any) -> bool:
    """Whether a config is an encoder's, for which transformers makes a language model all the same."""
    whole = getattr(text, "is_encoder_decoder", False)  # of these the decoder alone is loaded
    return type(text) in MODEL_FOR_MASKED_LM_MAPPING and not whole and not getattr(text, "is_decoder", False)


def _check_fit(model: PreTrainedModel, held: Weights) -> None:
    """Refuse weights that are another model's than the config's.

    What has other names in the file than in the model is left for loading to judge.
    """
    file = held.files[0] if len(held.files) == 1 else f"{len(held.files)} files of weights"
    named = {language_model_name(key, model): shape for key, shape in held.shapes.items()}
    for key, tensor in model.state_dict().items():
        if key in named and named[key] != tuple(tensor.shape):
            raise FolderFault(
                f"{CONFIG}: asks for {key} of {list(tensor.shape)}, and {file} has it of {list(named[key])}"
            )
    if more := _layers_left_out(model, named):
        raise FolderFault(f"{CONFIG}: asks for fewer layers than {file} has: {more}")
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > held.numbers:
        raise FolderFault(f"{CONFIG}: asks for {needed:,} parameters, and {file} has {held.numbers:,} numbers")


def _layers_left_out(model: PreTrainedModel, named: dict[str, Any]) -> str | None:
    """A tensor of a layer beyond the model's last one, but for those that its class knows of, such as draft layers."""
    prefix = model.base_model_prefix
    known = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    for child, module in getattr(model, prefix).named_children():
        if type(module).__name__ != "ModuleList":
            continue
        for key in named:
            found = re.match(rf"{re.escape(prefix)}\.{re.escape(child)}\.(\d+)\.", key)
            if found and int(found[1]) >= len(module) and not any(pattern.search(key) for pattern in known):
                return key
    return None


def _check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer without a vocabulary, which transformers makes where its file is missing."""
    ids = _guarded("its tokenizer", lambda: tokenizer("[user]: a", add_special_tokens=False)["input_ids"])
    if not ids or set(ids) == {getattr(tokenizer, "unk_token_id", None)}:
        raise FolderFault(
            "its tokenizer knows no text: tokenizer.json, or what its class reads instead, is missing or empty"
        )
