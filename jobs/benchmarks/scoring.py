"""Scoring against the plain loop and against the machine's limit."""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.memory import peak_above
from benchmarks.reducing import spread
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import TokenSequence, Work
from pa_dist.engine.rate import matrix_rate

LogProbs = NDArray[np.float32]
PLAIN = "plain loop"
OURS = "ours"
Scorer = Callable[[Sequence[TokenSequence]], list[LogProbs]]


class Comparison(NamedTuple):
    """What one corpus showed."""

    seconds: dict[str, list[float]]
    """Of each way to score, of each repeat."""
    work: Work
    """Of one run of ours."""
    rates: dict[str, list[float]]
    """Floating point operations per second of matrix products, measured before each of these."""
    difference: float
    """Largest, of ours against the plain loop's log-probs."""


@torch.inference_mode()
def plain(model: PreTrainedModel, sequence: TokenSequence) -> LogProbs:
    """Log-probs of the scored tokens as published: from the whole sequence's float32 table."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64)).to(model.device)
    table = torch.log_softmax(_logits(model, ids).float(), dim=-1)
    at = torch.from_numpy(sequence.positions.astype(np.int64)).to(model.device)
    return _numpy(table[at - 1, ids[at]])


@torch.inference_mode()
def action_only(model: PreTrainedModel, sequence: TokenSequence) -> LogProbs:
    """The same with a table of the scored tokens alone."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64)).to(model.device)
    at = torch.from_numpy(sequence.positions.astype(np.int64)).to(model.device)
    table = torch.log_softmax(_logits(model, ids, logits_to_keep=at - 1).float(), dim=-1)
    return _numpy(table.gather(1, ids[at].unsqueeze(1)).squeeze(1))


def _logits(model: Any, ids: torch.Tensor, **others: Any) -> torch.Tensor:
    logits: torch.Tensor = model(ids.unsqueeze(0), use_cache=False, **others).logits
    return logits[0]


def _numpy(values: torch.Tensor) -> LogProbs:
    array: LogProbs = values.cpu().numpy()
    return array


def ways(model: PreTrainedModel, engine: HFEngine) -> dict[str, Scorer]:
    """Ways to score, the published one first. Ours gives all four columns; the loops give log-probs alone."""

    def ours(engine: HFEngine, sequences: Sequence[TokenSequence]) -> list[LogProbs]:
        return [columns.logprob for columns in engine.score(sequences) if columns is not None]

    alone = HFEngine(model)
    return {
        PLAIN: lambda sequences: [plain(model, s) for s in sequences],
        "plain loop, action logits": lambda sequences: [action_only(model, s) for s in sequences],
        OURS: lambda sequences: ours(engine, sequences),
        "ours, one at a time": lambda sequences: [x for s in sequences for x in ours(alone, [s])],
    }


def compare(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], repeats: int, others: Mapping[str, Scorer] | None = None
) -> Comparison:
    """Time all ways in turn, again and again.

    Args:
      others: more ways, by name.
    """
    seconds, rates = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    results = {}
    for _ in range(repeats):
        # Fresh engines: one that scored the corpus before has kept the end of it.
        engine = HFEngine(model)
        for name, scorer in {**ways(model, engine), **(others or {})}.items():
            rates[name].append(matrix_rate(model.device, model.dtype))
            began = time.perf_counter()
            results[name] = scorer(sequences)
            seconds[name].append(time.perf_counter() - began)
    pairs = zip(itertools.chain(*results[PLAIN]), itertools.chain(*results[OURS]), strict=True)
    return Comparison(seconds, engine.work, rates, max(abs(float(a) - float(b)) for a, b in pairs))


def peak_memory(name: str, dtype: str, device: str, length: int) -> dict[str, int]:
    """Bytes beyond the weights that a sequence of `length` tokens needs, half of them scored."""
    return {
        PLAIN: peak_above(_prepare, _run_plain, name, dtype, device, length),
        OURS: peak_above(_prepare, _run_ours, name, dtype, device, length),
    }


def _prepare(name: str, dtype: str, device: str, length: int) -> tuple[PreTrainedModel, HFEngine, TokenSequence]:
    model = load_model(name, dtype=dtype, device=device)
    engine = HFEngine(model)
    ids = np.random.default_rng(0).integers(0, model.config.get_text_config().vocab_size, length)
    sequence = TokenSequence(ids.astype(np.int32), np.arange(length // 2, length, dtype=np.int32))
    engine.score([TokenSequence(sequence.ids[:64], np.arange(1, 64, dtype=np.int32))])
    return model, engine, sequence


def _run_plain(prepared: tuple[PreTrainedModel, HFEngine, TokenSequence]) -> None:
    plain(prepared[0], prepared[2])


def _run_ours(prepared: tuple[PreTrainedModel, HFEngine, TokenSequence]) -> None:
    prepared[1].score([prepared[2]])


def describe(device: str) -> None:
    """Print the machine and the versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"
    print(f"{name}; torch {torch.__version__}, transformers {transformers.__version__}")


def report(found: Comparison) -> None:
    """Print a corpus's table: ratios are of the same repeat, medians with the least and the most."""
    work = found.work
    ideal = work.tokens / work.distinct_tokens
    print(f"  {work.tokens:,} tokens, {work.distinct_tokens:,} distinct, at best {ideal:.2f}x")
    for name, seconds in found.seconds.items():
        ratios = [a / b for a, b in zip(found.seconds[PLAIN], seconds, strict=True)]
        rate = work.tokens / float(np.median(seconds))
        print(f"  {name:26} {rate:8,.0f} tokens/s   {spread(ratios)}x the plain loop")
    floors = [work.flops / rate / s for rate, s in zip(found.rates[OURS], found.seconds[OURS], strict=True)]
    print(f"  floor / ours {spread(floors)} at {np.median(found.rates[OURS]) / 1e9:,.0f} GFLOP/s; ", end="")
    print(f"log-probs at most {found.difference:.1e} apart", flush=True)


def report_memory(peaks: dict[str, int], dtype: str, length: int) -> None:
    """Print peak memory above the weights."""
    shown = ", ".join(f"{name} {peak / 2**20:,.0f} MiB" for name, peak in peaks.items())
    print(f"{dtype}, peak above the weights for {length:,} tokens: {shown}; {peaks[OURS] / peaks[PLAIN]:.2f}")
