"""What scoring and reward models would do with blocks of trajectories: real tokens, no model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification

from pa_dist import schema
from pa_dist.config import Config, RewardModel, ThinkPRM
from pa_dist.engine.load import quiet, skeleton
from pa_dist.engine.protocol import NULL_COLUMNS, TokenColumns, TokenRow, Work, score_rows
from pa_dist.plan.estimate import Figures
from pa_dist.plan.flops import BYTES, Shape, shape
from pa_dist.plan.rehearsal import Rehearsal, drawn_columns, unshared
from pa_dist.plan.sample import SIZE, Block, kind
from pa_dist.reward_models.pipeline import config_of, tokenizer_of
from pa_dist.reward_models.rows import prompt_rows
from pa_dist.runtime.targets import reference_target
from pa_dist.score import rows
from pa_dist.score.check import shares_tokens
from pa_dist.score.scorer import Tokenize, dtype_of, gives_only_logprob
from pa_dist.store.folder import RunFolder


class Scoring:
    """The scoring of a config.

    Attributes:
      models: the sections and the side of each model: policy, reference, and further references but for merged ones.
      engines: of each model, what it would do.
      shapes: of each model.
    """

    def __init__(self, config: Config, device: str) -> None:
        """`device`: the type of the device that is planned for."""
        self.config, self.device = config, device
        self.models = {model: (config.scoring, model) for model in schema.MODELS}
        self.models |= {
            reference_target(name).stage: (of, "reference")
            for name, of in config.more_scoring.items()
            if of.merge is None
        }
        self._shared = {name: shares_tokens(of) for name, (of, _) in self.models.items()}
        settings, folder = config.score, RunFolder(config.output)
        self._tokens = {
            name: Tokenize(of, folder, self._shared[name], tally=None) for name, (of, _) in self.models.items()
        }
        sharing = settings.engine == "hf" and settings.prefix_sharing == "auto" and not settings.attn_implementation
        self._null: dict[str, Any] = dict.fromkeys(NULL_COLUMNS[settings.engine])
        self._rng = np.random.default_rng(0)
        self.engines: dict[str, Rehearsal] = {}
        self.shapes: dict[str, Shape] = {}
        for name, (sections, model) in self.models.items():
            pair = sections.pair
            where = {"revision": getattr(pair, f"{model}_revision"), "trust_remote_code": pair.trust_remote_code}
            with quiet():
                empty = skeleton(getattr(pair, model), **where)
            self.engines[name] = Rehearsal(
                empty,
                device=device,
                batch_tokens=settings.batch_tokens,
                share_prefixes=sharing,
                only_logprob=gives_only_logprob(settings, model),
            )
            self.shapes[name] = shape(empty)

    def memory(self, model: str) -> dict[str, int]:
        """Bytes of a replica, on all its devices, after the blocks that ran, by what for."""
        shape, engine, settings = self.shapes[model], self.engines[model], self.config.score
        dtype = dtype_of(settings, self.device)
        if settings.engine == "vllm":
            kept, passing = settings.max_length, settings.vllm.max_num_batched_tokens
            logits = 2 * BYTES["float32"] * passing * shape.vocabulary
        else:
            kept, passing = engine.most_kept, engine.most_tokens
            # Of a model that is spread each process has its share of the weights and keys, and whole passes.
            ranks = settings.width(self.models[model][1])
            logits, passing = ranks * shape.head_bytes(dtype, self.device, passing), ranks * passing
        return {
            "weights": shape.parameters * BYTES[dtype],
            "keys_and_values": kept * shape.kept_bytes(dtype),
            "passing": passing * shape.pass_bytes(dtype),
            "logits": logits,
        }

    def run(self, blocks: Sequence[Block]) -> tuple[Figures, Counter[str]]:
        """Figures of blocks that follow each other, and reasons of rejects."""
        found: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for block in blocks:
            ((tokens, rejects),) = self._tokens["policy"].tokenize([block.rows])
            table, done = tokens, Counter[str]()
            for name, (_, model) in self.models.items():
                if further := name not in schema.MODELS:
                    ((table, _),) = self._tokens[name].tokenize([block.rows])
                own = "policy" if self._shared[name] else model
                columns, work = self._score(name, model, rows.token_rows(table, own), block.follows)
                table = rows.with_columns(table, model, own, columns)
                done.update({f"{name} {of}": getattr(work, of) for of in ("tokens", "distinct_tokens", "flops")})
                if further:
                    done["logprobs_bytes"] += _bytes(table, schema.REFERENCE, schema.REFERENCE_ENCODING)
                elif model == "reference":
                    done.update(_rows(rows.logprobs_table(table)))
                    if (merge := self.config.merge) is not None:
                        each = _bytes(table, schema.REFERENCE, schema.REFERENCE_ENCODING)
                        done["logprobs_bytes"] += len(merge.references) * each
            if block.counts:
                reasons.update(map(kind, rejects["reason"].to_pylist()))
                found.update({**_given(block), "rejects": len(rejects)})
                found.update(done)
        return found, reasons

    def _score(
        self, name: str, model: str, token_rows: list[TokenRow], follows: bool
    ) -> tuple[list[TokenColumns], Work]:
        """What the model's engine would give of a block, in numbers that are drawn, and what it would do."""
        if self.config.score.engine == "vllm":
            sequences = [sequence for row in token_rows for sequence in row.sequences()]
            n = sum(len(sequence.ids) for sequence in sequences)
            drawn = [drawn_columns(len(row.positions), self._rng) for row in token_rows]
            unread = TokenColumns._fields[1:] if gives_only_logprob(self.config.score, model) else ()
            null = self._null | dict.fromkeys(unread)
            return [columns._replace(**null) for columns in drawn], Work(n, n, unshared(self.shapes[name], sequences))
        engine = self.engines[name]
        if not follows:
            engine.forget()
        before = replace(engine.work)
        found = score_rows(engine, token_rows)
        return [columns for columns in found if columns is not None], engine.work - before


