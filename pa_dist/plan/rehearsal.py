"""The engine without its arithmetic: which passes it would run over real tokens, and what they would cost."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pa_dist.engine.forward import Forward, Memory, reason_by_kind
from pa_dist.engine.hf import PASS_TOKENS, Columns, HFEngine
from pa_dist.engine.prefix_tree import Segment
from pa_dist.engine.protocol import TokenColumns, TokenSequence
from pa_dist.plan.flops import Shape, shape

# Standard deviations of the columns' logarithms, of SmolLM2-135M on tau-bench: a file's size depends on them a little.
_SPREAD = {"logprob": 3.2, "topk_logprob_mean": 0.38, "entropy": 2.4, "self_certainty": 0.3}


def drawn_columns(n: int, rng: np.random.Generator) -> TokenColumns:
    """Numbers that take as much room in a file as those of a small real model do."""
    return TokenColumns(
        *(rng.lognormal(0.0, spread, n).astype(np.float32) for spread in map(_SPREAD.__getitem__, TokenColumns._fields))
    )


class Rehearsal(HFEngine):
    """An `HFEngine` on a model without weights; `work` counts what the true one would do, and its columns are drawn.

    Attributes:
      most_tokens, most_kept: of one pass, and of keys and values that were in memory at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        device: str,
        batch_tokens: int,
        share_prefixes: bool,
        only_logprob: bool = False,
    ) -> None:
        """Take a model on the meta device.

        Args:
          device: the type of the device that is rehearsed for.
          share_prefixes: where the model's kind allows it. Only the true engine tries.
        """
        super().__init__(model, batch_tokens=batch_tokens, share_prefixes=False, only_logprob=only_logprob)
        self.apart = reason_by_kind(model) if share_prefixes else "as asked"
        self._pass_tokens = PASS_TOKENS.get(device, batch_tokens)
        self._forward = _Counting(model, shape(model), together=self.apart is None)
        self._rng = np.random.default_rng(0)

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest pass."""
        return self._counting.most_tokens

    @property
    def most_kept(self) -> int:
        """Tokens whose keys and values were held at once, at most."""
        return self._counting.most_kept

    @property
    def _counting(self) -> "_Counting":
        assert isinstance(self._forward, _Counting)
        return self._forward

    def _read(self, columns: Columns, places: dict[Segment, slice], hidden: Tensor) -> None:
        wanted, inverse, at = columns.wanted(places)
        drawn = np.array(drawn_columns(len(wanted), self._rng))
        columns.scored[:, at] = drawn[: len(columns.scored), inverse]
        self.work.flops += 2 * self._head_weights * len(wanted)


class _Counting(Forward):
    def __init__(self, model: PreTrainedModel, shape: Shape, *, together: bool) -> None:
        super().__init__(model, together=together)
        self._shape = shape
        self.most_tokens = self.most_kept = 0

    def __call__(self, segments: Sequence[Segment], store: Iterable[Segment]) -> tuple[Tensor, dict[Segment, slice]]:
        places, width = self._lay_out(segments)
        tokens = width * (len(segments) if self.rows else 1)
        pads = tokens - sum(len(segment.ids) for segment in segments)
        self.flops += sum(self._shape.flops(s.start, len(s.ids)) for s in segments)
        self.flops += 2 * self._shape.matrix_weights * pads
        self.memory.update({segment: Memory() for segment in store})
        self.most_tokens = max(self.most_tokens, tokens)
        self.most_kept = max(self.most_kept, sum(len(segment.ids) for segment in self.memory))
        return torch.empty(tokens, 0), places


def unshared(shape: Shape, sequences: Sequence[TokenSequence]) -> int:
    """Operations of an engine that runs each sequence whole and the head at every position, as vLLM does."""
    lengths = np.array([len(sequence.ids) for sequence in sequences], np.int64)
    head = 2 * shape.head_weights * int(lengths.sum())
    return head + sum(shape.flops(0, int(n)) for n in lengths)
