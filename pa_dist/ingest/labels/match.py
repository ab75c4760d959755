"""Which trajectory each row of labels means: by its id, or by as many of the other keys as the row gives."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist.ingest.identity import coded
from pa_dist.ragged import Bools, Ints, column, is_valid

NONE, SEVERAL = -1, -2
_OTHERS = ("benchmark", "domain", "behavior", "trial")


def match(given: pa.Table, keys: pa.Table) -> Ints:
    """[given] the row of `keys`, `NONE` or `SEVERAL`.

    Args:
      given: rows with `schema.KEYS`, of which each has a trajectory_id or a task_id; a null is not compared.
      keys: the same of a run's trajectories, each id once.
    """
    by_id = pc.index_in(column(given, "trajectory_id"), value_set=column(keys, "trajectory_id"))
    found: Ints = by_id.fill_null(NONE).to_numpy(zero_copy_only=False).astype(np.int64)
    known = np.stack([is_valid(column(given, name)) for name in _OTHERS])
    unnamed = ~is_valid(column(given, "trajectory_id"))
    pattern = np.packbits(known, axis=0, bitorder="little")[0]
    for bits in np.unique(pattern[unnamed]):
        rows = np.flatnonzero(unnamed & (pattern == bits))
        names = ["task_id", *(name for place, name in enumerate(_OTHERS) if bits >> place & 1)]
        found[rows] = _of_same_keys(given.select(names).take(pa.array(rows)), keys.select(names))
    return found


def _of_same_keys(given: pa.Table, keys: pa.Table) -> Ints:
    """The same by whole rows of some columns."""
    same = np.zeros(len(given) + len(keys), np.int64)
    for name in given.column_names:
        code = coded(pa.chunked_array([*given[name].chunks, *keys[name].chunks], keys.schema.field(name).type))
        same = np.unique(same * (code.max() + 1) + code, return_inverse=True)[1]
    mine, theirs = same[: len(given)], same[len(given) :]
    n = np.bincount(theirs, minlength=same.max() + 1)[mine]
    place = np.full(same.max() + 1, NONE)
    place[theirs] = np.arange(len(theirs))
    several: Bools = n > 1
    return np.where(several, SEVERAL, place[mine])
