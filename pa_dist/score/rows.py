"""Between Arrow tables and engines: trajectories in, token rows between, log-prob columns out. No Ray, no model."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.engine.protocol import TokenColumns, TokenRow, TokenSequence
from pa_dist.errors import fault
from pa_dist.render.chat import MARK, ChatTemplate
from pa_dist.render.plain import ActionRule, action_rule, render
from pa_dist.render.unrenderable import Unrenderable
from pa_dist.runtime.attempts import Outcome, reason
from pa_dist.score.tokenize import TokenizedTrajectory, tokenize, tokenize_chat

_INTS = pa.list_(pa.int32())
_KEYS_AND_LABELS = [*schema.KEYS, *schema.LABELS, schema.STEP_LABELS]
READS = (*(field.name for field in _KEYS_AND_LABELS), "messages")
"""Columns of `trajectories`; a chat template reads `CHAT_READS` too."""
CHAT_READS = ("system", "tools")
_STEP_COLUMNS = [schema.LOGPROBS.field(name) for name in ("step", "agent", "text_hash", "truncated")]


def token_fields(model: str) -> list[pa.Field]:
    """Columns that carry one model's token sequence through the pipeline."""
    return [pa.field(f"{model}_{name}", _INTS) for name in ("ids", "positions", "step_lengths", "lengths")]


def tokens_schema(shared: bool) -> pa.Schema:
    """What the tokeniser gives the actors; the reference has columns of its own unless the tokens are shared."""
    models = schema.MODELS[:1] if shared else schema.MODELS
    return pa.schema([*_KEYS_AND_LABELS, *_STEP_COLUMNS, *(f for model in models for f in token_fields(model))])


def tokenize_rows(
    trajectories: pa.Table,
    tokenizers: Sequence[Any],
    vocabularies: Sequence[int],
    rule: ActionRule,
    max_length: int,
    templates: Sequence[ChatTemplate] = (),
) -> tuple[pa.Table, pa.Table]:
    """Render and tokenise a block of `trajectories`.

    Args:
      tokenizers: the policy's, and the reference's if it is another one or reads another text.
      vocabularies: of each tokenizer, the number of tokens that the models reading it know.
      templates: of each tokenizer, the chat template to render with; none for the plain rendering.

    Returns:
      A table of `tokens_schema`, and the rows that cannot be scored as a table of `rejects`.
    """
    rows: list[dict[str, Any]] = []
    lost: dict[str, str] = {}
    keep = {field.name for field in _KEYS_AND_LABELS}
    for row in trajectories.to_pylist():
        try:
            which = action_rule(rule, row["benchmark"])
            if templates:
                actions, tokenized = _chat(row, which, templates, tokenizers, max_length)
            else:
                actions, tokenized = _plain(row, which, tokenizers, max_length)
            _check_vocabulary(tokenized, vocabularies)
        except Unrenderable as error:
            lost[row["trajectory_id"]] = str(error)
            continue
        except BaseException as raised:  # a tokenizer may be anybody's; one row must not stop the run
            lost[row["trajectory_id"]] = reason(fault(raised))
            continue
        carried = [_carry(model, t) for model, t in zip(schema.MODELS, tokenized, strict=False)]
        rows.append(
            {
                **{name: value for name, value in row.items() if name in keep},
                "step": actions.steps,
                "agent": actions.agents,
                "text_hash": [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in actions.texts],
                "truncated": [any(flags) for flags in zip(*(t.truncated for t in tokenized), strict=True)],
                **{name: value for columns in carried for name, value in columns.items()},
            }
        )
    return pa.Table.from_pylist(rows, tokens_schema(shared=len(tokenizers) == 1)), reject_rows(lost)


class _Actions(NamedTuple):
    steps: list[int]
    agents: list[str]
    texts: list[str]


_NO_ACTION = "no message is an action"


