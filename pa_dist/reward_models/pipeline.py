"""The pipeline of one reward model: from `trajectories` to its own table of `rewards`.

read -> prompts (tasks) -> reward model (actors) -> write
"""

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from pa_dist import cluster, schema
from pa_dist.config import Config, RewardModel, ThinkPRM
from pa_dist.errors import ConfigError, first_line
from pa_dist.reward_models.rows import prompt_rows, reward_rows
from pa_dist.run import REWARDS, REWARDS_CHECKPOINT, RunFolder
from pa_dist.score.actors import Counters, LedgerOf, device_of, load_tokenizer_once, write_rejects
from pa_dist.score.attempts import attempt, device_is_gone, named
from pa_dist.score.pipeline import Watch, checkpointed, read_trajectories, start_tally, write_table
from pa_dist.score.settle import Target, mend, n_left, settle

_READ = [field.name for field in schema.KEYS] + ["messages", "extra"]


def target(name: str) -> Target:
    """Where a reward model's rows go."""
    # No name ends in an underscore, so that no name's files are taken for another's.
    return Target(
        f"reward-{name}_", f"{REWARDS}/{name}", schema.REWARDS, {"compression": "zstd"}, f"{REWARDS_CHECKPOINT}/{name}"
    )


def judge(config: Config, name: str, folder: RunFolder) -> dict[str, Any]:
    """Show every row of `trajectories` that is not done yet to a reward model: write its table, and `rejects`.

    Returns:
      Facts for the manifest: rows, rejects, rows an earlier session had done, how steps were read, and what the actors
      did.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    settings, into = config.reward_models[name], target(name)
    (left,) = cluster.map_tasks(partial(_n_left, into), [folder])
    total = folder.count("trajectories")
    tally = start_tally([name])
    if left:
        mend(folder, into)
        with Watch(f"reward {name}", tally, folder, total - left, total), checkpointed(folder, into):
            _stream(config, name, settings, folder, into, tally)
    ((settled, reads),) = cluster.map_tasks(partial(_settle, into), [folder])
    entry = ray.get(tally.snapshot.remote())[name]
    return {
        **settled._asdict(),
        "done_before": total - left,
        "steps": reads,
        "tokens": entry.work.tokens,
        "tokens_per_second": round(entry.work.tokens / max(entry.work.seconds, 1e-9), 1),
        "actors": list(entry.actors.values()),
    }


def _n_left(into: Target, folder: RunFolder) -> int:
    return n_left(folder, into)


def _settle(into: Target, folder: RunFolder) -> tuple[Any, dict[str, int]]:
    settled = settle(folder, into)
    read = folder.dataset(into.table, schema.REWARDS).to_table(columns=["step_read"])["step_read"]
    steps = pc.list_flatten(read)
    counts = {how: int(pc.sum(pc.equal(steps, how)).as_py() or 0) for how in ("logprob", "verdict")}
    return settled, {**counts, "never_judged": steps.null_count}


def _stream(config: Config, name: str, settings: RewardModel, folder: RunFolder, into: Target, tally: Any) -> None:
    pool = cluster.share_out_one(settings)
    dataset = read_trajectories(folder, _READ, settings.rows_per_block)
    dataset = dataset.map_batches(
        _Prompts(config, name, folder), batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    dataset = dataset.map_batches(
        Judge,
        fn_constructor_kwargs={"name": name, "settings": settings, "folder": folder, "tally": tally},
        compute=ray.data.ActorPoolStrategy(size=pool.replicas),
        num_gpus=pool.num_gpus,
        num_cpus=pool.num_cpus,
        batch_format="pyarrow",
        batch_size=settings.rows_per_block,
        **({"label_selector": pool.labels} if pool.labels else {}),
    )
    write_table(dataset, folder, into)


class _Prompts:
    """Ray task: a block of trajectories to prompts. What cannot be shown is written to `rejects`."""

    def __init__(self, config: Config, name: str, folder: RunFolder) -> None:
        self.config, self.name, self.folder = config, name, folder

    def __call__(self, batch: pa.Table) -> pa.Table:
        settings = self.config.reward_models[self.name]
        prompts, rejects = prompt_rows(batch, self.name, settings, tokenizer_of(settings), self.config.render.actions)
        write_rejects(self.folder, rejects, target(self.name))
        return prompts


class Judge:
    """Ray actor: one reward model on one device."""

    def __init__(self, name: str, settings: RewardModel, folder: RunFolder, tally: Any) -> None:
        import torch

        context, gpus = ray.get_runtime_context(), ray.get_gpu_ids()
        if not torch.cuda.is_available():
            torch.set_num_threads(max(1, int(context.get_assigned_resources().get("CPU", 1))))
        self.name, self.folder, self.tally, self.tokenizer = name, folder, tally, tokenizer_of(settings)
        self.ledger, self.counters = LedgerOf(tally, name), Counters(name)
        device = settings.device or device_of(gpus, torch.cuda.is_available())
        self.engine: Any
        if isinstance(settings, ThinkPRM):
            from pa_dist.reward_models.generate import load_generator

            self.engine = load_generator(settings, device, len(gpus))
            self._score: Any = self.engine.generate
        else:
            from pa_dist.reward_models.classifier import ClassifierEngine, load_classifier, reading

            model = load_classifier(
                settings.model,
                dtype=settings.dtype,
                device=device,
                revision=settings.revision,
                trust_remote_code=settings.trust_remote_code,
            )
            self.engine = ClassifierEngine(model, reading(settings.read, settings.label), settings.batch_tokens)
            self._score = self.engine.score
        place = {"node": context.get_node_id(), "pid": os.getpid(), "gpu_ids": [str(gpu) for gpu in gpus]}
        tally.join.remote(name, context.get_actor_id(), place)
        self._idle_since = time.perf_counter()

    def __call__(self, batch: pa.Table) -> pa.Table:
        idle, before = time.perf_counter() - self._idle_since, replace(self.engine.work)
        ids, prompts = batch["trajectory_id"].to_pylist(), batch["ids"].to_pylist()
        try:
            found = attempt(self._score, ids, prompts, self.ledger, proven=before.tokens > 0)
        except Exception as error:
            if not device_is_gone(error):
                raise
            os._exit(1)  # as in scoring: another process finds out whether one of these rows is the reason
        outcomes = [named(outcome, len(prompt)) for outcome, prompt in zip(found, prompts, strict=True)]
        rewards, rejects = reward_rows(batch, self.name, outcomes, self.tokenizer)
        write_rejects(self.folder, rejects, target(self.name))
        work = self.engine.work - before
        self.tally.add.remote(self.name, len(batch), idle, work)
        self.counters.add(len(batch), len(rejects), work)
        self._idle_since = time.perf_counter()
        return rewards


def tokenizer_of(settings: RewardModel) -> Any:
    """A reward model's tokenizer, loaded once a process."""
    return load_tokenizer_once(settings.model, settings.revision, settings.trust_remote_code)


def check(name: str, settings: RewardModel) -> None:
    """Find out whether a reward model can be used as its settings say, before anything starts.

    Raises:
      ConfigError: naming the key and the reason.
    """
    from transformers import AutoConfig

    key = f"reward_models.{name}"
    try:
        config = AutoConfig.from_pretrained(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        tokenizer = tokenizer_of(settings)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}.model: no model and tokenizer at {settings.model!r}: {first_line(error)}") from None
    if isinstance(settings, ThinkPRM):
        from pa_dist.reward_models.generate import check_engine

        check_engine(name, settings)
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError(f"{key}.model: critiques are read with a fast tokenizer, and this one is not")
    elif settings.read == "logit" and config.num_labels != 1:
        raise ConfigError(f"{key}.read: the model has {config.num_labels} labels; ordinal, or probability of a label")
    elif settings.label is not None and settings.label >= config.num_labels:
        raise ConfigError(f"{key}.label: the model has {config.num_labels} labels, from 0; got {settings.label}")
    if (isinstance(settings, ThinkPRM) or settings.input == "chat") and tokenizer.chat_template is None:
        raise ConfigError(f"{key}.model: the tokenizer of {settings.model!r} has no chat template")
