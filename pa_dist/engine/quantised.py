"""Quantised checkpoints: transformers packs and unpacks their weights, here is what it leaves to be done."""

import re
from collections.abc import Callable
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from pa_dist.engine.errors import EngineError
from pa_dist.engine.modules import held

# What tensors that hold numbers or places as they are can be of. Others are packed, or have a class of their own.
_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool}


def settings_of(config: Any) -> dict[str, Any] | None:
    """How a checkpoint is quantised, as its config says; None of one that is not."""
    found: dict[str, Any] | None = getattr(config, "quantization_config", None)
    return found or getattr(config.get_text_config(), "quantization_config", None)


def method_of(model: PreTrainedModel) -> str | None:
    """By what a loaded model's weights are packed; None where they are not, or no longer."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return None
    method = quantizer.quantization_config.quant_method
    return str(getattr(method, "value", method))


def renamed(settings: Any, rename: Callable[[str], str]) -> Any:
    """Settings of another model's layers: they name those that are left as they are."""
    if isinstance(settings, dict):
        return {key: renamed(value, rename) for key, value in settings.items()}
    if isinstance(settings, list):
        return [renamed(value, rename) for value in settings]
    return rename(f"{settings}.").removesuffix(".") if isinstance(settings, str) else settings


def is_packed(module: nn.Module) -> bool:
    """Whether a layer itself holds packed weights."""
    tensors = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return any(type(held(tensor).data) is not Tensor or tensor.dtype not in _PLAIN for tensor in tensors)


@torch.no_grad()
def settle(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make a model that was loaded from a quantised checkpoint what it stays: its parameters that are not packed get
    the dtype that was asked for.

    transformers leaves many of these in the dtype that they have in the file, beside others in the one asked for.
    """
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        dtype = quantizer.update_dtype(dtype)  # some have kernels for one only
    kept = re.compile("|".join(map(re.escape, model._get_dtype_plan(dtype))) or r"(?!)")
    for name, module in model.named_modules():
        if is_packed(module):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and not kept.search(f"{name}.{own}"):
                parameter.data = parameter.data.to(dtype)
    if model._forward_pre_hooks:
        # compressed-tensors unpacks weights before the first call of a whole model, which engines never make.
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device))


def ask_for_plain(config: PreTrainedConfig) -> None:
    """Have a checkpoint dequantised as it is loaded, where its quantiser does that."""
    settings = settings_of(config)
    if settings is not None and hasattr(AutoQuantizationConfig.from_dict(dict(settings)), "dequantize"):
        config.quantization_config = {**settings, "dequantize": True}


def dequantised(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model with plain weights, dequantised if they are packed. Raises `EngineError` where transformers cannot."""
    if (method := method_of(model)) is None:
        return model
    try:
        model = cast(PreTrainedModel, model.dequantize(dtype))
    except NotImplementedError:
        raise EngineError(f"transformers does not dequantise weights packed by {method}") from None
    settle(model, dtype)
    return model