def _plain(
    row: dict[str, Any], rule: Literal["assistant", "non_blank"], tokenizers: Sequence[Any], max_length: int
) -> tuple[_Actions, list[TokenizedTrajectory]]:
    rendered = render(row["messages"], rule)
    if not rendered.actions:
        raise Unrenderable(_NO_ACTION)
    actions = _Actions(rendered.actions, rendered.agents, [rendered.texts[i] for i in rendered.actions])
    return actions, [tokenize(rendered, tokenizer, max_length) for tokenizer in tokenizers]


def _chat(
    row: dict[str, Any],
    rule: Literal["assistant", "non_blank"],
    templates: Sequence[ChatTemplate],
    tokenizers: Sequence[Any],
    max_length: int,
) -> tuple[_Actions, list[TokenizedTrajectory]]:
    if rule == "non_blank":
        raise Unrenderable("a chat template knows the assistant's actions only; render.style=plain knows any agent's")
    rendered = [template.render(row["messages"], row.get("tools"), row.get("system")) for template in templates]
    steps, texts = rendered[0].steps, rendered[0].texts
    if not steps:
        raise Unrenderable(_NO_ACTION)
    said = [text.texts[i].replace(MARK, "") for text in texts for i in text.actions]
    actions = _Actions(steps, [agent for text in texts for agent in text.agents], said)
    pairs = zip(rendered, tokenizers, strict=True)
    return actions, [tokenize_chat(chat, tokenizer, max_length) for chat, tokenizer in pairs]


def _check_vocabulary(tokenized: Sequence[TokenizedTrajectory], vocabularies: Sequence[int]) -> None:
    for trajectory, known in zip(tokenized, vocabularies, strict=False):
        if (token := trajectory.sequence.ids.max()) >= known:
            raise Unrenderable(f"token id {token} is outside the model's vocabulary of {known}")


def _carry(model: str, tokenized: TokenizedTrajectory) -> dict[str, Any]:
    return {
        f"{model}_ids": tokenized.sequence.ids,
        f"{model}_positions": tokenized.sequence.positions,
        f"{model}_step_lengths": tokenized.step_lengths,
        f"{model}_lengths": tokenized.lengths,
    }


def reject_rows(reasons: Mapping[str, str]) -> pa.Table:
    """Rows of `rejects`, from why each trajectory is one."""
    rows = [
        {"source": "trajectories", "place": key, "trajectory_id": key, "stage": "score", "reason": why}
        for key, why in reasons.items()
    ]
    return pa.Table.from_pylist(rows, schema.REJECTS)


def left_in(rejects: pa.Table, stage: str) -> pa.Table:
    """The same of a further reference: its id is its place only, for the trajectory stays in the run."""
    rejects = rejects.set_column(2, schema.REJECTS.field("trajectory_id"), pa.nulls(len(rejects), pa.string()))
    return rejects.set_column(3, schema.REJECTS.field("stage"), pa.repeat(stage, len(rejects)))


def sequences(table: pa.Table, model: str) -> list[TokenSequence]:
    """One model's token sequences of a table of `tokens_schema`, all rows'."""
    return [sequence for row in token_rows(table, model) for sequence in row.sequences()]


def token_rows(table: pa.Table, model: str) -> list[TokenRow]:
    """One model's token sequences of a table of `tokens_schema`, row by row."""
    columns = (_arrays(table[f"{model}_{name}"]) for name in ("ids", "positions", "lengths"))
    return [TokenRow(*arrays) for arrays in zip(*columns, strict=True)]


def split_lost(
    table: pa.Table, model: str, outcomes: Sequence[Outcome]
) -> tuple[pa.Table, list[TokenColumns], pa.Table]:
    """The rows that a model scored with their columns, and the others as a table of `rejects`."""
    ids = table["trajectory_id"].to_pylist()
    lost = {i: f"{model}: {why}" for i, why in zip(ids, outcomes, strict=True) if isinstance(why, str)}
    columns = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    scored = pa.array([not isinstance(outcome, str) for outcome in outcomes], pa.bool_())
    return table.filter(scored), columns, reject_rows(lost)