def _given(block: Block) -> dict[str, Any]:
    """What is known of all rows of the corpus that were read."""
    return {"rows": len(block.rows), SIZE: float(block.rows[SIZE].to_numpy().sum())}


def _rows(logprobs: pa.Table) -> dict[str, int]:
    """Figures of a block's rows of `logprobs`."""
    if not len(logprobs):
        return {}
    cut = pc.list_flatten(logprobs["truncated"])
    return {
        "scored": len(logprobs),
        "steps": len(cut),
        "truncated_steps": pc.sum(cut).as_py() or 0,
        "truncated": sum(map(any, logprobs["truncated"].to_pylist())),
        "action_tokens": len(pc.list_flatten(pc.list_flatten(logprobs["token_ids"]))),
        "logprobs_bytes": _bytes(logprobs, schema.LOGPROBS, schema.LOGPROBS_ENCODING),
    }


def _bytes(table: pa.Table, of: pa.Schema, encoding: dict[str, Any]) -> int:
    """What a table takes on disk, of rows as they go through the pipeline."""
    if not len(table):
        return 0
    sink = pa.BufferOutputStream()
    finished = table if table.schema.equals(of) else rows.logprobs_table(table, of)
    pq.write_table(finished, sink, **encoding)
    return int(sink.tell())


class Judging:
    """A reward model's reading of the same blocks.

    Attributes:
      shape: of the model.
      generates: how many tokens of a critique at most, for each trajectory.
    """

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.settings, self.rule = name, config.reward_models[name], config.render.actions
        self.shape = _shape_of(self.settings)
        self.generates = self.settings.max_new_tokens if isinstance(self.settings, ThinkPRM) else 0

    def run(self, blocks: Sequence[Block]) -> Figures:
        """Figures of blocks: what is shown, of a critique the most that can be written, and operations of both."""
        tokenizer, known = tokenizer_of(self.settings), int(config_of(self.settings).get_text_config().vocab_size)
        found: Counter[str] = Counter()
        for block in blocks:
            if block.counts:
                prompts, rejects = prompt_rows(block.rows, self.name, self.settings, tokenizer, known, self.rule)
                found.update({**_given(block), "rejects": len(rejects), **self._figures(prompts)})
        return found

    def _figures(self, prompts: pa.Table) -> dict[str, int]:
        lengths = pc.list_value_length(prompts["ids"]).to_pylist()
        # Every generated token passes the head, and so does the last of the prompt.
        head = 2 * self.shape.head_weights * self.generates
        return {
            "tokens": sum(lengths),
            "truncated": sum(prompts["truncated"].to_pylist()),
            "generated": self.generates * len(lengths),
            "flops": sum(self.shape.flops(0, n + self.generates) + head for n in lengths),
        }


def _shape_of(settings: RewardModel) -> Shape:
    with quiet():
        if isinstance(settings, ThinkPRM):
            return shape(
                skeleton(settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
            )
        with torch.device("meta"):
            return shape(
                AutoModelForSequenceClassification.from_config(
                    config_of(settings), trust_remote_code=settings.trust_remote_code
                )
            )
