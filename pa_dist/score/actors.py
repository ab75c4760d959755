"""What the pipeline's tasks and actors do. They carry numbers that modules without Ray compute."""

import hashlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from pa_dist import schema
from pa_dist.config import Config, Merge, Pair, Render, Score
from pa_dist.errors import PaDistError, fault
from pa_dist.merge.recall import recall
from pa_dist.render.chat import ChatTemplate, control_tokens
from pa_dist.run import RunFolder
from pa_dist.score import rows
from pa_dist.score.attempts import attempt, device_is_gone, outcomes, reason
from pa_dist.score.engine import Engine, Work, score_rows
from pa_dist.score.settle import LOGPROBS, Target
from pa_dist.score.tokenize import load_tokenizer
from pa_dist.whereabouts import locate


class Tokenize:
    """Ray task: a block of trajectories to token rows. What cannot be rendered is written to `rejects`."""

    def __init__(self, config: Config, folder: RunFolder, shared: bool, tally: Any) -> None:
        self.config, self.folder, self.tally = config, folder, tally
        self.models = schema.MODELS[: 1 if shared else 2]

    def __call__(self, batch: pa.Table) -> pa.Table:
        made, rejected, lost = row_by_row(self.tokenize, batch, self.tally)
        write_rejects(self.folder, pa.concat_tables([rows.rejects(lost), *rejected]))
        return pa.concat_tables([rows.tokens_schema(shared=len(self.models) == 1).empty_table(), *made])

    def tokenize(self, tables: Sequence[pa.Table]) -> list[tuple[pa.Table, pa.Table]]:
        """Of each table the token rows, and what cannot be rendered."""
        tokenizers = [tokenizer(self.config.pair, model) for model in self.models]
        sizes = [vocabulary(self.config.pair, model) for model in schema.MODELS]
        known = sizes if len(tokenizers) == len(sizes) else [min(sizes)]
        settings, max_length = self.config.render, self.config.score.max_length
        templates = chat_templates(settings, tokenizers) if settings.style == "chat" else ()
        return [
            rows.tokenize_rows(table, tokenizers, known, settings.actions, max_length, templates) for table in tables
        ]


def row_by_row(
    work: Callable[[Sequence[pa.Table]], Sequence[tuple[pa.Table, pa.Table]]], batch: pa.Table, tally: Any
) -> tuple[list[pa.Table], list[pa.Table], dict[str, str]]:
    """Prepare a block's rows for a model, so that one which kills its process is lost alone.

    Args:
      work: gives each of some tables of one row what it makes of it, and its rejects.

    Returns:
      What was made, the rejects, and why rows were lost, by trajectory.
    """
    ids, alone = batch["trajectory_id"].to_pylist(), [batch.slice(index, 1) for index in range(len(batch))]
    found = attempt(work, ids, alone, LedgerOf(tally, "tokenizer"))
    done = [tables for tables in found if isinstance(tables, tuple)]
    lost = {row_id: reason(why) for row_id, why in zip(ids, found, strict=True) if not isinstance(why, tuple)}
    return [made for made, _ in done], [rejected for _, rejected in done], lost


class Recall:
    """Ray task: append the policy's columns, which the run itself has scored."""

    def __init__(self, folder: RunFolder) -> None:
        self.run, self.folder = RunFolder(folder.uri), folder
        task: Any = ray.remote(num_cpus=1)(locate)
        self.index = task.remote(self.run, "logprobs")

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = recall(self.run, ray.get(self.index), batch["trajectory_id"].to_pylist())
        kept, columns, rejects = rows.split_lost(batch, "policy", found)
        write_rejects(self.folder, rejects)
        return rows.with_columns(kept, "policy", "policy", columns)


