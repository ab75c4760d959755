"""The policy's columns, found again in the run's own `logprobs`: a sweep of alphas scores the policy once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.run import RunFolder
from pa_dist.score.attempts import Outcome
from pa_dist.score.engine import TokenColumns
from pa_dist.whereabouts import Index

_COLUMNS = [f"policy_{name}" for name in schema.TOKEN_COLUMNS]


def recall(run: RunFolder, where: Index, ids: Sequence[str]) -> list[Outcome]:
    """The policy's columns of some trajectories, in the order given; for one that the run rejected, that it did."""
    wanted, found = set(ids), dict[str, TokenColumns]()
    for path in where.holding(ids):
        table = run.read_table(path, ["trajectory_id", *_COLUMNS])
        for row, trajectory_id in enumerate(table["trajectory_id"].to_pylist()):
            if trajectory_id in wanted:
                found[trajectory_id] = TokenColumns(*(_flat(table[name][row]) for name in _COLUMNS))
    return [found.get(trajectory_id, "the run itself did not score it") for trajectory_id in ids]


def _flat(steps: Any) -> NDArray[np.float32]:
    """A row's values, of all its steps."""
    values: NDArray[np.float32] = steps.values.flatten().to_numpy(zero_copy_only=False)
    return values
