"""A quantised checkpoint before it is loaded: whether what transformers reads it with is installed, and has a GPU."""

from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers.quantizers.auto import AutoHfQuantizer

from pa_dist.engine.load import quiet
from pa_dist.engine.quantised import settings_of
from pa_dist.errors import first_line
from pa_dist.models.files import CONFIG, FolderFault

# What pip calls the libraries that read the commoner kinds; what others need transformers says.
_PACKAGES = {
    "auto-round": ("auto-round",),
    "awq": ("accelerate", "gptqmodel"),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "compressed-tensors": ("compressed-tensors",),
    "fp8": ("accelerate",),
    "gptq": ("gptqmodel", "optimum"),
    "hqq": ("hqq",),
    "mxfp4": ("accelerate",),
    "quanto": ("accelerate", "optimum-quanto"),
    "torchao": ("torchao",),
}
# Those that peft puts adapters on; of others it would give an adapter the dtype of packed numbers.
_ADAPTABLE = ("awq", "bitsandbytes", "gptq")


def method_of(config: Any) -> str | None:
    """How a checkpoint is quantised; None of one that is not."""
    settings = settings_of(config)
    return None if settings is None else str(settings.get("quant_method"))


def made_for(config: Any) -> str | None:
    """The dtype of half precision that a quantised checkpoint was made for; None of one that is not quantised."""
    if settings_of(config) is None:
        return None
    return "float16" if config.get_text_config().dtype == torch.float16 else "bfloat16"


def check_quantised(config: Any, *, adapter: bool = False) -> str | None:
    """Find out whether a quantised checkpoint can be loaded here by transformers.

    Args:
      config: a model's; of one that is not quantised there is nothing to find.
      adapter: whether an adapter is to be put on it.

    Returns:
      Why it could be loaded on a GPU only, where this machine has none; nodes of a cluster may have some.

    Raises:
      FolderFault: in one line, with what to install.
    """
    if (settings := settings_of(config)) is None:
        return None
    method = method_of(config)
    if adapter and method not in _ADAPTABLE:
        raise FolderFault(
            f"{CONFIG}: quantised by {method}, on which no adapter is put; {', '.join(_ADAPTABLE)}, or a base that is "
            "not quantised"
        )
    if lacking := [package for package in _PACKAGES.get(method or "", ()) if not _installed(package)]:
        raise FolderFault(
            f"{CONFIG}: quantised by {method}, which takes {' and '.join(lacking)}; `pip install {' '.join(lacking)}` "
            "installs it"
        )
    try:
        with quiet():
            if not AutoHfQuantizer.supports_quant_method(settings):
                raise FolderFault(
                    f"{CONFIG}: quantised by {method}, which transformers {version('transformers')} does not know"
                )
            quantizer = AutoHfQuantizer.from_config(deepcopy(settings), pre_quantized=True)
            quantizer.validate_environment(device_map=None, weights_only=True)
    except FolderFault:
        raise
    except Exception as error:  # of a library that it imports, too
        said = f"quantised by {method}: {first_line(error)}"
        if not torch.cuda.is_available() and any(word in said for word in ("GPU", "CUDA")):
            return said
        raise FolderFault(f"{CONFIG}: {said}") from None
    return None


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
