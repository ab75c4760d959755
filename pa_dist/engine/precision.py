"""In which numbers a model computes, and what is done where float16 has none large enough.

A difference of two models' log-probs is small beside them. float16 has eight times bfloat16's resolution and a far
smaller range; the head's products are summed and kept in float32 whatever the dtype, since rounding logits costs most.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pa_dist.engine.hf import HFEngine, out_of_memory
from pa_dist.engine.modules import become
from pa_dist.engine.protocol import TokenColumns, TokenSequence
from pa_dist.engine.quantised import is_packed

# A model is switched to bfloat16 where more sequences than this left the range, and more than this share of all.
MOST_OVERFLOWS = 8
MOST_OVERFLOWING = 0.05


def dtype_on(device: str, asked: str) -> str:
    """The name of the dtype that `auto` means: float16 on a GPU, float32 on a CPU. Any other as it is.

    Args:
      device: `cpu`, or a GPU's name in torch.
    """
    if asked != "auto":
        return asked
    return "float32" if torch.device(device).type == "cpu" else "float16"


def keep_logits_in_float32(model: nn.Module) -> None:
    """Make the head of a model in half precision give float32 logits, summed in float32."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is nn.Linear and head.weight.dtype in (torch.float16, torch.bfloat16) and not is_packed(head):
        become(head, _Float32Logits)


class _Float32Logits(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype == torch.float32:
            return nn.functional.linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        if not input.is_cuda:
            return nn.functional.linear(input.float(), self.weight.float(), bias)
        logits = torch.mm(input.flatten(0, -2), self.weight.t(), out_dtype=torch.float32)
        logits = logits.view(*input.shape[:-1], -1)
        return logits if bias is None else logits + bias


class TooWide(RuntimeError):
    """One of several ranks has no room for float32."""


class Guarded:
    """An engine in float16. What leaves its range is scored again in float32; a model that does so often, in bfloat16.

    Attributes:
      overflowed: sequences that left the range.
    """

    def __init__(self, engine: HFEngine) -> None:
        self.engine, self.work = engine, engine.work
        self.overflowed = self._scored = 0

    def facts(self) -> dict[str, Any]:
        """As of any engine, and how many sequences left the range."""
        return {**self.engine.facts(), "overflowed": self.overflowed}

    def forget(self) -> None:
        """As `HFEngine` does."""
        self.engine.forget()

    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """As of any engine. Raises as it does, and `TooWide`."""
        found = self.engine.score(sequences)
        self._scored += len(sequences)
        if self.engine.model.dtype != torch.float16:
            return found
        over = [i for i, columns in enumerate(found) if columns is not None and np.isnan(columns.logprob).any()]
        if not over:
            return found
        self.overflowed += len(over)
        often = self.overflowed > max(MOST_OVERFLOWS, MOST_OVERFLOWING * self._scored)
        again = None if often else self._in_float32([sequences[i] for i in over])
        if again is None:
            recast(self.engine, torch.bfloat16)
            again = self.engine.score([sequences[i] for i in over])
        for i, columns in zip(over, again, strict=True):
            found[i] = columns
        return found

    def _in_float32(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None] | None:
        """Their columns; None where the device does not hold the weights in float32. The engine is in float16 again."""
        try:
            recast(self.engine, torch.float32)
            found = self.engine.score(sequences)
            # One that does not fit so may fit in half of that.
            return None if None in found else found
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if self.engine.ranks > 1:
                raise TooWide(str(error)) from error
            return None
        finally:
            recast(self.engine, torch.float16)


def recast(engine: HFEngine, dtype: torch.dtype) -> None:
    """Change an engine's weights in place, one after the other; what its model keeps in another dtype stays."""
    engine.forget()
    for name in engine.of_dtype:
        owner, _, own = name.rpartition(".")
        tensor = getattr(engine.model.get_submodule(owner), own)
        if isinstance(tensor, DTensor):
            _recast_share(engine.model, tensor, dtype)
        else:
            tensor.data = tensor.data.to(dtype)


def _recast_share(model: nn.Module, share: DTensor, dtype: torch.dtype) -> None:
    """The same of a rank's share of a matrix, which takes no other data: another one stands in its place."""
    other = nn.Parameter(share.detach().to(dtype), requires_grad=False)
    for module in model.modules():
        own: dict[str, Any] = module._parameters
        own.update({name: other for name, tensor in own.items() if tensor is share})
