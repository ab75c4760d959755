"""Loading a causal language model to score with."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging
from transformers.utils.import_utils import is_accelerate_available

from pa_dist.engine.attention import half_is_emulated
from pa_dist.engine.errors import EngineError
from pa_dist.engine.merge import Merging, merge_into
from pa_dist.engine.modules import become
from pa_dist.engine.norms import fuse_norms
from pa_dist.engine.precision import keep_logits_in_float32
from pa_dist.engine.quantised import ask_for_plain, dequantised, is_packed, renamed, settings_of, settle

# Where multimodal checkpoints keep their language model, as they are written now and as they were, and where a language
# model alone has it.
LANGUAGE_MODEL = {
    r"^(model\.language_model|language_model\.model)\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}

# Where no adapter is looked for in the model's own folder: else it would be applied wherever peft is installed.
NO_ADAPTER = {"subfolder": "no-adapter-is-ever-applied"}


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    merging: Merging | None = None,
    plain: bool = False,
    ranks: int = 1,
) -> PreTrainedModel:
    """A causal language model ready to score, its logits in float32; of a multimodal checkpoint the language model, the
    rest stays on disk. Quantised weights stay packed where there are kernels for that.

    Args:
      name: a folder, or a name on the Hugging Face Hub.
      dtype: `float32`, `bfloat16`, `float16`, or `auto` for its config's, which on the CPU leaves weights in files.
      device: a torch device.
      merging: a policy to be merged into it.
      plain: of a quantised checkpoint dequantise the weights.
      ranks: processes that hold the model together, of which this is one; `device` is then its own.

    Raises:
      OSError: no such model.
      EngineError: the checkpoint lacks weights of the model, or has some in its layers that the model does not have;
        or quantised weights of a kind that cannot be dequantised.
    """
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    whole = AutoConfig.from_pretrained(name, **where)
    config = _language_model(whole)
    if plain:
        ask_for_plain(config)
    model = load_checked(
        AutoModelForCausalLM,
        name,
        config,
        dtype=dtype,
        device=device,
        key_mapping=None if config is whole else LANGUAGE_MODEL,
        attn_implementation=attn_implementation,
        ranks=ranks,
        **where,
    )
    if plain:
        with quiet():
            model = dequantised(model, getattr(torch, dtype))
    if merging is not None:
        merge_policy(model, name, merging, revision=revision, trust_remote_code=trust_remote_code)
    keep_logits_in_float32(model)
    if model.device.type == "cuda":
        fuse_norms(model)
    return model


def merge_policy(
    model: PreTrainedModel,
    reference: str,
    merging: Merging,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Make a model that was loaded from a reference the merged one. Raises as `load_model` and `merge_into`."""
    names = ((merging.policy, merging.policy_revision), (reference, revision))
    policy, own = (
        load_model(name, revision=of, dtype="auto", trust_remote_code=trust_remote_code) for name, of in names
    )
    merge_into(model, policy, own, merging)


def load_checked(
    kind: Any, name: str, config: PreTrainedConfig, *, dtype: str, device: str, ranks: int = 1, **settings: Any
) -> PreTrainedModel:
    """A model of one of transformers' `AutoModel` classes in eval mode on its device. Raises as `load_model`."""
    # By its own plan of the kind of model, of every matrix a rank reads its share from disk, and no more.
    spread = {"distributed_config": DistributedConfig(tp_size=ranks)} if ranks > 1 else {}
    if spread and settings_of(config) is not None:
        raise EngineError(f"{name}: quantised weights are not spread over several processes")
    with quiet():  # of weights left on disk; what matters is checked
        model, report = kind.from_pretrained(
            name,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            device_map=None if spread else _device_map(device),
            ignore_mismatched_sizes=True,  # else an error that does not say which
            output_loading_info=True,
            adapter_kwargs=NO_ADAPTER,
            **spread,
            **settings,
        )
    check_weights(name, model, report)
    if settings_of(config) is not None and dtype != "auto":
        settle(model, getattr(torch, dtype))
    model = model.eval() if spread else model.eval().to(device)
    if device == "cpu" and half_is_emulated(model.dtype):
        widen(model)
    return cast(PreTrainedModel, model)


def _device_map(device: str) -> Any:
    """Where transformers puts a model, as its `from_pretrained` takes it.

    Straight to its device, a tensor goes there from the pages of its file, which are the system's and shared by all
    processes: an actor holds no copy of the model in a node's memory, and those that load at a time read a file from
    disk once. They are not made to wait for each other: where memory does not keep the files, each would read them
    again. On a CPU tensors that have their dtype in the file stay its pages, which actors of a node share as well.

    Without accelerate a model is made on the CPU, and moved.
    """
    return {"": torch.device(device)} if is_accelerate_available() else None


def skeleton(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """What `load_model` would load, on the meta device: names and shapes of its tensors. Raises OSError."""
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_language_model(config), trust_remote_code=trust_remote_code)
    return cast(PreTrainedModel, model)


def empty_classifier(name: str, *, revision: str | None = None) -> PreTrainedModel:
    """As `skeleton`, of a sequence-classification model."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(name, revision=revision))
    return cast(PreTrainedModel, model)


def language_model_name(key: str, model: PreTrainedModel) -> str:
    """What a checkpoint's tensor is called in the language model that is made of it."""
    key = _without_wrapper(key)
    prefix = model.base_model_prefix
    # A checkpoint of the decoder alone has no prefix.
    return f"{prefix}.{key}" if key.split(".")[0] in dict(getattr(model, prefix).named_children()) else key


def _without_wrapper(key: str) -> str:
    for pattern, name in LANGUAGE_MODEL.items():
        key = re.sub(pattern, name, key)
    return key


def _language_model(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a multimodal model's config that makes a language model by itself; any other config as it is."""
    text = config.get_text_config()
    if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):
        return config
    # The model as a whole is what its embeddings are tied by, whatever the part says of itself.
    text.tie_word_embeddings = getattr(config, "tie_word_embeddings", False)
    if (settings := getattr(config, "quantization_config", None)) is not None:
        text.quantization_config = renamed(settings, _without_wrapper)
    return text


def check_weights(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise `EngineError` where transformers would make weights up, or leave out some of the layers'.

    What a checkpoint has beside the language model (towers, heads for other tasks) does not matter.
    """
    decoder = model.base_model_prefix
    children = [f"{decoder}.{child}." for child, _ in getattr(model, decoder).named_children()]
    parts = (*children, *(f"{child}." for child, _ in model.named_children() if child != decoder))
    faults = {
        "lacks": report["missing_keys"],
        "has in other shapes": [key for key, *_ in report["mismatched_keys"]],
        "has more than the": [key for key in report["unexpected_keys"] if key.startswith(parts)],
    }
    for fault, keys in faults.items():
        if keys:
            kind = type(model).__name__
            raise EngineError(f"{name}: the checkpoint {fault} weights of {kind}, {len(keys)} in all: {min(keys)}")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing of weights meanwhile, and draws no bars."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def widen(model: nn.Module) -> None:
    """Make a model's linear layers in half precision multiply in float32 and round what comes out; its head stays.

    That is what hardware with instructions for it does; without them torch's own product is several times slower.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    for module in model.modules():
        if type(module) is nn.Linear and module is not head and not is_packed(module):
            become(module, _WideLinear)


class _WideLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(input.float(), self.weight.float(), bias).to(input.dtype)