class ModelActor:
    """Ray actor: one model on one device, which works on a block at a time.

    Attributes:
      proven: whether the engine has done work before the block under way.
    """

    def __init__(self, model: str, folder: RunFolder, target: Target, tally: Any, load: Callable[[], Any]) -> None:
        """`load`: makes the engine, on the device that Ray gave this actor."""
        self.model, self.folder, self.target, self.tally = model, folder, target, tally
        self.ledger, self.counters = LedgerOf(tally, model), _Counters(model)
        self.proven = False
        self._process, self._rows, self._idle = uuid.uuid4().hex, 0, 0.0
        self._idle_since: float | None = None
        self._faulty = False
        try:
            self.engine = load()
        except BaseException as raised:  # whatever a library finds wrong with a checkpoint, a device or an option
            # Raised at the first block: an actor that cannot be made Ray makes again and again.
            self._faulty = True
            self._tell(fault(raised))
        else:
            self._join()

    def _tell(self, error: Exception) -> None:
        ray.get(self.tally.fail.remote(str(error) if isinstance(error, PaDistError) else reason(error)))

    def _join(self) -> None:
        context = ray.get_runtime_context()
        place = {
            "node": context.get_node_id(),
            "pid": os.getpid(),
            "gpu_ids": [str(gpu) for gpu in ray.get_gpu_ids()],
            **self._facts(),
        }
        self.tally.join.remote(self.model, context.get_actor_id(), place)

    def _facts(self) -> dict[str, Any]:
        """What the manifest says of the engine."""
        return {}

    def _work(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        """A block's results, and the rows without any as a table of `rejects`."""
        raise NotImplementedError

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._faulty:
            raise PaDistError(f"{self.model}: its actor has no engine")
        began, before = time.perf_counter(), replace(self.engine.work)
        self._idle += 0.0 if self._idle_since is None else began - self._idle_since
        self.proven = before.tokens > 0
        try:
            done, rejects = self._work(batch)
        except BaseException as raised:
            error = fault(raised)
            if not device_is_gone(error):
                self._tell(error)
                raise error from None  # Ray carries no other than exceptions
            # Ray starts another process, and the ledger, in which these rows have not ended, finds out whether one of
            # them is the reason.
            os._exit(1)
        write_rejects(self.folder, rejects, self.target)
        work = self.engine.work - before
        self._rows += len(batch)
        self.tally.tell.remote(self.model, self._process, self._rows, self._idle, replace(self.engine.work))
        self.counters.add(len(batch), len(rejects), work)
        self._idle_since = time.perf_counter()
        return done


class Scorer(ModelActor):
    """One model of a pair, appending its columns to each batch."""

    def __init__(
        self,
        model: str,
        tokens: str,
        pair: Pair,
        settings: Score,
        folder: RunFolder,
        tally: Any,
        merge: Merge | None = None,
    ) -> None:
        self.tokens = tokens
        load = partial(_engine, model, pair, settings, merge, folder.alpha)
        super().__init__(model, folder, LOGPROBS, tally, load)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.engine.facts()
        return facts

    def _work(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        ids, tokens = batch["trajectory_id"].to_pylist(), rows.token_rows(batch, self.tokens)
        found = outcomes(partial(score_rows, self.engine), ids, tokens, self.ledger, proven=self.proven)
        kept, columns, rejects = rows.split_lost(batch, self.model, found)
        return rows.with_columns(kept, self.model, self.tokens, columns), rejects


def _engine(model: str, pair: Pair, settings: Score, merge: Merge | None, alpha: float | None) -> Engine:
    """The engine of one model, merged where an alpha is given."""
    name, device = getattr(pair, model), own_device(settings.device)
    how = {
        "revision": getattr(pair, f"{model}_revision"),
        "dtype": settings.dtype,
        "trust_remote_code": pair.trust_remote_code,
    }
    if settings.engine == "vllm":
        from pa_dist.score.vllm import VLLMEngine

        gpus = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
        return VLLMEngine(
            name, max_length=settings.max_length, settings=settings.vllm, top_k=settings.top_k, gpus=gpus, **how
        )
    from pa_dist.score.hf import HFEngine
    from pa_dist.score.load import load_model

    loaded = load_model(name, device=device, attn_implementation=settings.attn_implementation, **how)
    if merge is not None and alpha is not None:
        from pa_dist.merge.rewrite import rewrite

        rewrite(loaded, pair, merge, alpha)
    return HFEngine(
        loaded,
        top_k=settings.top_k,
        batch_tokens=settings.batch_tokens,
        share_prefixes=settings.prefix_sharing == "auto" and settings.attn_implementation is None,
    )


class LedgerOf:
    """The tally's, for one kind of work. It waits: what ended just before a process died must not seem to have not."""

    def __init__(self, tally: Any, name: str) -> None:
        self._tally, self._name = tally, name

    def begin(self, keys: Sequence[Hashable]) -> int:
        before: int = ray.get(self._tally.begin.remote(self._named(keys)))
        return before

    def end(self, keys: Sequence[Hashable]) -> None:
        ray.get(self._tally.end.remote(self._named(keys)))

    def _named(self, keys: Sequence[Hashable]) -> list[Hashable]:
        return [(self._name, key) for key in keys]


class _Counters:
    """One model's counters for the Ray dashboard and Prometheus; their rates are tokens and trajectories per second."""

    def __init__(self, model: str) -> None:
        named = {
            "trajectories": "Trajectories scored",
            "rejects": "Trajectories that could not be scored",
            "tokens": "Tokens of scored trajectories",
            "distinct_tokens": "Tokens that went through the model",
            "busy_seconds": "Seconds of scoring",
        }
        self._counters = {
            name: Counter(f"pa_dist_score_{name}", description=text, tag_keys=("model",))
            for name, text in named.items()
        }
        for counter in self._counters.values():
            counter.set_default_tags({"model": model})

    def add(self, n_rows: int, n_rejects: int, work: Work) -> None:
        amounts = {
            "trajectories": n_rows - n_rejects,
            "rejects": n_rejects,
            "tokens": work.tokens,
            "distinct_tokens": work.distinct_tokens,
            "busy_seconds": work.seconds,
        }
        for name, amount in amounts.items():
            if amount > 0:  # a counter refuses to be told of nothing
                self._counters[name].inc(amount)


def write_rejects(folder: RunFolder, rejects: pa.Table, target: Target = LOGPROBS) -> None:
    """Write a block's rejects from wherever it runs, and that these rows are done.

    The names come from the ids, so that a retry replaces its own.
    """
    if not len(rejects):
        return
    ids = rejects["place"]
    name = target.rejects + hashlib.blake2b("\n".join(ids.to_pylist()).encode(), digest_size=12).hexdigest()
    folder.write("rejects", name, rejects)
    folder.write(target.checkpoint, name, pa.table({"trajectory_id": ids}))


@cache
def load_tokenizer_once(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A tokenizer, loaded once a process."""
    return load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)


def tokenizer(pair: Pair, model: str) -> Any:
    """A model's tokenizer, loaded once a process."""
    return load_tokenizer_once(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)


def templates_of(config: Config) -> list[ChatTemplate]:
    """What renders the text of policy and reference; none for the plain rendering."""
    if config.render.style != "chat":
        return []
    return chat_templates(config.render, [tokenizer(config.pair, model) for model in schema.MODELS])


def chat_templates(settings: Render, tokenizers: Sequence[Any]) -> list[ChatTemplate]:
    """What renders the text that each tokenizer reads.

    Args:
      tokenizers: the policy's first.

    Raises:
      Exception: a template that is not there, or that raises on a plain question and answer.
    """
    owners = tokenizers if settings.template_from == "own" else [tokenizers[0]] * len(tokenizers)
    controls, options, end = control_tokens(*tokenizers), settings.template_options, settings.end_of_turn
    return [ChatTemplate(owner, controls, options=options, end_of_turn=end) for owner in owners]


@cache
def load_config_once(name: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A model's own config, loaded once a process."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def text_config(pair: Pair, model: str) -> Any:
    """The config of a model's language part."""
    config = load_config_once(getattr(pair, model), getattr(pair, f"{model}_revision"), pair.trust_remote_code)
    return config.get_text_config()


def vocabulary(pair: Pair, model: str) -> int:
    """How many tokens a model knows; its tokenizer may know more."""
    return int(text_config(pair, model).vocab_size)


def own_device(named: str | None) -> str:
    """The device that Ray gave this actor, where none is named; of a CPU the threads as well.

    Raises:
      PaDistError: it was given a GPU, and torch can use none: a run on the CPU in its stead would only seem to hang.
    """
    import torch  # here and not above: tasks import this module as well

    cuda, gpus = torch.cuda.is_available(), ray.get_gpu_ids()
    if not cuda:
        assigned = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
    if named:
        return named
    if gpus and not cuda:
        raise PaDistError(
            f"a GPU was assigned on {platform.node()}, and torch {torch.__version__} there finds no CUDA; install a "
            "torch for this GPU, or say device=cpu, of a pair in `score`, of a reward model in its own section"
        )
    if not gpus:
        return "cpu"
    return "auto" if len(gpus) > 1 else "cuda"
