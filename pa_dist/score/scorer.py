"""What the tasks and actors of scoring do. They carry numbers that modules without Ray compute."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Merged, Pair, Score, ScoreSections
from pa_dist.engine.protocol import Engine, score_rows
from pa_dist.models.loaded import tokenizer, vocabulary
from pa_dist.runtime.actors import ModelActor, row_by_row, write_rejects
from pa_dist.runtime.attempts import outcomes
from pa_dist.runtime.device import assigned_gpus, own_device
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.score import rows
from pa_dist.score.templates import chat_templates
from pa_dist.store.folder import RunFolder


class Tokenize:
    """Ray task: a block of trajectories to token rows. What cannot be rendered is written to `rejects`."""

    def __init__(
        self, sections: ScoreSections, folder: RunFolder, shared: bool, tally: Any, into: Target = LOGPROBS
    ) -> None:
        self.sections, self.folder, self.tally, self.into = sections, folder, tally, into
        self.models = schema.MODELS[: 1 if shared else 2]

    def __call__(self, batch: pa.Table) -> pa.Table:
        made, rejected, lost = row_by_row(self.tokenize, batch, self.tally)
        rejects = pa.concat_tables([rows.reject_rows(lost), *rejected])
        write_rejects(self.folder, _of_stage(rejects, self.into), self.into)
        return pa.concat_tables([rows.tokens_schema(shared=len(self.models) == 1).empty_table(), *made])

    def tokenize(self, tables: Sequence[pa.Table]) -> list[tuple[pa.Table, pa.Table]]:
        """Of each table the token rows, and what cannot be rendered."""
        tokenizers = [tokenizer(self.sections.pair, model) for model in self.models]
        sizes = [vocabulary(self.sections.pair, model) for model in schema.MODELS]
        known = sizes if len(tokenizers) == len(sizes) else [min(sizes)]
        settings, max_length = self.sections.render, self.sections.score.max_length
        templates = chat_templates(settings, tokenizers) if settings.style == "chat" else ()
        return [
            rows.tokenize_rows(table, tokenizers, known, settings.actions, max_length, templates) for table in tables
        ]


def _of_stage(rejects: pa.Table, into: Target) -> pa.Table:
    return rejects if into == LOGPROBS else rows.left_in(rejects, into.stage)


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
        merge: Merged | None = None,
        into: Target = LOGPROBS,
        load: Callable[[], Engine] | None = None,
    ) -> None:
        """`load`: makes the engine, where it is not one that the model has for itself."""
        self.tokens = tokens
        load = load or partial(load_engine, model, pair, settings, merge)
        super().__init__(model, folder, into, tally, load)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.engine.facts()
        return facts

    def _work(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        ids, tokens = batch["trajectory_id"].to_pylist(), rows.token_rows(batch, self.tokens)
        found = outcomes(partial(score_rows, self.engine), ids, tokens, self.ledger, proven=self.proven)
        kept, columns, rejects = rows.split_lost(batch, self.model, found)
        return rows.with_columns(kept, self.model, self.tokens, columns), _of_stage(rejects, self.target)


class PairScorer:
    """Policy and reference of one base: its weights are there once, and adapters make the difference."""

    def __init__(self, pair: Pair, settings: Score, folder: RunFolder, tally: Any) -> None:
        """As a `Scorer` of each; both read the base's tokens."""
        loaded = cache(partial(load_engines, pair, settings))

        def side(model: str) -> Scorer:
            return Scorer(model, "policy", pair, settings, folder, tally, load=lambda: loaded()[model])

        self.sides = [side(model) for model in schema.MODELS]

    def __call__(self, batch: pa.Table) -> pa.Table:
        first, *others = self.sides
        batch = first(batch)
        for other in others:
            other.rest()
            batch = other(batch)
        first.rest()
        return batch


def dtype_of(settings: Score, device: str, made_for: Iterable[str] = ()) -> str:
    """What `score.dtype` means on a device. vLLM gets no float16 unasked, nor does a quantised model that was not made
    for it: nothing would score again what leaves it.

    Args:
      made_for: of the quantised models of the pair, the dtypes that they were made for.
    """
    from pa_dist.engine.precision import dtype_on

    found = dtype_on(device, settings.dtype)
    unguarded = settings.engine == "vllm" or set(made_for) - {"float16"}
    return "bfloat16" if unguarded and settings.dtype == "auto" and found == "float16" else found


def gives_only_logprob(settings: Score, model: str) -> bool:
    """Whether a model's other columns are left out: no method reads the reference's."""
    return settings.columns == "auto" and model == "reference"


