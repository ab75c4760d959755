"""The transformers engine: one causal language model on one device."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pa_dist.score.engine import TokenColumns, TokenSequence
from pa_dist.score.logprobs import token_columns


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
    if dtype == "bfloat16" and device == "cpu" and _bfloat16_is_emulated():
        widen(model)
    return cast(PreTrainedModel, model)


def _bfloat16_is_emulated() -> bool:
    return torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


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


class HFEngine:
    """Scores with a transformers model: the decoder over right-padded batches, the head at action positions only."""

    def __init__(self, model: PreTrainedModel, *, top_k: int = 20, batch_tokens: int = 16384) -> None:
        """Take a model in eval mode.

        Args:
          top_k: tokens averaged by `topk_logprob_mean`.
          batch_tokens: padded tokens of one forward pass; a longer sequence goes alone.
        """
        self.model = model
        self.top_k = top_k
        self.batch_tokens = batch_tokens
        self._decoder = getattr(model, model.base_model_prefix)
        self._head = _head_of(model)
        self._vocabulary = model.config.get_text_config().vocab_size

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns]:
        """Columns of each sequence's scored tokens, in the order given. Raises ValueError for ids the model lacks."""
        self._check(sequences)
        scored: dict[int, TokenColumns] = {}
        for batch in pack([len(s.ids) for s in sequences], self.batch_tokens):
            columns = self._forward([sequences[i] for i in batch])
            bounds = np.cumsum([len(sequences[i].positions) for i in batch])[:-1]
            split = [np.split(column, bounds) for column in columns]
            scored.update((i, TokenColumns(*parts)) for i, *parts in zip(batch, *split, strict=True))
        return [scored[i] for i in range(len(sequences))]

    # The seam for prefix sharing: whatever runs the decoder ends with hidden states at the positions asked for.
    def _forward(self, batch: Sequence[TokenSequence]) -> TokenColumns:
        """Columns of a batch's scored tokens, one sequence after the other."""
        device = self.model.device
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s.ids.astype(np.int64)) for s in batch], True)
        rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(s.positions) for s in batch]))
        positions = torch.from_numpy(np.concatenate([s.positions for s in batch]).astype(np.int64))
        # Pads stand on the right, where no token of a causal model sees them: no mask, and so no slower attention.
        hidden = self._decoder(input_ids=ids.to(device), use_cache=False).last_hidden_state
        hidden = hidden[rows.to(hidden.device), (positions - 1).to(hidden.device)]
        targets = ids[rows, positions].to(hidden.device)
        return token_columns(hidden, targets, self._logits, self._vocabulary, self.top_k)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits.squeeze(0).to(hidden.device)

    def _check(self, sequences: Sequence[TokenSequence]) -> None:
        for sequence in sequences:
            if len(sequence.ids) and not 0 <= sequence.ids.min() <= sequence.ids.max() < self._vocabulary:
                raise ValueError(
                    f"token id {sequence.ids.max()} is outside the model's vocabulary of {self._vocabulary}"
                )


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Batches of indices, longest first, each of at most `budget` padded tokens or of a single sequence."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _head_of(model: PreTrainedModel) -> nn.Module:
    """The model with its decoder replaced by the identity.

    Running it on hidden states applies the model's own head, so that softcaps, scales and whatever a family adds stay
    the model's business. The weights are shared, not copied.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Identity()}
    return head


class _Identity(nn.Module):
    def forward(self, inputs_embeds: Tensor, **_: Any) -> "_Hidden":
        return _Hidden(inputs_embeds)


class _Hidden:
    """A decoder's output that holds hidden states and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None
