"""One block of `logprobs` to its rows of `steps`, `scores` and `attributions`, and to what its labelled steps are held
against. A pure function on Arrow tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import (
    Bools,
    Floats,
    Ints,
    Tokens,
    column,
    is_valid,
    lengths,
    offsets,
    require_one_length,
    require_same,
    tokens,
)
from pa_dist.reduce.block.aggregate import Bucket, buckets, step_aggregates, token_aggregates, token_extremes
from pa_dist.reduce.block.methods import (
    OTHER_TOKENS,
    Method,
    RewardMethod,
    StepColumns,
    all_methods,
    cells,
    methods_against,
    own_methods,
)
from pa_dist.reduce.block.predictors import agent_matches, fell_back, predictions, stands_out
from pa_dist.reduce.block.prefixes import prefix_arrays
from pa_dist.reduce.block.rewards import Judged, of_steps, of_trajectories
from pa_dist.reduce.block.step_labels import StepLabels
from pa_dist.schema import TOKEN_AGGS

SUM = TOKEN_AGGS.index("sum")
_KEYS = [field.name for field in schema.KEYS]
_LABELS = [field.name for field in schema.LABELS]
NOT_FINITE = "a log-prob is not finite"
IMPROBABLE = "a model gives one of its tokens no probability"
LOST = "the reference did not score the trajectory; rejects say why"
_PER_STEP = ["agent", "text_hash", "truncated"]
_POLICY = [f"policy_{name}" for name in schema.TOKEN_COLUMNS]

REFERENCE_COLUMNS = ["trajectory_id", "truncated", "token_ids_reference", "reference_logprob"]
"""The columns of a further reference's table that a block needs."""
COLUMNS = [*_KEYS, *_LABELS, "step_labels", "step", *_PER_STEP, "token_ids_reference", *_POLICY, "reference_logprob"]
"""The columns of `logprobs` that a block needs."""


@dataclass(frozen=True)
class Reduced:
    """A block's rows of the tables, each with its schema of `pa_dist.schema`.

    Attributes:
      prefixes: none unless asked for.
      attributions: of the trajectories that take part in failure attribution.
      suspects: its rows of the others, of the cell `schema.HEADLINE` alone.
      labelled: of the steps that have a label, in the order of `scores`: it, and for each method that blames steps a
        column `METHOD__TOKENAGG` of its values, higher being better.
    """

    steps: pa.Table
    scores: pa.Table
    prefixes: pa.Table
    attributions: pa.Table
    suspects: pa.Table
    labelled: pa.Table


@dataclass(frozen=True)
class _Compared:
    """Steps by policy and one reference. `given`: which have log-probs of both models, if of no token; `lost`: which
    are of trajectories that the reference did not score."""

    columns: StepColumns
    given: Bools
    truncated: Bools
    lost: Bools


@dataclass(frozen=True)
class _Steps:
    """A block's steps, flat. `compared`: with each reference, null being the first. `layouts` remembers how the valid
    steps of each mask are laid out: methods share masks."""

    n_steps: Ints
    step: pa.Array
    labels: StepLabels
    per_step: dict[str, pa.Array]
    n_tokens: Ints
    compared: dict[str | None, _Compared]
    layouts: dict[bytes, list[Bucket]]

    @property
    def columns(self) -> StepColumns:
        """Of the first reference."""
        return self.compared[None].columns

    def read_by(self, method: Method) -> StepColumns:
        """What a method reads."""
        return self.compared[method.reference].columns

    @property
    def rows(self) -> Ints:
        """The trajectory of each step."""
        return np.repeat(np.arange(len(self.n_steps)), self.n_steps)

    def layout(self, valid: Bools) -> list[Bucket]:
        key = np.packbits(valid).tobytes()
        if key not in self.layouts:
            self.layouts[key] = buckets(valid, offsets(self.n_steps))
        return self.layouts[key]


