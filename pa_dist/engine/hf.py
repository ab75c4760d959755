"""The transformers engine: one causal language model on one device."""

import copy
import itertools
import time
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from pa_dist.engine.forward import Forward, Memory, linear_way, ranks_of, reason_to_stay_apart, weights_of
from pa_dist.engine.head import masks, token_columns
from pa_dist.engine.kernels import missing_kernels
from pa_dist.engine.prefix_tree import Segment, graft, prefix_tree, separate
from pa_dist.engine.protocol import TokenColumns, TokenSequence, Work
from pa_dist.engine.quantised import method_of
from pa_dist.engine.rate import matrix_rate
from pa_dist.engine.schedule import Schedule

# Tokens in memory at once: those of a pass, and those whose keys and values wait for others.
BATCH_TOKENS = 16384
# Tokens of one pass: a CPU gains nothing from more than its caches hold.
PASS_TOKENS = {"cpu": 2048}
# Passes that ran out of memory are halved down to this; what does not fit then is given up.
LEAST_TOKENS = 128
# What sharing must save, as a share of the tokens that then follow the prefix: merging one more attention costs each of
# them 3 to 9% of its pass.
WORTHWHILE = 0.1


class HFEngine:
    """Scores with a transformers model: every distinct prefix once, the head at action positions only.

    Attributes:
      ranks: processes that the model is spread over, each of which has such an engine and is asked for the same.
      apart: why prefixes are not shared, or None where they are.
      in_pieces: why a layer attends in a call for each segment; None where it does in one.
      linear_fell_back: why linear-attention layers do not run in the best way of their kind; None where they do.
      batch_tokens: as given, or less for some calls after memory ran out.
      work: what was done so far.
      of_dtype: names of weights and buffers in the model's dtype; some it keeps in float32, whatever its dtype.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        top_k: int = 20,
        batch_tokens: int = BATCH_TOKENS,
        share_prefixes: bool = True,
        worthwhile: float = WORTHWHILE,
        only_logprob: bool = False,
        at_once: bool | None = None,
    ) -> None:
        """Take a model in eval mode.

        Args:
          top_k: tokens averaged by `topk_logprob_mean`.
          batch_tokens: tokens in memory at once: those of a pass, pads included, and those whose keys and values wait
            for others. Where a path's keys leave no room, a pass still has an eighth.
          share_prefixes: run a prefix that sequences share once. It is tried on a few tokens first, and left alone
            where it does not give what a plain pass gives.
          worthwhile: as `prefix_tree` takes it.
          only_logprob: give no other column.
          at_once: have a layer attend in one call where prefixes are shared; None where it is a GPU's. It is tried as
            sharing is.
        """
        self.model, self.ranks = model, ranks_of(model)
        self.top_k = top_k
        self.batch_tokens = self._most_tokens = batch_tokens
        self._pass_tokens = PASS_TOKENS.get(model.device.type, batch_tokens)
        self.worthwhile = worthwhile
        self.only_logprob = only_logprob
        self.work = Work()
        at_once = model.device.type == "cuda" if at_once is None else at_once
        linear, self.linear_fell_back = linear_way(model) if share_prefixes else (None, None)
        tried = partial(reason_to_stay_apart, model, linear=linear)
        self.in_pieces = tried(at_once=True) if share_prefixes and at_once else "as asked"
        self.apart = None if self.in_pieces is None else "as asked"
        if share_prefixes and self.in_pieces is not None:
            self.apart = tried()
        self._forward = Forward(model, together=self.apart is None, at_once=self.in_pieces is None, linear=linear)
        self._head = _head_of(model)
        self._head_weights = weights_of(model.get_output_embeddings())
        self._vocabulary = model.config.get_text_config().vocab_size
        self._kept: list[_Kept] = []
        # Of a model in float32 all buffers are, also those that always are.
        held = itertools.chain(model.named_parameters(), () if model.dtype == torch.float32 else model.named_buffers())
        self.of_dtype = {name for name, tensor in held if tensor.dtype == model.dtype}

    def facts(self) -> dict[str, Any]:
        """Of the device and how it is used, for the manifest."""
        return {"dtype": str(self.model.dtype).removeprefix("torch."), **self._measured}

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return {
            "device": str(self.model.device),
            "packed_by": method_of(self.model),
            "matrix_flops_per_second": round(matrix_rate(self.model.device, self.model.dtype)),
            "prefixes_apart": self.apart,
            "attention_in_pieces": None if self.apart else self.in_pieces,
            "linear_attention_fell_back": self.linear_fell_back,
            "missing_kernels": missing_kernels(self.model.config) if self.model.device.type == "cuda" else [],
            "masked_vocabulary": self._masks_tokens(),
        }

    @torch.inference_mode()
    def _masks_tokens(self) -> bool:
        """Whether the head masks tokens: it does so whatever the hidden state."""
        head = self.model.get_output_embeddings()
        width = getattr(head, "in_features", None) or head.weight.shape[1]
        return masks(self._logits(torch.zeros(1, width, dtype=self.model.dtype, device=self.model.device)))

    def limit(self, batch_tokens: int) -> None:
        """Have at most so many tokens in memory at once from now on."""
        self.batch_tokens = self._most_tokens = batch_tokens

    def forget(self) -> None:
        """Leave nothing of earlier calls: what is done next has other weights, or another dtype."""
        self._kept = []
        self._forward.release([])

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """Columns of each sequence's scored tokens, in the order given; None where memory does not hold a sequence.

        Raises:
          ValueError: ids that the model lacks.
          RuntimeError: out of memory, as one of several ranks: the others wait, or go on, without this one.
        """
        self._check(sequences)
        # Whoever else took the memory may have given it back.
        self.batch_tokens = min(self._most_tokens, self.batch_tokens + self.batch_tokens // 8)
        began, flops_before = time.perf_counter(), self._forward.flops
        columns = Columns(sequences, 1 if self.only_logprob else len(TokenColumns._fields))
        self._forward.release([])  # what a call that raised had left
        ids = [s.ids for s in sequences]
        roots = separate(ids) if self.apart else prefix_tree(ids, self.worthwhile)
        kept = self._recall(roots)
        schedule = Schedule(roots, rows=self._forward.rows, cut=not self.apart, done=kept.keys())
        for segment, hidden in kept.items():
            self._read(columns, {segment: slice(0, len(segment.ids))}, hidden)

        last, given = len(sequences) - 1, self.batch_tokens
        while segments := schedule.take(self._room()):
            # What the last sequence shares stays for the next call, which in a sorted table begins as this one ends.
            lasting = {s for s in segments if s.children and len(s.sequences) > 1 and last in s.sequences}
            try:
                hidden, places = self._forward(segments, (schedule.path() | lasting).intersection(segments))
                self._read(columns, places, hidden)
            except RuntimeError as error:
                if not out_of_memory(error) or self.ranks > 1:
                    raise
                self._retreat(schedule, segments, columns, given)
                for segment in kept.keys() - schedule.above():
                    del kept[segment]
            else:
                kept.update({s: hidden[places[s]].clone() for s in lasting})
                self.work.distinct_tokens += sum(len(s.ids) for s in segments)
            self._forward.release(schedule.path() | kept.keys())

        self._kept = [
            _Kept(s, self._forward.memory[s], hidden)
            for s, hidden in sorted(kept.items(), key=lambda item: item[0].start)
            if last in s.sequences
        ]
        self._forward.release([])
        self.work.tokens += sum(len(s.ids) for s in sequences)
        self.work.flops += self._forward.flops - flops_before
        self.work.seconds += time.perf_counter() - began
        return columns.split()

    def _recall(self, roots: Sequence[Segment]) -> dict[Segment, Tensor]:
        """Segments that the last call left, found again in a tree, and their hidden states."""
        found = {}
        for segment, kept in zip(graft(roots, [k.segment for k in self._kept]), self._kept, strict=False):
            self._forward.memory[segment] = kept.memory
            found[segment] = kept.hidden
        self._kept = []
        return found

    def _room(self) -> int:
        """Tokens of the next pass."""
        held = sum(len(segment.ids) for segment in self._forward.memory)
        return min(max(self.batch_tokens - held, -(-self.batch_tokens // 8)), self._pass_tokens)

    def _read(self, columns: "Columns", places: dict[Segment, slice], hidden: Tensor) -> None:
        """Columns of all tokens that a pass predicts."""
        wanted, inverse, at = columns.wanted(places)
        state, target = torch.from_numpy(wanted).to(hidden.device).unbind(1)
        read = token_columns(
            hidden[state], target, self._logits, self._vocabulary, self.top_k, only_logprob=self.only_logprob
        )
        columns.scored[:, at] = np.array([column for column in read if column is not None])[:, inverse]
        self.work.flops += 2 * self._head_weights * len(wanted)

    def _retreat(self, schedule: Schedule, segments: list[Segment], columns: "Columns", given: int) -> None:
        """After a pass that ran out of memory: smaller ones, or without the sequences that need it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        schedule.put_back(segments)
        if self.batch_tokens > LEAST_TOKENS and (len(segments) > 1 or not self.apart):
            # Half of what was there, which may have been far less than was allowed.
            there = sum(len(s.ids) for s in self._forward.memory.keys() | set(segments))
            self.batch_tokens = min(self.batch_tokens, there) // 2
            return
        columns.lost.update(segments[0].sequences)
        schedule.drop(columns.lost)
        self.batch_tokens = given

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits.squeeze(0).to(hidden.device)

    def _check(self, sequences: Sequence[TokenSequence]) -> None:
        for sequence in sequences:
            if len(sequence.ids) and not 0 <= sequence.ids.min() <= sequence.ids.max() < self._vocabulary:
                raise ValueError(
                    f"token id {sequence.ids.max()} is outside the model's vocabulary of {self._vocabulary}"
                )


