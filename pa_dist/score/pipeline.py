"""The scoring pipeline: one streaming Ray Data job from `trajectories` to `logprobs`.

    read -> tokenise (tasks) -> policy (actors) -> reference (actors) -> write

For a merged reference the policy's columns are read from the run's own `logprobs` instead.

Both actor pools are busy at once, on different blocks. A block's rows are done when its file and then their ids are
written; a killed run goes on from the ids.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
from huggingface_hub import try_to_load_from_cache
from ray.data.checkpoint import CheckpointConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pa_dist import cluster, schema
from pa_dist.config import Config, Pair, Score
from pa_dist.errors import ConfigError, PaDistError, first_line
from pa_dist.progress import Progress
from pa_dist.run import RunFolder
from pa_dist.score import rows, vllm
from pa_dist.score.actors import Recall, Scorer, Tokenize, chat_templates, text_config, tokenizer, vocabulary
from pa_dist.score.engine import NULL_COLUMNS
from pa_dist.score.settle import LOGPROBS, Settled, Target, mend, n_left, settle
from pa_dist.score.tally import Tally, facts
from pa_dist.score.tokenize import fingerprint

# A pass after the first takes rows whose ids are committed and whose file is gone: none in a sound file system.
_PASSES = 3
_READ = [field.name for field in (*schema.KEYS, *schema.LABELS)] + ["messages"]


def score(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Score every row of `trajectories` that is not done yet: write `logprobs`, and `rejects` of this stage.

    Args:
      folder: a run's, or that of an alpha, where the reference is the merged one.

    Returns:
      Facts for the manifest: rows, rejects, how many an earlier session had done, columns that the engine leaves null
      and why, and of each model what `facts` gives.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    own = config.render.style == "chat" and config.render.template_from == "own"
    policy, reference = (fingerprint(tokenizer(config.pair, model), template=own) for model in schema.MODELS)
    shared = policy == reference
    models = schema.MODELS if folder.alpha is None else ("reference",)
    tally = start_tally(models)
    settled, before = complete(
        folder,
        LOGPROBS,
        tally,
        [*_READ, *(("tools", "extra") if config.render.style == "chat" else ())],
        config.score.rows_per_block,
        partial(_scored, config, folder, shared, models, tally),
    )
    return {
        "rows": settled.rows,
        "rejects": settled.rejects,
        "done_before": before,
        "shared_tokens": shared,
        "null_columns": NULL_COLUMNS[config.score.engine],
        "models": {model: facts(entry) for model, entry in ray.get(tally.snapshot.remote()).items()},
    }


def start_tally(models: Sequence[str]) -> Any:
    """A `Tally` actor. Its ledger is as safe as the driver: on the driver's node, and begun again should it die."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
    return remote(Tally).remote(models)


