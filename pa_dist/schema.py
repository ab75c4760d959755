"""The Arrow schema of every table a run folder holds. Stages write with these and nothing else."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 4

# The token aggregations, step aggregations and FA predictors of METHOD.md, in the order reports show them.
TOKEN_AGGS = ("mean", "sum", "last", "min", "max")
STEP_AGGS = ("mean", "sum", "last", "max", "min", "bottom10")
PREDICTORS = ("min_cumulative", "sharpest_drop", "sharpest_abs_drop")
# The aggregation of what is not aggregated: reward models give a number a step, or one a trajectory.
NONE = "none"
# Of reward models that judge steps.
REWARD_PREDICTORS = (*PREDICTORS, "earliest_below")

TOOL_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("arguments", pa.string()),  # JSON; arguments that were not JSON are one JSON string
    ]
)
MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("name", pa.string()),
        ("content", pa.string()),
        ("reasoning", pa.string()),  # what the model thought before its content, where a log keeps it apart
        ("tool_calls", pa.list_(TOOL_CALL)),
        ("tool_call_id", pa.string()),
    ]
)

KEYS = [
    pa.field("trajectory_id", pa.string(), nullable=False),
    pa.field("benchmark", pa.string()),
    pa.field("domain", pa.string()),
    pa.field("task_id", pa.string()),
    pa.field("trial", pa.int32()),
    pa.field("behavior", pa.string()),
]
LABELS = [
    pa.field("reward", pa.float64()),
    pa.field("mistake_step", pa.int32()),
    pa.field("mistake_agent", pa.string()),
    pa.field("pair_id", pa.string()),  # of trajectories that differ in the action for one history: their last labelled
]
# Right, neutral or wrong, of each message; null where nobody said.
RIGHT, NEUTRAL, WRONG = 1, 0, -1
STEP_LABELS = pa.field("step_labels", pa.list_(pa.int8()))

# What `evaluate.labels` makes of the labels of the trajectories that it names: all of each, whoever said it.
JOINED = pa.schema([KEYS[0], *(field for field in LABELS if field.name != "pair_id"), STEP_LABELS])

TRAJECTORIES = pa.schema(
    [
        *KEYS,
        pa.field("messages", pa.list_(MESSAGE)),
        pa.field("system", pa.string()),  # a system message that a log keeps apart from `messages`
        pa.field("tools", pa.string()),  # JSON of the schemas offered to the agent
        *LABELS,
        pa.field("answer", pa.string()),  # what the trajectory came to, where a record says so
        STEP_LABELS,
        pa.field("extra", pa.string()),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("place", pa.string()),  # line 7, item 3, simulations.12, byte 4096
        pa.field("trajectory_id", pa.string()),  # set when the row was dropped after ingest
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

# What one forward pass leaves of each action token, per model. Only tokens that have a log-probability are kept: a
# sequence's first token has none, and a truncated step has lost some or all of its own.
TOKEN_COLUMNS = ("logprob", "topk_logprob_mean", "entropy", "self_certainty")
MODELS = ("policy", "reference")
_PER_TOKEN = pa.list_(pa.list_(pa.float32()))

LOGPROBS = pa.schema(
    [
        *KEYS,
        *LABELS,
        STEP_LABELS,
        pa.field("step", pa.list_(pa.int32())),  # message index of each action
        pa.field("agent", pa.list_(pa.string())),
        pa.field("text_hash", pa.list_(pa.string())),
        pa.field("truncated", pa.list_(pa.bool_())),  # some or all of the step's tokens were cut
        pa.field("token_ids", pa.list_(pa.list_(pa.int32()))),
        # Null where the reference reads the policy's own token ids.
        pa.field("token_ids_reference", pa.list_(pa.list_(pa.int32()))),
        *(pa.field(f"{model}_{column}", _PER_TOKEN) for model in MODELS for column in TOKEN_COLUMNS),
    ]
)

# What a further reference gives, for the same steps; the rest of a trajectory is in `logprobs`.
REFERENCE = pa.schema(
    [KEYS[0], *(field for field in LOGPROBS if field.name == "truncated" or "reference" in field.name)]
)


def _logprobs_encoding(models: Sequence[str]) -> dict[str, Any]:
    """Floats hardly repeat: a dictionary would make them larger, by half. Their exponents, put together, compress."""
    floats = [f"{model}_{column}.list.element.list.element" for model in models for column in TOKEN_COLUMNS]
    return {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": floats}


LOGPROBS_ENCODING, REFERENCE_ENCODING = _logprobs_encoding(MODELS), _logprobs_encoding(MODELS[1:])

# What a reward model says of each trajectory: one score, or one a step with how it was read.
REWARDS = pa.schema(
    [
        *KEYS,
        pa.field("score", pa.float64()),  # of the trajectory; null where steps are judged
        pa.field("step", pa.list_(pa.int32())),  # message index of each action; null where the trajectory is judged
        pa.field("step_score", pa.list_(pa.float64())),  # P(correct), null where the step was never judged
        pa.field("step_read", pa.list_(pa.string())),  # logprob, verdict, or null
        pa.field("step_reason", pa.list_(pa.string())),  # why the score is null
        pa.field("critique", pa.string()),  # what the scores were read from
        pa.field("n_tokens", pa.int32()),  # of what the model was shown
        pa.field("truncated", pa.bool_()),  # whether the trajectory was too long to be shown whole
    ]
)

STEPS = pa.schema(
    [
        *KEYS,
        pa.field("step", pa.int32()),
        pa.field("agent", pa.string()),
        pa.field("n_tokens", pa.int32()),
        pa.field("text_hash", pa.string()),
        pa.field("truncated", pa.bool_()),
        pa.field("label", pa.int8()),  # right, neutral or wrong; null where nobody said
        pa.field("reason", pa.string()),  # why the advantage is null
        *(pa.field(f"progress_advantage__{agg}", pa.float64()) for agg in TOKEN_AGGS),
        *(pa.field(f"progress_advantage_per_token__{agg}", pa.float64()) for agg in TOKEN_AGGS),
    ]
)


def against(name: str, reference: str | None) -> str:
    """What a method, or why its value is null, is called of a further reference."""
    return name if reference is None else f"{name}@{reference}"


def steps(references: Sequence[str] = ()) -> pa.Schema:
    """Schema of `steps`: `STEPS`, and for each further reference why its advantage is null, and its advantages."""
    advantages = ("progress_advantage", "progress_advantage_per_token")
    return pa.schema(
        [
            *STEPS,
            *(
                field
                for name in references
                for field in (
                    pa.field(against("reason", name), pa.string()),
                    *(pa.field(f"{against(of, name)}__{agg}", pa.float64()) for of in advantages for agg in TOKEN_AGGS),
                )
            ),
        ]
    )


def scores(columns: list[str]) -> pa.Schema:
    """Schema of `scores`: keys, labels, step counts and one float column per `METHOD__TOKENAGG__STEPAGG`."""
    # n_tokens: of all actions, as the policy's tokenizer has them; without what truncation cut.
    names = ("n_steps", "n_scored_steps", "n_tokens", "n_labelled_steps")
    counts = [pa.field(name, pa.int32()) for name in names]
    first_wrong = pa.field("first_wrong", pa.int32())  # the first message that `step_labels` have as wrong
    return pa.schema([*KEYS, *LABELS, first_wrong, *counts, *(pa.field(name, pa.float64()) for name in columns)])


# Shares of a trajectory's steps after which its score is kept.
PREFIX_SHARES = (0.25, 0.5, 0.75, 1.0)
# Of each running score: the steps, counted from 1, at which it is worse than ever before, and what it is there.
WORST_STEP, WORST = "worst_step", "worst"


def prefix_columns(method: str, k: Sequence[int]) -> list[str]:
    """A method's columns of `prefixes`: its score after each share of the steps in percent, and after k steps."""
    after = [*(f"share_{share:.0%}".rstrip("%") for share in PREFIX_SHARES), *(f"after_{t}" for t in k)]
    return [f"{method}__{name}" for name in after]


