"""The scoring pipeline: one streaming Ray Data job from `trajectories` to `logprobs`.

    read -> tokenise (tasks) -> policy (actors) -> reference (actors) -> write

For a merged reference the policy's columns are read from the run's own `logprobs` instead. Both actor pools are busy at
once, on different blocks.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ray
import ray.data

from pa_dist import cluster, schema
from pa_dist.config import Config
from pa_dist.run import RunFolder
from pa_dist.score import rows
from pa_dist.score.actors import Recall, Scorer, Tokenize
from pa_dist.score.check import shares_tokens
from pa_dist.score.engine import MASKED_VOCABULARY, NULL_COLUMNS
from pa_dist.score.settle import LOGPROBS
from pa_dist.score.stream import Stream, complete, tallied
from pa_dist.score.tally import ModelTally, facts

_READ = [field.name for field in (*schema.KEYS, *schema.LABELS)] + ["messages"]


def score(config: Config, folder: RunFolder, *, commit: bool = True) -> dict[str, Any]:
    """Score every row of `trajectories` that is not done yet: write `logprobs`, and `rejects` of this stage.

    Args:
      folder: a run's, or that of an alpha, where the reference is the merged one.
      commit: as `Stream` has it.

    Returns:
      Facts for the manifest: rows, rejects, how many an earlier session had done, columns that the engine leaves null
      and why, and of each model what `facts` gives.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    shared = shares_tokens(config)
    models = schema.MODELS if folder.alpha is None else ("reference",)
    columns = [*_READ, *(("tools", "extra") if config.render.style == "chat" else ())]
    with tallied(models) as tally:
        transform = partial(_scored, config, folder, shared, models, tally)
        stream = Stream(LOGPROBS, tally, columns, config.score.rows_per_block, transform, commit)
        settled, before = complete(folder, stream)
        did = ray.get(tally.snapshot.remote())
    return {
        "rows": settled.rows,
        "rejects": settled.rejects,
        "done_before": before,
        "shared_tokens": shared,
        "null_columns": _null_columns(config, folder, did),
        "models": {model: facts(entry) for model, entry in did.items()},
    }


def _null_columns(config: Config, folder: RunFolder, did: Mapping[str, ModelTally]) -> dict[str, str]:
    """The policy's columns that are null, and why. An alpha's are the run's own."""
    if folder.alpha is not None:
        found: dict[str, str] = RunFolder(folder.uri).manifest["stages"]["score"]["null_columns"]
        return found
    masked = any(place.get("masked_vocabulary") for place in did["policy"].actors.values())
    return NULL_COLUMNS[config.score.engine] | ({"self_certainty": MASKED_VOCABULARY} if masked else {})


def _scored(config: Config, folder: RunFolder, shared: bool, models: Sequence[str], tally: Any, dataset: Any) -> Any:
    dataset = dataset.map_batches(
        Tokenize(config, folder, shared, tally), batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    if folder.alpha is not None:
        dataset = dataset.map_batches(Recall(folder), batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    for model, pool in cluster.share_out(config.score, models).items():
        dataset = dataset.map_batches(
            Scorer,
            fn_constructor_kwargs={
                "model": model,
                "tokens": "policy" if shared else model,
                "pair": config.pair,
                "settings": config.score,
                "folder": folder,
                "tally": tally,
                "merge": config.merge,
            },
            compute=ray.data.ActorPoolStrategy(size=pool.replicas),
            num_gpus=pool.num_gpus,
            num_cpus=pool.num_cpus,
            batch_format="pyarrow",
            batch_size=config.score.rows_per_block,
            # Named only where there are some: Ray runs two stages in one process if what they ask for is alike.
            **({"label_selector": pool.labels} if pool.labels else {}),
        )
    return dataset.map_batches(rows.logprobs_table, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
