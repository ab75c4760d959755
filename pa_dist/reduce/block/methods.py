"""The methods of METHOD.md as one table: what each reads, over which aggregations, and which way is better.

Preset `published` follows each method's own paper. Preset `paper` follows the released code of progress advantage: it
calls the mean top-k log-prob self-certainty, ranks DeepConf by *plus* that mean (flat distributions first, the opposite
of the published definition), and counts a step without tokens as 0.0: for methods of log-probs everywhere, for methods
of certainty in failure attribution alone, while UQ and best-of-N skip it. These are readings; on disk it stays null.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pa_dist.ragged import Bools, Floats
from pa_dist.schema import NONE, PREDICTORS, REWARD_PREDICTORS, STEP_AGGS, TOKEN_AGGS, against


@dataclass(frozen=True)
class StepColumns:
    """What the methods read: each per-token column aggregated to steps, [5, steps] in the order of `TOKEN_AGGS`.

    Attributes:
      tokens: policy_logprob, reference_logprob, policy_topk_logprob_mean, policy_entropy, policy_self_certainty.
      advantage: beta times (aggregated policy log-probs minus aggregated reference log-probs).
      advantage_per_token: the aggregated per-token beta * (policy - reference).
      n_tokens: [steps], those of the policy.
      empty: [steps], True where a step of a scored trajectory has no policy or no reference tokens.
      shared_tokens: [steps], False where the reference reads other tokens than the policy.
    """

    tokens: dict[str, Floats]
    advantage: Floats
    advantage_per_token: Floats
    n_tokens: Floats
    empty: Bools
    shared_tokens: Bools


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
      read: step values, [len(token_aggs), steps], NaN where a step has none.
      column: the policy's token column that it reads, where an engine may leave that one null.
      orientation: +1 where a higher value is the better trajectory, -1 where a lower one is.
      empty_is_zero: the preset counts a step without tokens as 0.0 instead of leaving it out.
      empty_is_zero_in_fa: the same, where steps are blamed.
      apart: the token aggregations that are defined where the reference reads other tokens than the policy.
      reference: the further reference that it reads; null reads the first, or none.
      attributes: whether the step values serve failure attribution; methods that fix their step aggregation share them
        with another method.
    """

    name: str
    read: Callable[[StepColumns], Floats]
    token_aggs: tuple[str, ...] = TOKEN_AGGS
    step_aggs: tuple[str, ...] = STEP_AGGS
    column: str = ""
    orientation: int = 1
    empty_is_zero: bool = False
    empty_is_zero_in_fa: bool = False
    apart: tuple[str, ...] = TOKEN_AGGS
    reference: str | None = None

    @property
    def compares(self) -> bool:
        """Whether it compares the models, so that it matters whether they read the same tokens."""
        return self.apart != TOKEN_AGGS

    @property
    def attributes(self) -> bool:
        return self.step_aggs == STEP_AGGS

    @property
    def predictors(self) -> tuple[str, ...]:
        return PREDICTORS

    def step_values(self, columns: StepColumns) -> Floats:
        """Step values under the preset's rule for empty steps, [len(token_aggs), steps]."""
        values = self.read(columns)
        if not self.empty_is_zero or not columns.empty.any():
            return values
        return np.where(columns.empty & columns.shared_tokens if self.compares else columns.empty, 0.0, values)

    def blamed_by(self, columns: StepColumns) -> Floats:
        """The same for failure attribution."""
        values = self.step_values(columns)
        if not self.empty_is_zero_in_fa or not columns.empty.any():
            return values
        return np.where(columns.empty & np.isnan(values), 0.0, values)


@dataclass(frozen=True)
class RewardMethod:
    """A reward model as a method. It has no tokens to aggregate, and no steps where it judges whole trajectories."""

    name: str
    judges_steps: bool
    orientation = 1
    token_aggs = (NONE,)

    @property
    def step_aggs(self) -> tuple[str, ...]:
        return STEP_AGGS if self.judges_steps else (NONE,)

    @property
    def attributes(self) -> bool:
        return self.judges_steps

    @property
    def predictors(self) -> tuple[str, ...]:
        return REWARD_PREDICTORS


@dataclass(frozen=True)
class Cell:
    """One column of `scores`."""

    method: str
    token_agg: str
    step_agg: str
    orientation: int

    @property
    def column(self) -> str:
        """Its name among the columns of `scores`."""
        return f"{self.method}__{self.token_agg}__{self.step_agg}"


def _topk(columns: StepColumns) -> Floats:
    return columns.tokens["policy_topk_logprob_mean"]


