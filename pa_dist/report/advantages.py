"""Progress advantage with a row a token or a row a step, for those who read it from Python."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import schema
from pa_dist.errors import RunFolderError
from pa_dist.ragged import Bools, Floats, Ints, Tokens, column, is_valid, lengths, offsets, require_one_length, tokens
from pa_dist.reduce.block.methods import OTHER_TOKENS
from pa_dist.reduce.block.tables import IMPROBABLE, LOST, NOT_FINITE, REFERENCE_COLUMNS, in_order
from pa_dist.reduce.choice.differences import METHOD
from pa_dist.reduce.evaluated import evaluate_settings, further_references
from pa_dist.report.viewer.token_text import TokenText, policy_pieces
from pa_dist.runtime.targets import reference_target
from pa_dist.schema import against
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import locate

_ID = schema.KEYS[0]
_READ = [_ID.name, "step", "token_ids", "token_ids_reference", "truncated", "policy_logprob", "reference_logprob"]
_OF_STEPS = (_ID.name, "step", "agent", "n_tokens", "truncated", "label")
_REASONS = (NOT_FINITE, OTHER_TOKENS, IMPROBABLE, LOST)


def token_advantages(folder: RunFolder, trajectories: Sequence[str] | None = None) -> pa.Table:
    """A row for each token of an action that the policy scored.

    Columns: `trajectory_id`; `step`, the action's message index; `number`, the action's among the trajectory's, from 1;
    `place`, the token's in its action, and `place_of_all`, in all of the trajectory's, from 0; `token_id`; `text`, of
    which an action's are together what it says: where a character is spread over tokens, the first one has it;
    `policy_logprob`, `reference_logprob`; `advantage`, the run's beta times their difference; `reason`, why it is null.
    The last three are there for each further reference too, as `advantage@NAME`.

    Args:
      trajectories: the ids of those to read; all where null.

    Raises:
      RunFolderError: nothing is evaluated here, or a trajectory is not scored.
    """
    beta, pieces = evaluate_settings(folder).beta, policy_pieces(folder.manifest)
    if isinstance(pieces, str):
        warnings.warn(f"{folder}: {pieces}; `text` is null", stacklevel=4)
    tables_of = {name: reference_target(name).table for name in further_references(folder)}
    indexes = {name: locate(folder, table) for name, table in tables_of.items()}
    found = [_schema(list(indexes)).empty_table()]
    for block in _blocks(folder, "logprobs", _READ, trajectories):
        ids = block[_ID.name].to_pylist()
        theirs = {
            name: in_order(_chosen(folder, index.holding(ids), REFERENCE_COLUMNS, ids), block)
            for name, index in indexes.items()
        }
        found.append(_of_tokens(block, theirs, beta, pieces))
    return pa.concat_tables(found)


def step_advantages(folder: RunFolder, trajectories: Sequence[str] | None = None) -> pa.Table:
    """A row for each action: `trajectory_id`, `step` and `number` as `token_advantages` has them, `agent`, `n_tokens`,
    `truncated`, `label`; `advantage`, the mean of its tokens', and `advantage_sum`; `reason`, why they are null. The
    last three are there for each further reference too. Arguments and errors as of `token_advantages`."""
    evaluate_settings(folder)
    references = further_references(folder)
    names = {name: name for name in _OF_STEPS}
    for of in (None, *references):
        method = against(METHOD, of)
        names |= {f"{method}__mean": against("advantage", of), f"{method}__sum": against("advantage_sum", of)}
        names |= {against("reason", of): against("reason", of)}
    nothing = schema.steps(references).empty_table().select(list(names))
    blocks = (nothing, *_blocks(folder, "steps", list(names), trajectories))
    return pa.concat_tables([_numbered(block.rename_columns(list(names.values()))) for block in blocks])


def _numbered(steps: pa.Table) -> pa.Table:
    """With the number of each step among its trajectory's, which lie together."""
    ids, at = column(steps, _ID.name), np.arange(len(steps))
    first = np.full(len(steps), True)
    first[1:] = pc.not_equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))).to_numpy(zero_copy_only=False)
    number = 1 + at - np.maximum.accumulate(np.where(first, at, 0))
    return steps.add_column(2, "number", pa.array(number, pa.int32()))


def _blocks(
    folder: RunFolder, table: str, columns: Sequence[str], trajectories: Sequence[str] | None
) -> Iterator[pa.Table]:
    """A table's rows, or those of some trajectories, a file at a time."""
    if trajectories is None:
        yield from (_chosen(folder, [path], columns) for path in folder.parts(table))
        return
    ids = [trajectories] if isinstance(trajectories, str) else list(trajectories)
    index = locate(folder, table)
    if lost := next((key for key in ids if not index.holding([key])), None):
        raise RunFolderError(f"{folder}: trajectories: none with scored steps has the id {lost!r}")
    yield from (_chosen(folder, [path], columns, ids) for path in index.holding(ids))


