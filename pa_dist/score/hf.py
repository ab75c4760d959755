"""The transformers engine: one causal language model on one device."""

import copy
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel

from pa_dist.score.engine import TokenColumns, TokenSequence
from pa_dist.score.logprobs import token_columns
from pa_dist.score.prefix_tree import Segment, prefix_tree

# A CPU gains nothing from batches beyond what its caches hold.
BATCH_TOKENS = {"cpu": 2048}
BATCH_TOKENS_OF_A_GPU = 16384
# Tokens that sharing must save before a prefix is run apart: a pass and a cache more cost about as much as these.
WORTHWHILE = 64


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
    """Scores with a transformers model: every shared prefix once, the head at action positions only."""

    def __init__(
        self, model: PreTrainedModel, *, top_k: int = 20, batch_tokens: int | None = None, share_prefixes: bool = True
    ) -> None:
        """Take a model in eval mode.

        Args:
          top_k: tokens averaged by `topk_logprob_mean`.
          batch_tokens: tokens of one forward pass, cached ones and pads included; a longer sequence goes alone. None is
            `BATCH_TOKENS` of the device.
          share_prefixes: run a prefix that sequences of one call share once, and fork its cache.
        """
        self.model = model
        self.top_k = top_k
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS_OF_A_GPU)
        self.share_prefixes = share_prefixes
        self._decoder = getattr(model, model.base_model_prefix)
        self._head = _head_of(model)
        self._vocabulary = model.config.get_text_config().vocab_size

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns]:
        """Columns of each sequence's scored tokens, in the order given. Raises ValueError for ids the model lacks."""
        self._check(sequences)
        starts = np.cumsum([0, *(len(s.positions) for s in sequences)])
        scored = np.empty((len(TokenColumns._fields), starts[-1]), np.float32)
        roots = prefix_tree([s.ids for s in sequences], WORTHWHILE if self.share_prefixes else sys.maxsize)
        for batch, hidden in self._runs(roots, None):
            wanted, inverse, places = _wanted(batch, sequences, starts)
            row, offset, target = torch.from_numpy(wanted).to(hidden.device).unbind(1)
            columns = token_columns(hidden[row, offset], target, self._logits, self._vocabulary, self.top_k)
            scored[:, places] = np.stack(columns)[:, inverse]
        return [TokenColumns(*scored[:, a:b]) for a, b in itertools.pairwise(starts)]

    def _runs(self, segments: list[Segment], cache: Cache | None) -> Iterator[tuple[list[Segment], Tensor]]:
        """Run segments that follow the same cached prefix, and all below them; each batch with its hidden states."""
        cached = segments[0].start if segments else 0
        leaves = [segment for segment in segments if not segment.children]
        for batch in pack([cached + len(segment.ids) for segment in leaves], self.batch_tokens):
            members = [leaves[i] for i in batch]
            yield members, self._forward(members, cache and _forked(cache, len(members)))
        for segment in segments:
            if segment.children:
                # A parent goes alone: pads would stand between it and its children.
                grown = _forked(cache, 1) if cache else DynamicCache(config=self.model.config.get_text_config())
                yield [segment], self._forward([segment], grown)
                yield from self._runs(segment.children, grown)

    def _forward(self, batch: list[Segment], cache: Cache | None) -> Tensor:
        """Final hidden states, [segments, tokens, d]; the cache grows by the segments."""
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s.ids.astype(np.int64)) for s in batch], True)
        # Pads stand on the right, where no token of a causal model sees them: no mask, and so no slower attention.
        hidden: Tensor = self._decoder(
            input_ids=ids.to(self.model.device), past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits.squeeze(0).to(hidden.device)

    def _check(self, sequences: Sequence[TokenSequence]) -> None:
        for sequence in sequences:
            if len(sequence.ids) and not 0 <= sequence.ids.min() <= sequence.ids.max() < self._vocabulary:
                raise ValueError(
                    f"token id {sequence.ids.max()} is outside the model's vocabulary of {self._vocabulary}"
                )


def _forked(cache: Cache, n: int) -> Cache:
    """A copy of a cache of one row, with n rows."""
    fork = copy.deepcopy(cache)
    fork.reorder_cache(cast(torch.LongTensor, torch.zeros(n, dtype=torch.long)))
    return fork


def _wanted(
    batch: list[Segment], sequences: Sequence[TokenSequence], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which hidden states of a batch to read, for which tokens.

    Args:
      starts: [sequences] place of each sequence's first scored token among all.

    Returns:
      [m, 3] distinct row of the batch, offset in it and token to score; then, for each of n readings, which of these it
      is and its place among all scored tokens.
    """
    rows, places = [np.empty((0, 3), np.int64)], [np.empty(0, np.int64)]
    for row, segment in enumerate(batch):
        for i in segment.sequences:
            ids, positions = sequences[i]
            # The state at position p - 1 is what predicts the token at p.
            inside = np.flatnonzero((positions > segment.start) & (positions <= segment.end))
            at = positions[inside].astype(np.int64)
            rows.append(np.stack([np.full(len(at), row), at - 1 - segment.start, ids[at]], axis=1))
            places.append(starts[i] + inside)
    wanted, inverse = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return wanted, inverse, np.concatenate(places)


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
