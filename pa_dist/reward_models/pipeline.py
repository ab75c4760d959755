"""The pipeline of one reward model: from `trajectories` to its own table of `rewards`.

    read -> prompts (tasks) -> reward model (actors) -> write

It goes on after a kill as scoring does.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.config import RewardModel, ThinkPRM
from pa_dist.engine.load import empty_classifier, skeleton
from pa_dist.errors import ConfigError
from pa_dist.models.examine import examine
from pa_dist.models.files import FolderFault, named_fault
from pa_dist.models.hub import hub_commit
from pa_dist.models.loaded import load_config_once, load_tokenizer_once
from pa_dist.models.positions import positions
from pa_dist.models.quantised import check_quantised
from pa_dist.render.plain import ActionRule
from pa_dist.render.trial import why_not
from pa_dist.render.unrenderable import SECONDS, TookTooLong
from pa_dist.reward_models.rows import PROMPTS, READS, prompt_rows, reward_rows, unjudged_rows
from pa_dist.runtime import pools, tasks
from pa_dist.runtime.actors import ModelActor, row_by_row, write_rejects
from pa_dist.runtime.attempts import attempt, blame_engine, named
from pa_dist.runtime.blocks import rows_of_blocks
from pa_dist.runtime.device import assigned_gpus, own_device
from pa_dist.runtime.stream import Pool, Stream, complete, snapshot, tallied
from pa_dist.runtime.targets import reward_target
from pa_dist.store.folder import RunFolder


def judge(name: str, settings: RewardModel, rule: ActionRule, folder: RunFolder) -> dict[str, Any]:
    """Show every row of `trajectories` that is not done yet to a reward model: write its table, and `rejects`.

    Args:
      rule: which messages are actions.

    Returns:
      Facts for the manifest: rows, rejects, how many an earlier session had done, how many trajectories were too long
      to be shown whole, whether it judges steps and how these were read, and what its actors did.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    into, pool = reward_target(name), pools.share_out_one(name, settings)[name]
    pass_tokens = None if isinstance(settings, ThinkPRM) else settings.batch_tokens
    size = rows_of_blocks(settings.rows_per_block, folder, pool, pass_tokens, settings.max_length)
    with tallied([name]) as tally:
        arguments = {"name": name, "settings": settings, "folder": folder, "tally": tally}
        judges = Pool(Judge, arguments, pool, size)
        through: list[Any] = [Prompts(name, settings, rule, folder, tally), judges]
        settled, before = complete(folder, Stream(into, tally, READS, size, through))
        entry = snapshot(tally)[name]
    reads, shown_in_part = tasks.map_tasks(_call, [partial(read, folder, into.table) for read in (step_reads, cut)])
    return {
        "rows": settled.rows,
        "rejects": settled.rejects,
        "done_before": before,
        "shown_in_part": shown_in_part,
        "judges_steps": isinstance(settings, ThinkPRM),
        "steps": reads,
        "tokens": entry.work.tokens,
        "tokens_per_second": round(entry.work.tokens / max(entry.work.seconds, 1e-9), 1),
        "actors": list(entry.actors.values()),
    }


def _call(read: Callable[[], Any]) -> Any:
    return read()


def cut(folder: RunFolder, name: str) -> int:
    """How many trajectories were too long to be shown whole."""
    flags = folder.dataset(name, schema.REWARDS).to_table(columns=["truncated"])["truncated"]
    return int(pc.sum(flags).as_py() or 0)


def step_reads(folder: RunFolder, name: str) -> dict[str, int]:
    """How many steps were read each way, and how many were never judged."""
    read = folder.dataset(name, schema.REWARDS).to_table(columns=["step_read"])["step_read"]
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(pc.list_flatten(read)).to_pylist()}
    return {
        "logprob": counts.get("logprob", 0),
        "verdict": counts.get("verdict", 0),
        "never_judged": counts.get(None, 0),
    }


class Prompts:
    """Ray task: a block of trajectories to prompts. What cannot be shown is written to `rejects`."""

    def __init__(self, name: str, settings: RewardModel, rule: ActionRule, folder: RunFolder, tally: Any) -> None:
        self.name, self.settings, self.rule, self.folder, self.tally = name, settings, rule, folder, tally

    def __call__(self, batch: pa.Table) -> pa.Table:
        made, rejected, lost = row_by_row(self._prompts, batch, self.tally)
        write_rejects(
            self.folder, pa.concat_tables([unjudged_rows(self.name, lost), *rejected]), reward_target(self.name)
        )
        return pa.concat_tables([PROMPTS.empty_table(), *made])

    def _prompts(self, tables: Sequence[pa.Table]) -> list[tuple[pa.Table, pa.Table]]:
        tokenizer, known = tokenizer_of(self.settings), int(config_of(self.settings).get_text_config().vocab_size)
        return [prompt_rows(table, self.name, self.settings, tokenizer, known, self.rule) for table in tables]