def reduce_block(
    table: pa.Table,
    settings: Evaluate,
    missing: Collection[str] = (),
    judged: Sequence[Judged] = (),
    references: Mapping[str, pa.Table] | None = None,
) -> Reduced:
    """Reduce trajectories to steps, scores and blamed steps.

    Args:
      table: rows of `logprobs`, at least `COLUMNS`; any chunks or slices.
      settings: preset and beta; `fa` among the scenarios attributes unlabelled trajectories too.
      missing: methods whose column is null: their scores are null, and they blame no step.
      judged: what reward models say of these trajectories, and perhaps of others.
      references: the same of further references, by name: rows of `schema.REFERENCE`, at least `REFERENCE_COLUMNS`.

    Raises:
      PaDistError: lists of a trajectory that disagree about its steps or tokens; names the trajectory.
    """
    steps = _read(table, references or {}, settings.beta)
    more: list[Method | RewardMethod] = [
        of for name in references or {} for of in methods_against(settings.preset, name)
    ]
    values = [method.step_values(steps.read_by(method)) for method in own_methods(settings.preset, more)]
    values += [_judged_steps(table, steps, of) for of in judged]
    more += [of.method for of in judged]
    readings = list(zip(all_methods(settings.preset, more), values, strict=True))
    whole = {of.method.name: of_trajectories(table, of) for of in judged if not of.method.judges_steps}
    columns = [cell.column for cell in cells(settings.preset, more)]
    blaming = [(method, read) for method, read in readings if method.attributes and method.name not in missing]
    labelled = is_valid(column(table, "mistake_step")) | (steps.labels.first_wrong >= 0)
    taking_part = np.full(len(table), True) if "fa" in settings.scenarios else labelled
    headline = [of for of in blaming if isinstance(of[0], Method) and _is_headline(of[0])]
    return Reduced(
        _steps_table(table, steps),
        _scores_table(table, steps, readings, whole, columns),
        _prefixes_table(table, steps, [r for r in readings if r[0].name not in whole], settings),
        _attributions_table(table, steps, blaming, taking_part, settings),
        _attributions_table(table, steps, headline, ~taking_part, settings, schema.HEADLINE[1:]),
        _labelled_table(steps, blaming),
    )


def _is_headline(method: Method) -> bool:
    return method.name == schema.against(schema.HEADLINE[0], method.reference)


def _judged_steps(table: pa.Table, steps: _Steps, judged: Judged) -> Floats:
    """A reward model's step values, [1, steps]; none where it judges whole trajectories."""
    if not judged.method.judges_steps:
        return np.full((1, len(steps.step)), np.nan)
    return of_steps(table, steps.n_steps, steps.step, judged)[None]


def _read(table: pa.Table, references: Mapping[str, pa.Table], beta: float) -> _Steps:
    step = column(table, "step")
    n_steps = lengths(step)
    per_step = {}
    for name in _PER_STEP:
        lists = column(table, name)
        require_same(table, lengths(lists), n_steps, f"{name} has", "entries")
        per_step[name] = lists.flatten()
    policy = {name: tokens(table, name, n_steps) for name in _POLICY}
    require_one_length(table, n_steps, policy)
    # One column may lack a step that the others have.
    n_tokens = np.maximum.reduce([of.counts for of in policy.values()])
    aggregated = {name: token_aggregates(of.values, of.counts) for name, of in policy.items()}
    by_reference: dict[str | None, pa.Table] = {
        None: table,
        **{name: in_order(theirs, table) for name, theirs in references.items()},
    }
    compared = {
        name: _compare(theirs, n_steps, n_tokens, policy["policy_logprob"], aggregated, beta)
        for name, theirs in by_reference.items()
    }
    rows = np.repeat(np.arange(len(table)), n_steps)
    labels = StepLabels.of(table, rows, step.flatten().fill_null(-1).to_numpy(zero_copy_only=False))
    return _Steps(n_steps, step.flatten(), labels, per_step, n_tokens, compared, {})


def in_order(theirs: pa.Table, table: pa.Table) -> pa.Table:
    """A further reference's rows as those of a block lie; null where it scored none."""
    at = pc.index_in(column(table, "trajectory_id"), value_set=column(theirs, "trajectory_id"))
    found = theirs.select(REFERENCE_COLUMNS[1:]).take(at).add_column(0, "trajectory_id", table["trajectory_id"])
    truncated = pc.if_else(at.is_valid(), column(found, "truncated"), column(table, "truncated"))
    return found.set_column(1, "truncated", truncated)


