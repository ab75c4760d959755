"""The scoring pipeline: one streaming Ray Data job from `trajectories` to `logprobs`.

    read -> tokenise (tasks) -> policy (actors) -> reference (actors) -> write

Both actor pools are busy at once, on different blocks. Numbers are computed by `score/` modules that know no Ray; the
classes here only carry them.
"""

import hashlib
import logging
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from pa_dist import cluster, schema
from pa_dist.config import Config, Pair, Score
from pa_dist.errors import ConfigError, first_line
from pa_dist.progress import Progress
from pa_dist.run import RunFolder
from pa_dist.score import rows
from pa_dist.score.tally import Tally, facts
from pa_dist.score.tokenize import fingerprint, load_tokenizer

_READ = [field.name for field in (*schema.KEYS, *schema.LABELS)] + ["messages"]


def score(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Score every row of `trajectories` and write `logprobs`, and `rejects` of this stage.

    Returns:
      Facts for the manifest: rows, rejects, and of each model what `facts` gives.
    """
    pools = cluster.share_out(config.score)
    shared = fingerprint(_tokenizer(config.pair, "policy")) == fingerprint(_tokenizer(config.pair, "reference"))
    for table_name, prefix in (("logprobs", ""), ("rejects", "score-")):
        folder.clear(table_name, prefix)

    _quieten()
    tally: Any = ray.remote(num_cpus=0)(Tally).remote()
    dataset = ray.data.read_parquet(folder.parts("trajectories"), filesystem=folder.filesystem, columns=_READ)
    dataset = dataset.repartition(target_num_rows_per_block=config.score.rows_per_block)
    dataset = dataset.map_batches(
        _Tokenize(config, folder, shared), batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    for model, pool in pools.items():
        dataset = dataset.map_batches(
            Scorer,
            fn_constructor_kwargs={
                "model": model,
                "tokens": "policy" if shared else model,
                "pair": config.pair,
                "settings": config.score,
                "folder": folder,
                "tally": tally,
            },
            compute=ray.data.ActorPoolStrategy(size=pool.replicas),
            num_gpus=pool.num_gpus,
            num_cpus=pool.num_cpus,
            batch_format="pyarrow",
            batch_size=config.score.rows_per_block,
        )
    dataset = dataset.map_batches(rows.logprobs_table, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
    with _Watch(tally, folder.count("trajectories")):
        dataset.write_parquet(folder.path("logprobs"), filesystem=folder.filesystem, compression="zstd")

    _settle(folder)
    return {
        "rows": folder.count("logprobs"),
        "rejects": folder.count("rejects", "score-"),
        "shared_tokens": shared,
        "models": {model: facts(entry) for model, entry in ray.get(tally.snapshot.remote()).items()},
    }


def check_pair(pair: Pair) -> None:
    """Find out whether both models are there before anything starts.

    Raises:
      ConfigError: naming the key and the reason.
    """
    for model in schema.MODELS:
        name = getattr(pair, model)
        try:
            _vocabulary(pair, model)
            _tokenizer(pair, model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"pair.{model}: no model and tokenizer at {name!r}: {first_line(error)}") from None
        if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
            raise ConfigError(f"pair.{model}: no weights (*.safetensors) in {name!r}")


class _Tokenize:
    """Ray task: a block of trajectories to token rows. What cannot be rendered is written to `rejects`."""

    def __init__(self, config: Config, folder: RunFolder, shared: bool) -> None:
        self.config, self.folder, self.models = config, folder, schema.MODELS[: 1 if shared else 2]

    def __call__(self, batch: pa.Table) -> pa.Table:
        tokenizers = [_tokenizer(self.config.pair, model) for model in self.models]
        sizes = [_vocabulary(self.config.pair, model) for model in schema.MODELS]
        known = sizes if len(tokenizers) == len(sizes) else [min(sizes)]
        scorable, rejects = rows.tokenize_rows(
            batch, tokenizers, known, self.config.render.actions, self.config.score.max_length
        )
        if len(rejects):
            write_rejects(self.folder, rejects)
        return scorable


class Scorer:
    """Ray actor: one model on one device, appending its columns to each batch."""

    def __init__(self, model: str, tokens: str, pair: Pair, settings: Score, folder: RunFolder, tally: Any) -> None:
        import torch

        from pa_dist.score.hf import HFEngine
        from pa_dist.score.load import load_model
        from pa_dist.score.rate import matrix_rate

        context = ray.get_runtime_context()
        gpus = ray.get_gpu_ids()
        if not torch.cuda.is_available():
            assigned = context.get_assigned_resources()
            torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
        self.model, self.tokens, self.folder, self.tally = model, tokens, folder, tally
        self.engine = HFEngine(
            load_model(
                getattr(pair, model),
                revision=getattr(pair, f"{model}_revision"),
                dtype=settings.dtype,
                device=settings.device or _device(gpus, torch.cuda.is_available()),
                attn_implementation=settings.attn_implementation,
                trust_remote_code=pair.trust_remote_code,
            ),
            top_k=settings.top_k,
            batch_tokens=settings.batch_tokens,
            share_prefixes=settings.prefix_sharing == "auto" and settings.attn_implementation is None,
        )
        loaded = self.engine.model
        tally.join.remote(
            model,
            context.get_actor_id(),
            {
                "node": context.get_node_id(),
                "gpu_ids": [str(gpu) for gpu in gpus],
                "device": str(loaded.device),
                "matrix_flops_per_second": round(matrix_rate(loaded.device, loaded.dtype)),
                "prefixes_apart": self.engine.apart,
            },
        )
        self._idle_since: float | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        began, before = time.perf_counter(), replace(self.engine.work)
        idle = 0.0 if self._idle_since is None else began - self._idle_since
        columns = self.engine.score(rows.sequences(batch, self.tokens))
        self.tally.add.remote(self.model, len(batch), idle, self.engine.work - before)
        kept, rejects = rows.split_lost(batch, self.model, self.tokens, columns)
        if len(rejects):
            write_rejects(self.folder, rejects)
        scored = rows.with_columns(kept, self.model, self.tokens, [c for c in columns if c is not None])
        self._idle_since = time.perf_counter()
        return scored


def write_rejects(folder: RunFolder, rejects: pa.Table) -> None:
    """Write a block's rejects from wherever it runs. The name comes from the ids, so that a retry replaces its own."""
    ids = "\n".join(rejects["trajectory_id"].to_pylist())
    folder.write("rejects", f"score-{hashlib.blake2b(ids.encode(), digest_size=12).hexdigest()}", rejects)


def _settle(folder: RunFolder) -> None:
    """One file of this stage's rejects, each row once, and a `logprobs` table even where nothing could be scored."""
    parts = folder.parts("rejects", "score-")
    if parts:
        tables = [pq.read_table(part, filesystem=folder.filesystem) for part in parts]
        unique = {row["trajectory_id"]: row for table in tables for row in table.to_pylist()}
        settled = pa.Table.from_pylist([unique[key] for key in sorted(unique)], schema.REJECTS)
        folder.clear("rejects", "score-")
        folder.write("rejects", "score-00000", settled)
    if not folder.parts("logprobs"):
        folder.write("logprobs", "part-00000", schema.LOGPROBS.empty_table())


@cache
def _load_tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    return load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)


