"""The policy's columns, found again in the run's own `logprobs`: a sweep of alphas scores the policy once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.engine.protocol import TokenColumns
from pa_dist.runtime.attempts import Outcome
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import Index

_COLUMNS = [f"policy_{name}" for name in schema.TOKEN_COLUMNS]


def recall(run: RunFolder, where: Index, ids: Sequence[str]) -> list[Outcome]:
    """The policy's columns of some trajectories, in the order given; for one that the run rejected, that it did."""
    wanted, found = set(ids), dict[str, TokenColumns]()
    for path in where.holding(ids):
        table = run.read_table(path, ["trajectory_id", "token_ids", *_COLUMNS])
        for row, trajectory_id in enumerate(table["trajectory_id"].to_pylist()):
            if trajectory_id in wanted:
                ids_of_steps = table["token_ids"][row].values
                logprob, topk, *others = (table[name][row].values for name in _COLUMNS)
                entropy, certainty = (
                    None if of.null_count == len(of) > 0 else _flat(of, ids_of_steps) for of in others
                )
                found[trajectory_id] = TokenColumns(
                    _flat(logprob, ids_of_steps), _flat(topk, ids_of_steps), entropy, certainty
                )
    return [found.get(trajectory_id, "the run itself did not score it") for trajectory_id in ids]


def _flat(steps: Any, ids: Any) -> NDArray[np.float32]:
    """A row's values, of all its steps; of one that has none, -inf for each token id, as it was when it was scored."""
    if not steps.null_count:
        values: NDArray[np.float32] = steps.flatten().to_numpy(zero_copy_only=False)
        return values
    counts = ids.value_lengths().to_numpy(zero_copy_only=False)
    known = np.repeat(steps.is_valid().to_numpy(zero_copy_only=False), counts)
    filled = np.full(len(known), -np.inf, np.float32)
    filled[known] = steps.flatten().to_numpy(zero_copy_only=False)
    return filled