def _compare(
    theirs: pa.Table, n_steps: Ints, n_tokens: Ints, policy: Tokens, aggregated: Mapping[str, Floats], beta: float
) -> _Compared:
    """Steps by the policy and one reference; `theirs`: rows with its `REFERENCE_COLUMNS`."""
    reference, flags = tokens(theirs, "reference_logprob", n_steps), column(theirs, "truncated")
    differs = is_valid(column(theirs, "token_ids_reference"))
    paired = Tokens(reference.values, reference.counts, reference.scored & ~differs, reference.given)
    require_one_length(theirs, n_steps, {"policy_logprob": policy, "reference_logprob": paired})
    require_same(theirs, lengths(flags), n_steps, "truncated has", "entries")
    truncated = flags.flatten().fill_null(False).to_numpy(zero_copy_only=False)
    columns = _step_columns(
        policy, reference, aggregated, np.repeat(~differs, n_steps), truncated, n_steps, n_tokens, beta
    )
    lost = np.repeat(~is_valid(column(theirs, "reference_logprob")), n_steps)
    return _Compared(columns, policy.given & reference.given, truncated, lost)


def _step_columns(
    policy: Tokens,
    reference: Tokens,
    aggregated: Mapping[str, Floats],
    shared: Bools,
    truncated: Bools,
    n_steps: Ints,
    n_tokens: Ints,
    beta: float,
) -> StepColumns:
    aggregated = {**aggregated, "reference_logprob": token_aggregates(reference.values, reference.counts)}
    advantage = beta * (aggregated["policy_logprob"] - aggregated["reference_logprob"])
    # Of other tokens of one text only the sums compare, and only where none of its text was cut for one model alone.
    advantage[[i for i in range(len(TOKEN_AGGS)) if i != SUM]] += np.where(shared, 0.0, np.nan)
    advantage[SUM] += np.where(shared | ~truncated, 0.0, np.nan)
    scored = np.repeat(policy.scored & reference.scored, n_steps) & policy.given & reference.given
    return StepColumns(
        tokens=aggregated,
        advantage=advantage,
        advantage_per_token=_per_token(policy, reference, advantage, scored & shared, beta),
        n_tokens=np.where(policy.given, n_tokens, np.nan),
        empty=scored & ((policy.counts == 0) | (reference.counts == 0)),
        shared_tokens=shared,
    )


def _per_token(policy: Tokens, reference: Tokens, advantage: Floats, comparable: Bools, beta: float) -> Floats:
    """Aggregate beta * (policy - reference) of each token, [5, steps]; NaN where the tokens are not the same."""
    counts = np.where(comparable, policy.counts, 0)
    ratio = np.subtract(_of_steps(policy, comparable), _of_steps(reference, comparable), dtype=np.float64)
    # Mean, sum and last are linear, so they are the advantage's own; minimum and maximum are not.
    return np.concatenate([np.where(comparable, advantage[:3], np.nan), beta * token_extremes(ratio, counts)])


def _of_steps(column: Tokens, chosen: Bools) -> NDArray[np.float32]:
    return column.values if chosen.all() else column.values[np.repeat(chosen, column.counts)]


def _valid(values: Floats) -> Bools:
    """Steps whose values can be used: a token that is not finite spoils every aggregation of its step.

    Where the models read other tokens the sum alone is defined, and the others, NaN, stay so in what is made of them.
    """
    valid: Bools = np.logical_and.reduce(np.isfinite(values), axis=0)
    if len(values) == len(TOKEN_AGGS):
        others = np.isnan(np.delete(values, SUM, axis=0)).all(axis=0)
        valid |= np.isfinite(values[SUM]) & others
    return valid


def _floats(values: Floats) -> pa.Array:
    """A float64 column, null where not finite."""
    finite = np.isfinite(values)
    return pa.array(values) if finite.all() else pa.array(values, mask=~finite)


def _steps_table(table: pa.Table, steps: _Steps) -> pa.Table:
    rows = pa.array(steps.rows)
    arrays = [column(table, name).take(rows) for name in _KEYS]
    arrays += [steps.step, steps.per_step["agent"], pa.array(steps.n_tokens, pa.int32())]
    arrays += [steps.per_step["text_hash"], steps.per_step["truncated"]]
    arrays += [steps.labels.at(np.arange(len(steps.step)))]
    for of in steps.compared.values():
        advantages = of.columns.advantage, of.columns.advantage_per_token
        usable = [np.where(_valid(each), each, np.nan) for each in advantages]
        arrays += [_reasons(of), *(_floats(values) for each in usable for values in each)]
    return pa.Table.from_arrays(arrays, schema=schema.steps([name for name in steps.compared if name]))