def _chosen(
    folder: RunFolder, paths: Sequence[str], columns: Sequence[str], ids: Sequence[str] | None = None
) -> pa.Table:
    wanted = None if ids is None else pc.field(_ID.name).isin(pa.array(ids, pa.string()))
    if not paths:  # a reference that scored none of them
        return schema.REFERENCE.empty_table().select(columns)
    return folder.files(paths).to_table(columns=list(columns), filter=wanted)


def _of_tokens(block: pa.Table, theirs: Mapping[str, pa.Table], beta: float, pieces: TokenText | str) -> pa.Table:
    """A block's tokens; `theirs`: what further references say of the same rows."""
    step = column(block, "step")
    n_steps = lengths(step)
    ids, policy = (tokens(block, name, n_steps) for name in ("token_ids", "policy_logprob"))
    require_one_length(block, n_steps, {"token_ids": ids, "policy_logprob": policy})
    rows = np.repeat(np.arange(len(block)), n_steps)
    of_step, of_row = np.repeat(np.arange(len(rows)), ids.counts), np.repeat(rows, ids.counts)
    first_step, first_token, at = offsets(n_steps), offsets(ids.counts), np.arange(len(of_step))
    arrays = [
        column(block, _ID.name).take(pa.array(of_row)),
        step.flatten().take(pa.array(of_step)),
        pa.array(1 + of_step - first_step[of_row], pa.int32()),
        pa.array(at - first_token[of_step], pa.int32()),
        pa.array(at - first_token[first_step[of_row]], pa.int32()),
        pa.array(ids.values, pa.int32()),
        pa.array(_texts(column(block, "token_ids"), pieces, len(at)), pa.string()),
        _floats(_spread(policy, n_steps, ids.counts)).cast(pa.float32()),
    ]
    for table in (block, *theirs.values()):
        arrays += _compared(table, n_steps, ids, policy, beta)
    return pa.Table.from_arrays(arrays, schema=_schema(list(theirs)))


def _compared(table: pa.Table, n_steps: Ints, ids: Tokens, policy: Tokens, beta: float) -> list[pa.Array]:
    """Log-prob, advantage and reason by one reference, a token each; `table`: rows with its columns."""
    differs, lost = is_valid(column(table, "token_ids_reference")), ~is_valid(column(table, "reference_logprob"))
    found = tokens(table, "reference_logprob", n_steps)
    shared = replace(found, scored=found.scored & ~differs)
    require_one_length(table, n_steps, {"token_ids": ids, "reference_logprob": shared})
    reference = _spread(shared, n_steps, ids.counts)
    advantage = beta * (_spread(policy, n_steps, ids.counts) - reference)
    missing = ~(_there(policy, n_steps) & _there(found, n_steps))
    of_steps = (np.repeat(lost, n_steps), missing, np.repeat(differs, n_steps))
    why = np.select([np.isfinite(advantage), *(np.repeat(of, ids.counts) for of in of_steps)], [-1, 3, 2, 1], 0)
    reason = pa.array(_REASONS).take(pa.array(why, mask=why < 0))
    return [_floats(reference).cast(pa.float32()), _floats(advantage), reason]


def _there(found: Tokens, n_steps: Ints) -> Bools:
    """[steps] whether each has its tokens' values."""
    return found.given & np.repeat(found.scored, n_steps)


def _spread(found: Tokens, n_steps: Ints, counts: Ints) -> Floats:
    """A column's values at the tokens of all steps, of which there are `counts`; NaN where a step has none."""
    there = _there(found, n_steps)
    values = np.full(int(counts.sum()), np.nan)
    values[np.repeat(there, counts)] = found.values[np.repeat(there, found.counts)]
    return values


def _floats(values: Floats) -> pa.Array:
    """A float64 column, null where not finite."""
    return pa.array(values, mask=~np.isfinite(values))


def _texts(ids: pa.Array, pieces: TokenText | str, n_tokens: int) -> list[str | None]:
    """What each token of all steps says; of tokens that share a character the first says it."""
    if isinstance(pieces, str):
        return [None] * n_tokens
    cut = (piece for step in ids.flatten().to_pylist() for piece in pieces.cut(step or []))
    return [text for piece in cut for text in (piece.text, *[""] * (piece.n_tokens - 1))]


def _schema(references: Sequence[str]) -> pa.Schema:
    names = ("step", "number", "place", "place_of_all", "token_id")
    fields = [_ID, *(pa.field(name, pa.int32()) for name in names), pa.field("text", pa.string())]
    fields += [pa.field("policy_logprob", pa.float32())]
    of_reference = {"reference_logprob": pa.float32(), "advantage": pa.float64(), "reason": pa.string()}
    for of in (None, *references):
        fields += [pa.field(against(name, of), kind) for name, kind in of_reference.items()]
    return pa.schema(fields)