def complete(
    folder: RunFolder,
    target: Target,
    tally: Any,
    columns: Sequence[str],
    rows_per_block: int,
    transform: Callable[[Any], Any],
) -> tuple[Settled, int]:
    """Fill a table from `trajectories` until each of them is in it or in `rejects`.

    Args:
      tally: of the actors in `transform`.
      columns: of `trajectories`, to read.
      transform: gives a Ray dataset of the table's rows for one of blocks of trajectories.

    Returns:
      What `settle` found, and how many trajectories an earlier session had done.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    (left,) = cluster.map_tasks(partial(n_left, target=target), [folder])
    total = folder.count("trajectories")
    before = total - left
    for _ in range(_PASSES):
        if left:
            mend(folder, target)
            with _Watch(target.stage, tally, folder, total - left, total):
                _stream(folder, target, tally, columns, rows_per_block, transform)
        (settled,) = cluster.map_tasks(partial(settle, target=target), [folder])
        if not (left := settled.lost):
            return settled, before
    raise PaDistError(f"{target.stage}: {left} trajectories are neither scored nor rejected, after {_PASSES} passes")


def _stream(
    folder: RunFolder,
    target: Target,
    tally: Any,
    columns: Sequence[str],
    rows_per_block: int,
    transform: Callable[[Any], Any],
) -> None:
    _quieten()
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="trajectory_id",
        checkpoint_path=folder.path(target.checkpoint),
        override_filesystem=folder.filesystem,
        delete_checkpoint_on_success=False,  # a run that dies before it is marked done would else be scored twice over
    )
    dataset: Any = ray.data.read_parquet(
        folder.parts("trajectories"), filesystem=folder.filesystem, columns=list(columns)
    )
    dataset = transform(dataset.repartition(target_num_rows_per_block=rows_per_block))
    try:
        dataset.write_parquet(
            folder.path(target.table), filesystem=folder.filesystem, mode=ray.data.SaveMode.APPEND, **target.encoding
        )
    except (ray.exceptions.RayError, OSError) as error:
        why = ray.get(tally.fault.remote()) or cluster.cause(error)
        raise PaDistError(
            f"{target.stage}: {why}; what is scored is kept, and the same command goes on from there"
        ) from error
    finally:
        context.checkpoint_config = None


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


def pinned(pair: Pair, before: Mapping[str, str | None]) -> Pair:
    """A pair with the commits its models on the Hub are at now, or were at when the run began."""
    revisions = {model: getattr(pair, f"{model}_revision") for model in schema.MODELS}
    commits = {m: before.get(m) or hub_commit(getattr(pair, m), revisions[m]) for m in schema.MODELS}
    return pair.model_copy(update={f"{model}_revision": commit for model, commit in commits.items()})


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit of a model on the Hub, by where its config lies in the cache since it was checked."""
    cached = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def check(pair: Pair, settings: Score) -> None:
    """Find out whether both models are there, and the device or engine is one, before anything starts.

    Raises:
      ConfigError: naming the key and the reason.
    """
    import torch  # slow to import; a driver that goes on has no need of it

    try:
        torch.device("cpu" if settings.device in (None, "auto") else settings.device)
    except RuntimeError as error:
        raise ConfigError(f"score.device: {first_line(error)}") from None
    for model in schema.MODELS:
        name = getattr(pair, model)
        try:
            vocabulary(pair, model)
            tokenizer(pair, model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"pair.{model}: no model and tokenizer at {name!r}: {first_line(error)}") from None
        if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
            raise ConfigError(f"pair.{model}: no weights (*.safetensors) in {name!r}")
    if settings.engine == "vllm":
        _check_vllm(pair, settings)


def _check_vllm(pair: Pair, settings: Score) -> None:
    if vllm.installed() is None:
        raise ConfigError("score.engine: vllm is not installed; `pip install 'pa-dist[vllm]'` installs it")
    for model in schema.MODELS:
        most = vllm.longest(text_config(pair, model))
        if most is not None and settings.max_length > most:
            raise ConfigError(
                f"score.max_length: vLLM takes at most {most} tokens of pair.{model}, got {settings.max_length}"
            )


def check_templates(config: Config) -> None:
    """Find out whether the chat templates are there and render a plain question and answer.

    Raises:
      ConfigError: naming the key and the reason.
    """
    if config.render.style != "chat":
        return
    for model in schema.MODELS if config.render.template_from == "own" else schema.MODELS[:1]:
        own, name = tokenizer(config.pair, model), getattr(config.pair, model)
        if own.chat_template is None:
            other = "; render.template_from=policy lends it the policy's" if model == "reference" else ""
            raise ConfigError(f"pair.{model}: no chat template (chat_template.jinja) at {name!r}{other}")
        try:
            chat_templates(config.render, [own])
        except Exception as error:  # a template raises what it likes
            raise ConfigError(f"pair.{model}: its chat template cannot be used: {first_line(error)}") from None


def _quieten() -> None:
    """Progress is ours: Ray Data's own would be log blocks off a terminal."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised, and told by us
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


class _Watch:
    """Shows the tally's progress while the driver waits for the pipeline."""

    def __init__(self, label: str, tally: Any, folder: RunFolder, before: int, total: int) -> None:
        self._label = label
        self._tally, self._folder, self._before, self._total = tally, folder, before, total
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Progress(self._label, self._total, self._before, self._folder.log) as progress:
            while not self._stop.wait(1.0):
                try:
                    models = ray.get(self._tally.snapshot.remote())
                except ray.exceptions.RayError:  # it is being started again
                    continue
                rates = [
                    f"{model} {entry.work.tokens / entry.work.seconds:,.0f} tokens/s"
                    for model, entry in models.items()
                    if entry.work.seconds
                ]
                # A row is done when all models did it; of two, each one's pass is half of the way there.
                done = sum(entry.rows for entry in models.values()) // len(models)
                progress.update(min(self._before + done, self._total), ", ".join(rates))
