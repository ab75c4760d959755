"""Real token sequences to time scoring with."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from pa_dist.engine.protocol import TokenSequence
from pa_dist.ingest import read as formats
from pa_dist.ingest import sources
from pa_dist.render.plain import render
from pa_dist.score.tokenize import tokenize
from pa_dist.trajectory import Trajectory

# A branching task: continuations that share so many tokens that three quarters of all are said twice.
BRANCHES = 8
SHARED = 6 / 7


def corpora(data: Path, tokenizer: Any, tokens: int, max_length: int) -> dict[str, list[TokenSequence]]:
    """Three corpora of about `tokens` tokens each, by what they are.

    Args:
      data: a folder with `tau2` and `tau_bench` as the benchmarks' authors publish them.
      max_length: longer trajectories are left out: cut, they would not begin as the others do.
    """
    apart = _sequences(_read("tau2", data / "tau2" / "toolorchestra" / "airline.json"), tokenizer, max_length)
    tau_bench = list(_sequences(_read("tau_bench", data / "tau_bench" / "*.json"), tokenizer, max_length))
    return {
        "nothing shared (tau2 airline)": _some(apart, tokens),
        "system message (tau-bench)": _some(iter(tau_bench), tokens),
        "branching (8 continuations)": _branching(tau_bench, tokens),
    }


def _read(name: Any, pattern: Path) -> Iterator[Trajectory]:
    for source in sources.expand([str(pattern)]):
        for record in formats.read(name, source):
            if isinstance(record, Trajectory):
                yield record


def _sequences(trajectories: Iterator[Trajectory], tokenizer: Any, max_length: int) -> Iterator[TokenSequence]:
    for trajectory in trajectories:
        rendered = render(cast(Any, trajectory.messages), "assistant")
        if rendered.actions:
            sequence = tokenize(rendered, tokenizer, sys.maxsize).sequence
            if len(sequence.ids) <= max_length:
                yield sequence


def _some(sequences: Iterator[TokenSequence], tokens: int) -> list[TokenSequence]:
    """The first ones, until they hold so many tokens."""
    taken, total = [], 0
    for sequence in sequences:
        taken.append(sequence)
        total += len(sequence.ids)
        if total >= tokens:
            break
    return taken


def _branching(sequences: list[TokenSequence], tokens: int) -> list[TokenSequence]:
    """Tasks of 8: the end of a trajectory, gone on with by the ends of eight."""
    length = min(1400, tokens // BRANCHES)
    n_tasks = max(1, round(tokens / (length * BRANCHES)))
    shared = int(length * SHARED)
    fitting = [s for s in sequences if len(s.ids) >= shared]
    found = []
    for first in range(0, n_tasks * BRANCHES, BRANCHES):
        group = fitting[first : first + BRANCHES]
        found += [_joined(_end(group[0], shared), _end(other, length - shared)) for other in group]
    return found


def _end(sequence: TokenSequence, length: int) -> TokenSequence:
    cut = len(sequence.ids) - length
    return TokenSequence(sequence.ids[cut:], sequence.positions[sequence.positions > cut] - cut)


def _joined(a: TokenSequence, b: TokenSequence) -> TokenSequence:
    positions = np.concatenate([a.positions, b.positions + len(a.ids)]).astype(np.int32)
    return TokenSequence(np.concatenate([a.ids, b.ids]), positions)