def prefixes(methods: Sequence[str], k: Sequence[int]) -> pa.Schema:
    """Schema of `prefixes`, of which the rows are those of `scores`."""
    fields = [KEYS[0], pa.field("n_steps", pa.int32())]
    for method in methods:
        fields += [pa.field(name, pa.float64()) for name in prefix_columns(method, k)]
        fields += [pa.field(f"{method}__{WORST_STEP}", pa.list_(pa.int32()))]
        fields += [pa.field(f"{method}__{WORST}", pa.list_(pa.float64()))]
    return pa.schema(fields)


_CELL = [pa.field("method", pa.string()), pa.field("token_agg", pa.string()), pa.field("step_agg", pa.string())]

# A group: what is measured together. Rollouts of several policies over the same tasks are no trials of one.
GROUP = [pa.field(name, pa.string()) for name in ("benchmark", "domain", "behavior")]

SELECTIONS = pa.schema(
    [
        *GROUP,
        pa.field("task_id", pa.string()),
        *_CELL,
        pa.field("n_trials", pa.int32()),
        pa.field("trajectory_id", pa.string()),
        pa.field("trial", pa.int32()),
        pa.field("score", pa.float64()),
        pa.field("reward", pa.float64()),
    ]
)

# A labelled message is no action; all tokens of the step were cut; it has no score for another reason.
UNREACHABLE = ("no action", "truncated", "not scored")

