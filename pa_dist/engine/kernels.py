"""Kernels that some layers run by on a GPU, which other packages hold."""

from importlib.util import find_spec
from typing import Any

# By the module that each is imported as.
LINEAR_ATTENTION = {"fla": "flash-linear-attention", "causal_conv1d": "causal-conv1d"}


def missing_kernels(config: Any) -> list[str]:
    """Packages that are not installed, and without which a model's linear-attention layers run in transformers' own
    loop on a GPU: right, and much slower.

    Args:
      config: a model's.
    """
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    if "linear_attention" not in layers:
        return []
    return [package for module, package in LINEAR_ATTENTION.items() if find_spec(module) is None]


def lost_kernels_in_words(packages: list[str]) -> str:
    """What is to be said of them, of some model."""
    named = " and ".join(packages)
    return f"linear-attention layers run in a loop, much slower, for want of {named}; `pip install 'pa-dist[gpu]'`"