def load_engine(model: str, pair: Pair, settings: Score, merge: Merged | None, *, plain: bool = False) -> Engine:
    """The engine of one model, the reference's merged where asked for; `plain`: of packed weights, dequantised."""
    if settings.engine == "vllm":
        return _vllm(model, pair, settings)
    if settings.width(model) > 1:
        return _spread(model, pair, settings)
    from pa_dist.engine.load import load_model
    from pa_dist.score.mergeable import merging

    device, how = _how(model, pair, settings)
    into = None if merge is None or model == "policy" else merging(pair, merge)
    loaded = load_model(getattr(pair, model), device=device, merging=into, plain=plain, **how)
    if getattr(pair, f"{model}_adapter") is not None:
        return _sides(loaded, pair, settings, [model])[model]
    return _engine(model, settings, loaded)


def load_engines(pair: Pair, settings: Score, *, plain: bool = False) -> dict[str, Engine]:
    """The engines of both models of one base, which is loaded once; `plain` as `load_engine` has it."""
    from pa_dist.engine.load import load_model

    device, how = _how("policy", pair, settings)
    return _sides(load_model(pair.policy, device=device, plain=plain, **how), pair, settings, schema.MODELS)


def _spread(model: str, pair: Pair, settings: Score) -> Engine:
    """An engine whose model several processes hold."""
    import torch

    from pa_dist.engine.ranks import Ranks

    device, _ = _how(model, pair, settings)
    settings = settings.model_copy(update={"device": torch.device(device).type})
    build = partial(_rank, model, pair, settings)
    return Ranks(build, settings.width(model), device=str(settings.device), batch_tokens=settings.batch_tokens)


def _rank(model: str, pair: Pair, settings: Score, dtype: str | None) -> Any:
    """The engine of one of these processes, in it."""
    from pa_dist.engine.load import load_model

    if dtype is not None:
        settings = settings.model_copy(update={"dtype": dtype})
    how = _loading(model, pair, settings, str(settings.device))
    return _engine(model, settings, load_model(getattr(pair, model), ranks=settings.width(model), **how))


def _how(model: str, pair: Pair, settings: Score) -> tuple[str, dict[str, Any]]:
    """The device, and how a model is loaded."""
    device = own_device(settings.device)
    return device, _loading(model, pair, settings, device)


def _loading(model: str, pair: Pair, settings: Score, device: str) -> dict[str, Any]:
    return {
        "revision": getattr(pair, f"{model}_revision"),
        "dtype": dtype_of(settings, device),
        "trust_remote_code": pair.trust_remote_code,
        "attn_implementation": settings.attn_implementation,
    }


def _sides(loaded: Any, pair: Pair, settings: Score, models: Sequence[str]) -> dict[str, Engine]:
    """The engines of models that adapters make of one base."""
    from pa_dist.engine.adapter import Adapted, Side

    adapted = Adapted(loaded)
    labels = {model: model if getattr(pair, f"{model}_adapter") is not None else None for model in models}
    for model in filter(None, labels.values()):
        adapted.add(getattr(pair, f"{model}_adapter"), model, revision=getattr(pair, f"{model}_adapter_revision"))
    return {model: Side(adapted, label, partial(_engine, model, settings)) for model, label in labels.items()}


def _engine(model: str, settings: Score, loaded: Any) -> Engine:
    """Of a loaded model of transformers'."""
    from pa_dist.engine.hf import HFEngine
    from pa_dist.engine.precision import Guarded
    from pa_dist.engine.quantised import method_of

    engine = HFEngine(
        loaded,
        top_k=settings.top_k,
        batch_tokens=settings.batch_tokens,
        share_prefixes=settings.prefix_sharing == "auto" and settings.attn_implementation is None,
        only_logprob=gives_only_logprob(settings, model),
    )
    # Packed weights take no other dtype: what leaves the range of float16 is a reject.
    return Guarded(engine) if str(loaded.dtype) == "torch.float16" and method_of(loaded) is None else engine


def _vllm(model: str, pair: Pair, settings: Score) -> Engine:
    from pa_dist.engine.vllm import VLLMEngine

    return VLLMEngine(
        getattr(pair, model),
        max_length=settings.max_length,
        top_k=settings.top_k,
        only_logprob=gives_only_logprob(settings, model),
        gpus=assigned_gpus(),
        revision=getattr(pair, f"{model}_revision"),
        dtype=dtype_of(settings, "cuda" if assigned_gpus() > 0 else own_device(None)),
        trust_remote_code=pair.trust_remote_code,
        **settings.vllm.model_dump(),
    )