def _tokenizer(pair: Pair, model: str) -> Any:
    """A model's tokenizer, loaded once a worker process."""
    return _load_tokenizer(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)


@cache
def _load_vocabulary(name: str, revision: str | None, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    return int(config.get_text_config().vocab_size)


def _vocabulary(pair: Pair, model: str) -> int:
    """How many tokens a model knows; its tokenizer may know more."""
    return _load_vocabulary(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)


def _device(gpus: list[Any], cuda: bool) -> str:
    if not gpus or not cuda:
        return "cpu"
    return "auto" if len(gpus) > 1 else "cuda"


def _quieten() -> None:
    """Progress is ours: Ray Data's own would be log blocks off a terminal."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


class _Watch:
    """Shows the tally's progress while the driver waits for the pipeline."""

    def __init__(self, tally: Any, total: int) -> None:
        self._tally, self._stop, self._total = tally, threading.Event(), total
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Progress("score", self._total) as progress:
            while not self._stop.wait(1.0):
                models = ray.get(self._tally.snapshot.remote())
                rates = [
                    f"{model} {entry.work.tokens / entry.work.seconds:,.0f} tokens/s"
                    for model, entry in models.items()
                    if entry.work.seconds
                ]
                # A row is done when both models did it; each one's pass is half of the way there.
                progress.update(sum(entry.rows for entry in models.values()) // len(models), ", ".join(rates))
