"""Scoring against the plain loop and against the machine's limit."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from pa_dist.score.engine import TokenSequence
from pa_dist.score.hf import HFEngine
from pa_dist.score.rate import matrix_rate

Scorer = Callable[[Sequence[TokenSequence]], list[Any]]
PLAIN = "plain loop"
OURS = "ours"


def scorers(model: PreTrainedModel) -> dict[str, Scorer]:
    """Ways to score a list of sequences, the published one first."""
    engine, twin = HFEngine(model), HFEngine(model)
    return {
        PLAIN: lambda sequences: [plain(model, s) for s in sequences],
        "plain, action logits": lambda sequences: [action_only(model, s) for s in sequences],
        OURS: lambda sequences: [c.logprob for c in engine.score(sequences) if c is not None],
        "ours, one at a time": lambda sequences: [
            c.logprob for s in sequences for c in twin.score([s]) if c is not None
        ],
    }


@torch.inference_mode()
def plain(model: PreTrainedModel, sequence: TokenSequence) -> np.ndarray:
    """Log-probs of the scored tokens as the published code has them: from the float32 table of the whole sequence."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64)).to(model.device)
    table = torch.log_softmax(model(ids[None]).logits[0].float(), dim=-1)
    return table[torch.from_numpy(sequence.positions - 1), ids[sequence.positions]].cpu().numpy()


@torch.inference_mode()
def action_only(model: PreTrainedModel, sequence: TokenSequence) -> np.ndarray:
    """The same, with logits where an action's tokens are."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64)).to(model.device)
    at = torch.from_numpy(sequence.positions.astype(np.int64)).to(model.device)
    table = torch.log_softmax(model(ids[None], logits_to_keep=at - 1).logits[0].float(), dim=-1)
    return table.gather(1, ids[at].unsqueeze(1)).squeeze(1).cpu().numpy()


def compare(
    model: PreTrainedModel, sequences: list[TokenSequence], repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every scorer, interleaved, and facts.

    Returns:
      Seconds of each repeat by scorer, and `tokens`, `distinct`, `floor` (seconds of the matrix products and attention
      of distinct tokens at the matrix rate measured beside them) and `difference` (largest, of log-probs against the plain loop).
    """
    ways = scorers(model)
    times: dict[str, list[float]] = {name: [] for name in ways}
    rates, results = [], {}
    for _ in range(repeats):
        for name, way in ways.items():
            rates.append(matrix_rate(model.device, model.dtype))
            began = time.perf_counter()
            results[name] = way(sequences)
            times[name].append(time.perf_counter() - began)
    engine = HFEngine(model)
    engine.score(sequences)
    pairs = zip(itertools.chain(*results[PLAIN]), itertools.chain(*results[OURS]), strict=True)
    return times, {
        "tokens": engine.work.tokens,
        "distinct": engine.work.distinct_tokens,
        "floor": engine.work.flops / float(np.median(rates)),
        "difference": max(abs(float(a) - float(b)) for a, b in pairs),
    }