# What is written of a trajectory without a label, over each reference, a row a predictor: a labelled one has every
# method's every aggregation, some hundreds of rows, which for a large corpus would be too many.
HEADLINE = ("progress_advantage", "mean")
# Of fewer scored steps none is said to stand out.
FEWEST_STEPS = 5

ATTRIBUTIONS = pa.schema(
    [
        *KEYS,
        # Whether there is a `mistake_step`, or a step that `step_labels` have as wrong. Failure attribution measures
        # these; the others have rows of the cell `HEADLINE` alone, unless `evaluate.scenarios` names `fa`.
        pa.field("labelled", pa.bool_()),
        pa.field("mistake_step", pa.int32()),
        pa.field("mistake_agent", pa.string()),
        pa.field("method", pa.string()),
        pa.field("token_agg", pa.string()),
        pa.field("predictor", pa.string()),
        pa.field("step", pa.int32()),  # its message; null where no step could be read
        pa.field("number", pa.int32()),  # among the trajectory's actions, from 1, as the page, `show` and `top` have it
        pa.field("fallback", pa.bool_()),  # nothing pointed at a step: it is the tie rule's; null without a step
        # How far it stands out from the trajectory's scored steps: its value minus their median, over 1.4826 times the
        # median of their distances from that median; below zero where it is worse. About a z-score, but one odd step
        # does not hide itself. Null of fewer than `FEWEST_STEPS`, and where most of them are equal.
        pa.field("stands_out", pa.float64()),
        pa.field("agent", pa.string()),
        pa.field("label", pa.int8()),  # of the blamed step among `step_labels`
        # Why the labelled step has no score, so that no predictor can blame it (preset `paper` may, where it is cut):
        # `UNREACHABLE`; null where it has one, and without a label.
        pa.field("unreachable", pa.string()),
        pa.field("correct", pa.bool_()),  # null without a label
        pa.field("agent_correct", pa.bool_()),
    ]
)

METRICS = pa.schema(
    [
        pa.field("scenario", pa.string()),
        *GROUP,
        *_CELL,
        pa.field("predictor", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("at", pa.float64()),
        pa.field("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("note", pa.string()),
    ]
)

# What the choice of a cell is worth on other data, and progress advantage less each other method on the same
# trajectories; `reduce/choice/` says how.
COMPARISONS = pa.schema(
    [
        pa.field("scenario", pa.string()),
        *GROUP,
        # headline: chosen beforehand; cross_fitted: on other tasks' data; hindsight: on the rows themselves.
        pa.field("choice", pa.string()),
        *_CELL[:1],
        pa.field("against", pa.string()),  # null: the method's own figure; else it less that method's, or baseline's
        *_CELL[1:],
        pa.field("predictor", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("at", pa.float64()),
        pa.field("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("p_value", pa.float64()),  # two-sided, of a difference
        pa.field("p_holm", pa.float64()),  # the same, adjusted for all differences of its family
        pa.field("comparisons", pa.int64()),  # how many those are
        pa.field("n", pa.int64()),
        pa.field("note", pa.string()),
    ]
)