def with_columns(table: pa.Table, model: str, tokens: str, columns: Sequence[TokenColumns]) -> pa.Table:
    """Append one model's log-prob columns. Of those that a row lacks every step is null, and so is the log-prob of a
    step that holds a token without any probability.

    Args:
      model: whose columns, `policy` or `reference`.
      tokens: whose token columns were scored, `policy` where they are shared.
    """
    offsets = _offsets(table, tokens)
    for name in schema.TOKEN_COLUMNS:
        of_rows = [getattr(c, name) for c in columns]
        there = [values is not None for values in of_rows]
        filled = [np.empty(0, np.float32), *(values for values in of_rows if values is not None)]
        table = table.append_column(f"{model}_{name}", _numbers(offsets, np.concatenate(filled), there))
    return table


def logprobs_table(table: pa.Table, of: pa.Schema = schema.LOGPROBS) -> pa.Table:
    """The finished rows: token ids cut to the scored tokens, columns in the order of the schema."""
    table = table.append_column("token_ids", _scored_ids(table, "policy"))
    if "reference_ids" in table.column_names:
        # Two tokenizers may well agree on a text.
        theirs = _scored_ids(table, "reference")
        alike = [a == b for a, b in zip(table["token_ids"].to_pylist(), theirs.to_pylist(), strict=True)]
        table = table.append_column("token_ids_reference", pc.if_else(pa.array(alike, pa.bool_()), None, theirs))
    else:
        table = table.append_column("token_ids_reference", pa.nulls(len(table), pa.list_(_INTS)))
    # Rows were made one at a time; each chunk would become a row group of its own, with all columns' statistics.
    return table.select(of.names).cast(of).combine_chunks()


def _scored_ids(table: pa.Table, model: str) -> pa.ListArray:
    scored = [row.ids[row.positions] for row in token_rows(table, model)]
    return _nest(_offsets(table, model), pa.array(np.concatenate([np.empty(0, np.int32), *scored])))


def _offsets(table: pa.Table, model: str) -> tuple[pa.Array, pa.Array]:
    """Offsets of rows into steps and of steps into scored tokens."""
    lengths = _arrays(table[f"{model}_step_lengths"])
    steps = np.cumsum([0, *(len(row) for row in lengths)])
    tokens = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])
    return pa.array(steps, pa.int32()), pa.array(tokens, pa.int32())


def _numbers(
    offsets: tuple[pa.Array, pa.Array], values: np.ndarray[Any, np.dtype[np.float32]], there: Sequence[bool]
) -> pa.ListArray:
    """Values as steps of rows; a step that holds one which is not finite is null.

    Args:
      there: of each row, whether its values are among them; each step of the others is null.
    """
    steps, tokens = offsets
    given, finite = np.repeat(np.array(there, np.bool_), np.diff(steps.to_numpy())), np.isfinite(values)
    if given.all() and finite.all():
        return _nest(offsets, pa.array(values))
    counts = np.where(given, np.diff(tokens.to_numpy()), 0)
    step = np.repeat(np.arange(len(counts)), counts)
    given[step[~finite]] = False
    ends = np.cumsum(np.where(given, counts, 0))
    tokens = pa.array(np.concatenate([[0], ends]), pa.int32(), mask=np.append(~given, False))
    return _nest((steps, tokens), pa.array(values[given[step]]))


def _nest(offsets: tuple[pa.Array, pa.Array], values: pa.Array) -> pa.ListArray:
    """Values as steps of rows."""
    steps, tokens = offsets
    assert tokens[-1].as_py() == len(values), "a step's per-token arrays share one length"
    return pa.ListArray.from_arrays(steps, pa.ListArray.from_arrays(tokens, values))


def _arrays(column: pa.ChunkedArray) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    return [row.values.to_numpy(zero_copy_only=False) for row in column]