def _reasons(compared: _Compared) -> pa.Array:
    """Why each step's advantage is null; null where it is not."""
    columns = compared.columns
    missing = np.isnan(columns.tokens["policy_logprob"][0]) | np.isnan(columns.tokens["reference_logprob"][0])
    why = np.full(len(missing), -1)
    why[~_valid(columns.advantage)] = 2
    why[~columns.shared_tokens] = 3
    why[missing] = np.where(compared.given, np.where(compared.truncated, 0, 1), 4)[missing]
    why[compared.lost] = 5
    reasons = ["truncated", "no token has a log-prob", NOT_FINITE, OTHER_TOKENS, IMPROBABLE, LOST]
    names = pa.array(reasons)
    return names.take(pa.array(why, mask=why < 0))


_Reading = tuple[Method | RewardMethod, Floats]
"""A method, and its step values, [len(token_aggs), steps]."""


def _scores_table(
    table: pa.Table, steps: _Steps, readings: Sequence[_Reading], whole: dict[str, Floats], columns: list[str]
) -> pa.Table:
    """`whole`: the scores of methods that judge whole trajectories, by name."""
    n_rows = len(table)
    scored = np.bincount(steps.rows, weights=_valid(steps.columns.advantage), minlength=n_rows)
    labelled = np.bincount(steps.rows, weights=steps.labels.known, minlength=n_rows)
    arrays = [column(table, name) for name in [*_KEYS, *_LABELS]]
    n_tokens = np.bincount(steps.rows, weights=steps.n_tokens, minlength=n_rows)
    arrays += [steps.labels.first_wrong_or_null]
    arrays += [pa.array(of.astype(np.int32)) for of in (steps.n_steps, scored, n_tokens, labelled)]
    for method, read in readings:
        if method.name in whole:
            arrays.append(_floats(whole[method.name]))
            continue
        aggregated = step_aggregates(read, steps.layout(_valid(read)), n_rows, method.step_aggs)
        arrays += [_floats(score) for of_token_agg in aggregated for score in of_token_agg]
    return pa.Table.from_arrays(arrays, schema=schema.scores(columns))


def _prefixes_table(table: pa.Table, steps: _Steps, readings: Sequence[_Reading], settings: Evaluate) -> pa.Table:
    """A row a trajectory, of methods that have steps."""
    of = schema.prefixes([method.name for method, _ in readings], settings.prefix_steps)
    if not {"auto", "prefix"} & set(settings.scenarios):
        return of.empty_table()
    arrays = [column(table, "trajectory_id"), pa.array(steps.n_steps, pa.int32())]
    for method, read in readings:
        valid = _valid(read)
        arrays += prefix_arrays(
            read[0],
            steps.layout(valid),
            valid,
            steps.n_steps,
            agg=method.step_aggs[0],
            orientation=method.orientation,
            k=settings.prefix_steps,
        )
    return pa.Table.from_arrays(arrays, schema=of)


@dataclass(frozen=True)
class _Labels:
    """A block's labelled steps: which of the flat steps they are, and whether all of a step's tokens were cut."""

    rows: Ints
    labelled: Bools
    at_label: Bools
    cut: Bools

    @staticmethod
    def of(table: pa.Table, steps: _Steps) -> "_Labels":
        mistake = column(table, "mistake_step")
        rows = steps.rows
        # Message indexes are not negative: what is null equals nothing.
        label = mistake.fill_null(-1).to_numpy(zero_copy_only=False)[rows]
        at_label = steps.step.fill_null(-2).to_numpy(zero_copy_only=False) == label
        truncated = steps.per_step["truncated"].fill_null(False).to_numpy(zero_copy_only=False)
        return _Labels(rows, is_valid(mistake), at_label, truncated & (steps.n_tokens == 0))

    def unreachable(self, scored: Bools) -> Ints:
        """Why each trajectory's label cannot be hit, a place in `schema.UNREACHABLE`; -1 where it can, or is none.

        Args:
          scored: [steps] those that a method has a score of.
        """
        acted, cut, known = (
            np.bincount(self.rows, weights=self.at_label & of, minlength=len(self.labelled)) > 0
            for of in (np.True_, self.cut, scored)
        )
        return np.select([~self.labelled | known, ~acted, cut], [-1, 0, 1], 2)


