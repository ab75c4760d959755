"""What every scoring engine takes and gives."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

NULL_COLUMNS: dict[str, dict[str, str]] = {
    "hf": {},
    "vllm": dict.fromkeys(("entropy", "self_certainty"), "vLLM gives no figure of the whole vocabulary"),
}
"""Of each engine, the token columns that are null, and why."""

UNREAD = "no method reads it of the reference; score.columns=all has it computed"
"""Why the reference's columns are null but for the log-prob."""

MASKED_VOCABULARY = "the policy's head gives some tokens no probability: the mean of -log p over all has no value"
"""Why self-certainty is null where an engine gives it."""


class TokenSequence(NamedTuple):
    """One trajectory as tokens."""

    ids: Ints
    """[length] token ids."""
    positions: Ints
    """[n] ascending positions of the tokens to score, each at least 1: the first token has no log-probability."""


class TokenRow(NamedTuple):
    """The sequences of one trajectory: one, or several where no single one holds all states that it went through."""

    ids: Ints
    """[length] token ids of all of them, one after the other."""
    positions: Ints
    """[n] ascending positions in `ids` of the tokens to score; none is the first of a sequence."""
    lengths: Ints
    """[sequences] tokens of each."""

    def sequences(self) -> list[TokenSequence]:
        """Each of them alone."""
        ends = np.cumsum(self.lengths)
        bounds = np.searchsorted(self.positions, [0, *ends])
        spans = zip([0, *ends[:-1]], ends, bounds[:-1], bounds[1:], strict=True)
        return [TokenSequence(self.ids[a:b], self.positions[p:q] - np.int32(a)) for a, b, p, q in spans]


class TokenColumns(NamedTuple):
    """What the forward pass leaves of each scored token, all [n], natural logarithms; None: undefined, or not given."""

    logprob: Floats
    """Log-probability of the token."""
    topk_logprob_mean: Floats | None
    """Mean log-probability of the k most likely tokens at its position."""
    entropy: Floats | None
    """Entropy of the distribution it was drawn from, in nats."""
    self_certainty: Floats | None
    """KL(uniform or p) over the vocabulary: -mean_j log p_j - log V (Kang et al. 2025)."""


@dataclass
class Work:
    """What an engine did."""

    tokens: int = 0
    """Of the sequences."""
    distinct_tokens: int = 0
    """That went through the model: a prefix that sequences share is one."""
    flops: int = 0
    """Floating point operations of matrix products and attention."""
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Work") -> "Work":
        return Work(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


def score_rows(engine: "Engine", rows: Sequence[TokenRow]) -> list[TokenColumns | None]:
    """An engine's columns of trajectories: those of a row's sequences follow each other; None where one has none."""
    found = iter(engine.score([sequence for row in rows for sequence in row.sequences()]))
    return [_together([next(found) for _ in row.lengths]) for row in rows]


def _together(parts: Sequence[TokenColumns | None]) -> TokenColumns | None:
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    joined: list[Any] = [
        None if columns[0] is None else np.concatenate(columns) for columns in zip(*there, strict=True)
    ]
    return TokenColumns(*joined)


class Engine(Protocol):
    """Scores sequences with one model. Engines know neither Ray nor trajectories."""

    work: Work
    """So far."""

    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """Columns of each sequence's scored tokens, in the order given; None where memory does not hold a sequence."""
        ...

    def facts(self) -> dict[str, Any]:
        """Of the device and how it is used, for the manifest.

        `device`; `dtype`; `matrix_flops_per_second`, null where operations are not counted; `prefixes_apart`, why
        prefixes are not shared, null where they are; `attention_in_pieces`, why a layer attends in a call for each
        segment, null where it does in one; `linear_attention_fell_back`, why linear-attention layers do not run in the
        best way of their kind; `missing_kernels`, packages for want of which layers are slow;
        perhaps `packed_by`, how weights are quantised, null where they are not; `masked_vocabulary`, whether the head
        masks tokens; `overflowed`, how many sequences left the range of float16; and `tensor_parallel_size`, how many
        processes hold the model together.
        """
        ...