class Judge(ModelActor):
    """Ray actor: one reward model."""

    def __init__(self, name: str, settings: RewardModel, folder: RunFolder, tally: Any) -> None:
        self.settings = settings
        super().__init__(name, folder, reward_target(name), tally, partial(_engine, settings))

    def _work(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        ids, prompts = batch["trajectory_id"].to_pylist(), batch["ids"].to_pylist()
        found = attempt(self.engine.score, ids, prompts, self.ledger)
        blame_engine(found, self.proven)
        outcomes = [named(outcome, len(prompt)) for outcome, prompt in zip(found, prompts, strict=True)]
        return reward_rows(batch, self.model, outcomes, tokenizer_of(self.settings))


def _engine(settings: RewardModel) -> Any:
    device = own_device(settings.device)
    if isinstance(settings, ThinkPRM):
        from pa_dist.reward_models.generate import load_generator

        return load_generator(settings, device, assigned_gpus())
    from pa_dist.reward_models.classifier import ClassifierEngine, load_classifier, reading

    model = load_classifier(
        settings.model,
        dtype=settings.dtype,
        device=device,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    return ClassifierEngine(model, reading(settings.read, settings.label), settings.batch_tokens)


def tokenizer_of(settings: RewardModel) -> Any:
    """A reward model's tokenizer, loaded once a process."""
    return load_tokenizer_once(settings.model, settings.revision, settings.trust_remote_code)


def config_of(settings: RewardModel) -> Any:
    """A reward model's own config, loaded once a process."""
    return load_config_once(settings.model, settings.revision, settings.trust_remote_code)


def pinned_reward_model(settings: RewardModel, before: str | None) -> RewardModel:
    """A reward model with the commit that it is at on the Hub now, or was at when the run began."""
    return settings.model_copy(update={"revision": before or hub_commit(settings.model, settings.revision)})


def check_reward_model(name: str, settings: RewardModel) -> str | None:
    """Find out whether a reward model can be used as its settings say, before anything starts.

    Returns:
      Why it needs a GPU, as `check_quantised` has it.

    Raises:
      ConfigError: naming the key and the reason.
    """
    key = f"reward_models.{name}"
    empty = skeleton if isinstance(settings, ThinkPRM) else empty_classifier
    try:
        found = examine(settings.model, settings.revision, settings.trust_remote_code, empty)
        by_vllm = isinstance(settings, ThinkPRM) and settings.engine == "vllm"
        wanting = None if by_vllm else check_quantised(found.config)
    except FolderFault as fault:
        raise ConfigError(named_fault(f"{key}.model", settings.model, fault)) from None
    if not by_vllm and settings.device != "cpu" and (settings.num_gpus or 0) > 1:
        raise ConfigError(f"{key}.num_gpus of {settings.num_gpus:g}: transformers' reward models are on one GPU each")
    config, tokenizer, most = found.config, found.tokenizer, positions(found.text)
    if most is not None and settings.max_length > most:
        raise ConfigError(f"{key}.max_length: the model reads at most {most} tokens, got {settings.max_length}")
    if isinstance(settings, ThinkPRM):
        if settings.engine == "vllm" and find_spec("vllm") is None:
            raise ConfigError(f"{key}.engine: vllm is not installed; `pip install 'pa-dist[vllm]'`, or take hf")
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{key}.model: critiques are read with a fast tokenizer, which {settings.model!r} has not"
            )
    elif settings.read == "logit" and config.num_labels != 1:
        raise ConfigError(f"{key}.read: the model has {config.num_labels} labels; ordinal, or probability of a label")
    elif settings.label is not None and settings.label >= config.num_labels:
        raise ConfigError(f"{key}.label: the model has {config.num_labels} labels, from 0; got {settings.label}")
    if isinstance(settings, ThinkPRM) or settings.input == "chat":
        if tokenizer.chat_template is None:
            raise ConfigError(f"{key}.model: the tokenizer of {settings.model!r} has no chat template")
        # It is asked for less than a policy's: only that it comes to an end.
        if (why := why_not(tokenizer, (), {})) == str(TookTooLong(SECONDS)):
            raise ConfigError(f"{key}.model: its chat template cannot be used: {why}")
    return wanting
