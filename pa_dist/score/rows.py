"""Between Arrow tables and engines: trajectories in, token rows between, log-prob columns out. No Ray, no model."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.render.plain import ActionRule, action_rule, render
from pa_dist.score.attempts import Outcome, reason
from pa_dist.score.engine import TokenColumns, TokenSequence
from pa_dist.score.tokenize import TokenizedTrajectory, tokenize

_INTS = pa.list_(pa.int32())
_KEYS_AND_LABELS = [*schema.KEYS, *schema.LABELS]
_STEP_COLUMNS = [schema.LOGPROBS.field(name) for name in ("step", "agent", "text_hash", "truncated")]


def token_fields(model: str) -> list[pa.Field]:
    """Columns that carry one model's token sequence through the pipeline."""
    return [pa.field(f"{model}_{name}", _INTS) for name in ("ids", "positions", "step_lengths")]


def tokens_schema(shared: bool) -> pa.Schema:
    """What the tokeniser gives the actors; the reference has columns of its own unless the tokens are shared."""
    models = schema.MODELS[:1] if shared else schema.MODELS
    return pa.schema([*_KEYS_AND_LABELS, *_STEP_COLUMNS, *(f for model in models for f in token_fields(model))])


def tokenize_rows(
    trajectories: pa.Table, tokenizers: Sequence[Any], vocabularies: Sequence[int], rule: ActionRule, max_length: int
) -> tuple[pa.Table, pa.Table]:
    """Render and tokenise a block of `trajectories`.

    Args:
      tokenizers: the policy's, and the reference's if it is another one.
      vocabularies: of each tokenizer, the number of tokens that the models reading it know.

    Returns:
      A table of `tokens_schema`, and the rows that cannot be scored as a table of `rejects`.
    """
    rows: list[dict[str, Any]] = []
    lost: dict[str, str] = {}
    keep = {field.name for field in _KEYS_AND_LABELS}
    for row in trajectories.to_pylist():
        try:
            rendered = render(row["messages"], action_rule(rule, row["benchmark"]))
            if not rendered.actions:
                lost[row["trajectory_id"]] = "no message is an action"
                continue
            tokenized = [tokenize(rendered, tokenizer, max_length) for tokenizer in tokenizers]
        except Exception as error:  # a tokenizer may be anybody's; one row must not stop the run
            lost[row["trajectory_id"]] = reason(error)
            continue
        unknown = next((i for i, t in enumerate(tokenized) if t.sequence.ids.max() >= vocabularies[i]), None)
        if unknown is not None:
            token, known = tokenized[unknown].sequence.ids.max(), vocabularies[unknown]
            lost[row["trajectory_id"]] = f"token id {token} is outside the model's vocabulary of {known}"
            continue
        texts = [rendered.texts[i].encode() for i in rendered.actions]
        carried = [_carry(model, t) for model, t in zip(schema.MODELS, tokenized, strict=False)]
        rows.append(
            {
                **{name: value for name, value in row.items() if name in keep},
                "step": rendered.actions,
                "agent": rendered.agents,
                "text_hash": [hashlib.blake2b(text, digest_size=8).hexdigest() for text in texts],
                "truncated": [any(flags) for flags in zip(*(t.truncated for t in tokenized), strict=True)],
                **{name: value for columns in carried for name, value in columns.items()},
            }
        )
    return pa.Table.from_pylist(rows, tokens_schema(shared=len(tokenizers) == 1)), rejects(lost)


def _carry(model: str, tokenized: TokenizedTrajectory) -> dict[str, Any]:
    sequence, step_lengths, _ = tokenized
    return {
        f"{model}_ids": sequence.ids,
        f"{model}_positions": sequence.positions,
        f"{model}_step_lengths": step_lengths,
    }


def rejects(reasons: Mapping[str, str]) -> pa.Table:
    """Rows of `rejects`, from why each trajectory is one."""
    rows = [
        {"source": "trajectories", "place": key, "trajectory_id": key, "stage": "score", "reason": why}
        for key, why in reasons.items()
    ]
    return pa.Table.from_pylist(rows, schema.REJECTS)


def sequences(table: pa.Table, model: str) -> list[TokenSequence]:
    """One model's token sequences of a table of `tokens_schema`."""
    ids, positions = (_arrays(table[f"{model}_{name}"]) for name in ("ids", "positions"))
    return [TokenSequence(*pair) for pair in zip(ids, positions, strict=True)]


def split_lost(
    table: pa.Table, model: str, outcomes: Sequence[Outcome]
) -> tuple[pa.Table, list[TokenColumns], pa.Table]:
    """The rows that a model scored with their columns, and the others as a table of `rejects`."""
    ids = table["trajectory_id"].to_pylist()
    lost = {i: f"{model}: {why}" for i, why in zip(ids, outcomes, strict=True) if isinstance(why, str)}
    columns = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    scored = pa.array([not isinstance(outcome, str) for outcome in outcomes], pa.bool_())
    return table.filter(scored), columns, rejects(lost)


def with_columns(table: pa.Table, model: str, tokens: str, columns: Sequence[TokenColumns]) -> pa.Table:
    """Append one model's log-prob columns; those that its engine does not give are null.

    Args:
      model: whose columns, `policy` or `reference`.
      tokens: whose token columns were scored, `policy` where they are shared.
    """
    offsets = _offsets(table, tokens)
    for name in schema.TOKEN_COLUMNS:
        of_rows = [getattr(c, name) for c in columns]
        if any(values is None for values in of_rows):
            column = pa.nulls(len(table), schema.LOGPROBS.field(f"{model}_{name}").type)
        else:
            column = _nest(offsets, pa.array(np.concatenate([np.empty(0, np.float32), *of_rows])))
        table = table.append_column(f"{model}_{name}", column)
    return table


def logprobs_table(table: pa.Table) -> pa.Table:
    """The finished rows: token ids cut to the scored tokens, columns in the order of `schema.LOGPROBS`."""
    table = table.append_column("token_ids", _scored_ids(table, "policy"))
    if "reference_ids" in table.column_names:
        table = table.append_column("token_ids_reference", _scored_ids(table, "reference"))
    else:
        table = table.append_column("token_ids_reference", pa.nulls(len(table), pa.list_(_INTS)))
    return table.select(schema.LOGPROBS.names).cast(schema.LOGPROBS)


def _scored_ids(table: pa.Table, model: str) -> pa.ListArray:
    scored = [sequence.ids[sequence.positions] for sequence in sequences(table, model)]
    return _nest(_offsets(table, model), pa.array(np.concatenate([np.empty(0, np.int32), *scored])))


def _offsets(table: pa.Table, model: str) -> tuple[pa.Array, pa.Array]:
    """Offsets of rows into steps and of steps into scored tokens."""
    lengths = _arrays(table[f"{model}_step_lengths"])
    steps = np.cumsum([0, *(len(row) for row in lengths)])
    tokens = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])
    return pa.array(steps, pa.int32()), pa.array(tokens, pa.int32())


def _nest(offsets: tuple[pa.Array, pa.Array], values: pa.Array) -> pa.ListArray:
    steps, tokens = offsets
    assert tokens[-1].as_py() == len(values), "a step's per-token arrays share one length"
    return pa.ListArray.from_arrays(steps, pa.ListArray.from_arrays(tokens, values))


def _arrays(column: pa.ChunkedArray) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    return [row.values.to_numpy(zero_copy_only=False) for row in column]