class _Kept(NamedTuple):
    """A segment that ran in an earlier call."""

    segment: Segment
    memory: Memory
    hidden: Tensor
    """[tokens, d] final hidden states."""


class Columns:
    """The scored tokens of all sequences, side by side."""

    def __init__(self, sequences: Sequence[TokenSequence], n_columns: int) -> None:
        self.sequences = sequences
        self.starts = np.cumsum([0, *(len(s.positions) for s in sequences)])
        self.scored = np.full((n_columns, self.starts[-1]), np.nan, np.float32)
        self.lost: set[int] = set()

    def wanted(self, places: dict[Segment, slice]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Which hidden states of a pass to read, for which tokens.

        Args:
          places: where each segment's hidden states are.

        Returns:
          [m, 2] distinct hidden state and token that it predicts; then, for each of n scored tokens, which of these it
          is and its place among all.
        """
        pairs, scored = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
        for segment, place in places.items():
            for i in segment.sequences:
                ids, positions = self.sequences[i]
                # The state at position p - 1 is what predicts the token at p.
                first, last = np.searchsorted(positions, [segment.start + 1, segment.end + 1])
                at = positions[first:last].astype(np.int64)
                pairs.append(np.stack([place.start + at - 1 - segment.start, ids[at]], axis=1))
                scored.append(np.arange(self.starts[i] + first, self.starts[i] + last))
        wanted, inverse = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
        return wanted, inverse.reshape(-1), np.concatenate(scored)

    def split(self) -> list[TokenColumns | None]:
        """The columns of each sequence; None for those lost."""
        spans = itertools.pairwise(self.starts)
        rest = [None] * (len(TokenColumns._fields) - len(self.scored))
        return [None if i in self.lost else TokenColumns(*self.scored[:, a:b], *rest) for i, (a, b) in enumerate(spans)]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has no room."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _head_of(model: PreTrainedModel) -> nn.Module:
    """The model with its decoder replaced by the identity.

    Running it on hidden states applies the model's own head, so that softcaps, scales and whatever a family adds stay
    the model's business. The weights are shared, not copied.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Identity()}
    return head


class _Identity(nn.Module):
    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> "_Hidden":
        return _Hidden(inputs_embeds)

    @property
    def decoder(self) -> "_Identity":
        """Some heads (OPT's) run the decoder in the decoder."""
        return self


class _Hidden:
    """A decoder's output that holds hidden states and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None
