"""Loading a causal language model to score with."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pa_dist.score.tree_attention import bfloat16_is_emulated


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model ready to score.

    Args:
      name: a folder, or a name on the Hugging Face Hub.
      dtype: `float32` or `bfloat16`.
      device: a torch device, or `auto` to spread the model over all visible GPUs (needs accelerate).

    Raises:
      OSError: no such model. ImportError: `auto` without accelerate.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        name,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        device_map="auto" if device == "auto" else None,
    )
    model = model.eval() if device == "auto" else model.eval().to(device)
    if dtype == "bfloat16" and device == "cpu" and bfloat16_is_emulated():
        widen(model)
    return cast(PreTrainedModel, model)


def widen(model: nn.Module) -> None:
    """Make a bfloat16 model's linear layers multiply in float32 and round what comes out.

    That is what hardware with bfloat16 instructions does; without them torch's own product is several times slower.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _WideLinear


class _WideLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(input.float(), self.weight.float(), bias).to(input.dtype)