def _confidence(columns: StepColumns) -> Floats:
    """DeepConf's confidence at each token is minus the mean log-prob of the top k; then the tokens are aggregated."""
    mean, total, last, low, high = -_topk(columns)
    return np.stack([mean, total, last, high, low])  # the minimum of -x is minus the maximum of x


def _self_certainty(columns: StepColumns) -> Floats:
    return columns.tokens["policy_self_certainty"]


OF_REFERENCE = ("progress_advantage", "progress_advantage_per_token", "reference_logprob")

# What any score is to be held against: a trajectory's length alone. Whatever the data say, shorter is better.
_LENGTHS = tuple(
    Method(name, read, token_aggs=(NONE,), step_aggs=(NONE,), orientation=-1)
    for name, read in (
        ("fewest_steps", lambda c: np.ones((1, len(c.n_tokens)))),
        ("fewest_tokens", lambda c: c.n_tokens[None]),
    )
)
LENGTHS = tuple(method.name for method in _LENGTHS)


def methods(preset: str) -> tuple[Method, ...]:
    """The methods under a preset (`published` or `paper`), in the order of reports."""
    paper = preset == "paper"
    confidence = _topk if paper else _confidence
    return (
        Method("progress_advantage", lambda c: c.advantage, empty_is_zero=paper, apart=("sum",)),
        Method("progress_advantage_per_token", lambda c: c.advantage_per_token, empty_is_zero=paper, apart=()),
        Method("policy_logprob", lambda c: c.tokens["policy_logprob"], empty_is_zero=paper),
        Method("reference_logprob", lambda c: c.tokens["reference_logprob"], empty_is_zero=paper),
        Method("topk_logprob_mean", _topk, empty_is_zero_in_fa=paper),
        Method(
            "self_certainty",
            _topk if paper else _self_certainty,
            column="" if paper else "self_certainty",
            empty_is_zero_in_fa=paper,
        ),
        Method(
            "entropy",
            lambda c: c.tokens["policy_entropy"],
            column="entropy",
            orientation=-1,
            empty_is_zero_in_fa=paper,
        ),
        Method("deepconf_tail", confidence, step_aggs=("last",)),
        Method("deepconf_bottom10", confidence, step_aggs=("bottom10",)),
        Method(
            "perplexity",
            lambda c: np.exp(-c.tokens["policy_logprob"][:1]),
            token_aggs=("mean",),
            orientation=-1,
            empty_is_zero_in_fa=paper,
        ),
        Method(
            "sequence_probability",
            lambda c: np.exp(c.tokens["policy_logprob"][:2]),
            token_aggs=("mean", "sum"),
            step_aggs=("mean",),
        ),
        *_LENGTHS,
    )


def methods_against(preset: str, reference: str) -> list[Method]:
    """The methods that read a reference, of a further one: `progress_advantage@NAME`."""
    return [
        replace(method, name=against(method.name, reference), reference=reference)
        for method in methods(preset)
        if method.name in OF_REFERENCE
    ]


OTHER_TOKENS = "the models read this text as different tokens, of which only sums compare"
"""Why an advantage is null where there are log-probs."""

Lacking = Mapping[tuple[str, str], str]
"""The methods and token aggregations that nothing in a run has, and why."""


More = Sequence["Method | RewardMethod"]
"""What a run has beside the policy and its first reference: methods of further references, and reward models."""


def missing(
    preset: str, null_columns: Mapping[str, str], more: More = (), apart: Collection[str | None] = ()
) -> dict[tuple[str, str], str]:
    """What a run lacks: methods of a column that the engine left null, and comparisons of tokens that differ.

    Args:
      null_columns: names out of `schema.TOKEN_COLUMNS` with reasons, as the manifest has them.
      apart: the references that read every trajectory as different tokens than the policy; null is the first.
    """
    lacking = {}
    for method in own_methods(preset, more):
        for token_agg in method.token_aggs:
            if method.column in null_columns:
                lacking[method.name, token_agg] = null_columns[method.column]
            elif method.reference in apart and method.compares and token_agg not in method.apart:
                lacking[method.name, token_agg] = OTHER_TOKENS
    return lacking


def all_methods(preset: str, more: More) -> list[Method | RewardMethod]:
    """The methods under a preset, those of further references and the reward models, in the order of reports."""
    return [*methods(preset), *more]


def own_methods(preset: str, more: More) -> list[Method]:
    """The same without the reward models."""
    return [method for method in all_methods(preset, more) if isinstance(method, Method)]


def cells(preset: str, more: More = ()) -> list[Cell]:
    """Every METHOD__TOKENAGG__STEPAGG, in the order of the columns of `scores`."""
    return [
        Cell(method.name, token_agg, step_agg, method.orientation)
        for method in all_methods(preset, more)
        for token_agg in method.token_aggs
        for step_agg in method.step_aggs
    ]
