"""How large the rounding of half precision is beside the advantage: some trajectories are scored again in float32.

The advantage is a small difference of large numbers. What the dtype makes of it depends on the pair and the text, so it
is measured in every run that is not in float32, on the run's own trajectories. Of quantised models it is what their
kernels add, which round in a way of their own, to the same weights dequantised; what quantising cost the weights is no
part of it: they are the model that is scored.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.config import ScoreSections
from pa_dist.engine.protocol import score_rows
from pa_dist.runtime import pools
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.runtime.tasks import cause, on_a_device
from pa_dist.score import rows
from pa_dist.score.check import shares_tokens
from pa_dist.score.noise_said import EMPTY, EXACT, NOT_ASKED
from pa_dist.score.scorer import Tokenize, load_engine, load_engines
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import locate
from pa_dist.store.index import rows as rows_of

_LOGPROBS = [f"{model}_logprob" for model in schema.MODELS]
_READ = ["trajectory_id", "token_ids_reference", *_LOGPROBS]


def measure(sections: ScoreSections, folder: RunFolder, dtypes: Sequence[str], of: Target = LOGPROBS) -> dict[str, Any]:
    """Score some of a run's trajectories once more, and compare.

    Args:
      folder: whose `logprobs` are written.
      dtypes: that the actors computed in, as far as they are known, as `computed_in` has it.
      of: `logprobs`, or a further reference's table.

    Returns:
      As `compare`, with `dtypes`; or `reason`, why nothing was measured.
    """
    wanted = sections.score.noise_rows
    if not wanted:
        return {"reason": NOT_ASKED}
    if set(dtypes or [sections.score.dtype]) == {"float32"}:
        return {"reason": EXACT}
    stored = _some(folder, wanted, of)
    if not len(stored):
        return {"reason": EMPTY}
    ids = stored["trajectory_id"].to_pylist()
    given = rows_of(folder, locate(folder, "trajectories").holding(ids), ids, schema.TRAJECTORIES.names)
    try:
        held = pools.share_out(sections.score, sections.pair.pools)
        pool = max(held.values(), key=lambda actors: actors.num_gpus)
        exact = on_a_device(partial(_again, sections, folder), pool, given)
    except Exception as error:  # whatever a device has no room for, or a library no code: the run is done without
        return {"reason": cause(error)}
    return {**compare(stored, exact), "dtypes": sorted(set(dtypes))}


def _some(folder: RunFolder, n: int, of: Target = LOGPROBS) -> pa.Table:
    """Rows of up to n trajectories, spread over the files of a table, with the policy's log-probs."""
    paths, names = folder.parts(of.table), [name for name in _READ if name in of.schema.names]
    each = -(-n // max(len(paths), 1))
    found = [pa.schema([of.schema.field(name) for name in names]).empty_table()]
    for i in np.unique(np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int)):
        with folder.filesystem.open_input_file(paths[i]) as file:
            table = pq.ParquetFile(file).read(columns=names)
        places = np.linspace(0, len(table) - 1, min(each, len(table))).astype(int)
        found.append(table.take(pa.array(places)))
    stored = pa.concat_tables(found).slice(0, n)
    if "policy_logprob" in names:
        return stored
    ids = stored["trajectory_id"].to_pylist()
    policy = rows_of(folder, locate(folder, "logprobs").holding(ids), ids, ["trajectory_id", "policy_logprob"])
    at = pc.index_in(policy["trajectory_id"], value_set=stored["trajectory_id"])
    return stored.take(at).append_column("policy_logprob", policy["policy_logprob"])


def _again(sections: ScoreSections, folder: RunFolder, trajectories: pa.Table) -> pa.Table:
    """Ray task: their rows of `logprobs`, by plain passes in float32 over plain weights, one model after the other."""
    score = sections.score
    # vLLM's own is as many GPUs of an actor.
    spread = {
        model: getattr(score, model).model_copy(update={"tensor_parallel_size": score.width(model)})
        for model in schema.MODELS
    }
    plain = score.model_copy(update={"engine": "hf", "dtype": "float32", "prefix_sharing": "off", **spread})
    sections = sections._replace(score=plain)
    shared = shares_tokens(sections)
    [(tokens, _)] = Tokenize(sections, folder, shared, tally=None).tokenize([trajectories])
    together = load_engines(sections.pair, plain, plain=True) if sections.pair.one_base else None
    for model in schema.MODELS:
        of = "policy" if shared else model
        load = partial(load_engine, model, sections.pair, plain, sections.merge, plain=True)
        engine = together[model] if together else load()
        found = score_rows(engine, rows.token_rows(tokens, of))
        columns = [columns for columns in found if columns is not None]
        tokens = tokens.filter(pa.array([columns is not None for columns in found], pa.bool_()))
        tokens = rows.with_columns(tokens, model, of, columns)
        del engine
    return rows.logprobs_table(tokens)


def compare(stored: pa.Table, exact: pa.Table) -> dict[str, Any]:
    """The advantage as it was stored against what it is, over the same tokens; or steps, where each model has tokens
    of its own.

    Returns:
      `rows`, `of` (token, step), `n` of these, `error` and `spread`: standard deviations, in nats, of the difference
      and of the advantage itself, their `share`, and the `correlation`; null where nothing varies.
    """
    known = dict(zip(exact["trajectory_id"].to_pylist(), exact.select(_LOGPROBS).to_pylist(), strict=True))
    pairs: list[tuple[float, float]] = []
    per_step, n_rows = False, 0
    for row in stored.to_pylist():
        if (other := known.get(row["trajectory_id"])) is None:
            continue
        n_rows += 1
        apart = row["token_ids_reference"] is not None
        per_step |= apart
        for steps in zip(*(side[name] for side in (row, other) for name in _LOGPROBS), strict=True):
            if any(step is None for step in steps):  # it holds a token without any probability
                continue
            numbers = [np.asarray(step, np.float64) for step in steps]
            policy, reference, *true = [np.array([x.sum()]) if apart else x for x in numbers]
            pairs += zip(policy - reference, true[0] - true[1], strict=True)
    half, full = np.array(pairs, np.float64).reshape(-1, 2).T
    error, spread = (float(np.std(x)) if len(x) else 0.0 for x in (half - full, full))
    varies = spread > 0 and np.std(half) > 0
    return {
        "rows": n_rows,
        "of": "step" if per_step else "token",
        "n": len(half),
        "error": error,
        "spread": spread,
        "share": error / spread if spread else None,
        "correlation": float(np.corrcoef(half, full)[0, 1]) if varies else None,
    }