def _attributions_table(
    table: pa.Table,
    steps: _Steps,
    readings: Sequence[_Reading],
    chosen: Bools,
    settings: Evaluate,
    token_aggs: Sequence[str] | None = None,
) -> pa.Table:
    """One row per chosen trajectory, method, token aggregation (null: all) and predictor, cell after cell."""
    rows = np.flatnonzero(chosen)
    if not len(rows) or not readings:
        return schema.ATTRIBUTIONS.empty_table()
    wanted = np.repeat(chosen, steps.n_steps)
    labels = _Labels.of(table, steps)
    blamed, fallback, out, why, names = [], [], [], [], []
    for method, read in readings:
        if isinstance(method, RewardMethod):
            # Predictors take zero for where a step turns wrong.
            scored, read = _valid(read), read - settings.reward_threshold
        else:
            columns = steps.read_by(method)
            scored, read = _valid(method.read(columns)), method.blamed_by(columns)
        layout = steps.layout(_valid(read) & wanted)
        aggs = [agg for agg in method.token_aggs if token_aggs is None or agg in token_aggs]
        oriented = method.orientation * read[[method.token_aggs.index(agg) for agg in aggs]]
        places = predictions(oriented, layout, len(table), method.predictors)
        blamed.append(places[..., rows].reshape(-1, len(rows)))
        fell = fell_back(oriented, places, layout, method.predictors)
        fallback.append(fell[..., rows].reshape(-1, len(rows)))
        out.append(stands_out(oriented, places, layout)[..., rows].reshape(-1, len(rows)))
        cells = [(method.name, agg, predictor) for agg in aggs for predictor in method.predictors]
        why.append(np.tile(labels.unreachable(scored)[rows], (len(cells), 1)))
        names += cells
    found = np.concatenate(blamed), np.concatenate(fallback), np.concatenate(out), np.concatenate(why)
    return _attribution_rows(table, steps, rows, *found, names)


def _labelled_table(steps: _Steps, readings: Sequence[_Reading]) -> pa.Table:
    chosen = np.flatnonzero(steps.labels.known)
    columns = {"label": steps.labels.at(chosen)}
    for method, read in readings:
        values = (read if isinstance(method, RewardMethod) else method.blamed_by(steps.read_by(method)))[:, chosen]
        values = np.where(_valid(values), method.orientation * values, np.nan)
        columns |= {f"{method.name}__{agg}": _floats(of) for agg, of in zip(method.token_aggs, values, strict=True)}
    return pa.table(columns)


def _attribution_rows(
    table: pa.Table,
    steps: _Steps,
    rows: Ints,
    blamed: Ints,
    fallback: Bools,
    out: Floats,
    unreachable: Ints,
    names: list[tuple[str, str, str]],
) -> pa.Table:
    n_cells = len(blamed)
    picked = table.select([*_KEYS, "mistake_step", "mistake_agent"]).take(pa.array(rows))
    keys = [pa.concat_arrays([column(picked, name)] * n_cells) for name in picked.column_names]
    labelled = is_valid(column(picked, "mistake_step")) | (steps.labels.first_wrong[rows] >= 0)
    keys.insert(len(_KEYS), pa.array(np.tile(labelled, n_cells)))
    cell = [pa.concat_arrays([pa.repeat(part, len(rows)) for part in parts]) for parts in zip(*names, strict=True)]
    flat = blamed.reshape(-1)
    none = flat < 0
    where = pa.array(flat, mask=none)
    step, agent = steps.step.take(where), steps.per_step["agent"].take(where)
    number = flat - np.tile(offsets(steps.n_steps)[rows], n_cells) + 1
    mistake = column(picked, "mistake_step")
    # The last entry of each is what position -1, no step, reads.
    messages = np.append(steps.step.fill_null(-1).to_numpy(zero_copy_only=False), -1)
    is_step = messages[blamed] == mistake.fill_null(-1).to_numpy(zero_copy_only=False)
    labels = column(table, "mistake_agent").take(pa.array(steps.rows))
    matches = np.append(agent_matches(steps.per_step["agent"], labels), False)[blamed]
    correct = _verdict(is_step.reshape(-1) & ~none, np.tile(is_valid(mistake), n_cells))
    agent_correct = _verdict(matches.reshape(-1) & ~none, np.tile(is_valid(column(picked, "mistake_agent")), n_cells))
    fell = pa.array(fallback.reshape(-1), mask=none)
    code = unreachable.reshape(-1)
    why = pa.array(schema.UNREACHABLE).take(pa.array(code, mask=code < 0))
    told = [step, pa.array(number, pa.int32(), mask=none), fell, _floats(out.reshape(-1))]
    arrays = [*keys, *cell, *told, agent, steps.labels.at(flat), why, correct, agent_correct]
    return pa.Table.from_arrays(arrays, schema=schema.ATTRIBUTIONS)


def _verdict(right: Bools, labelled: Bools) -> pa.Array:
    return pa.array(right, mask=~labelled)
