"""Between Arrow tables and reward models: trajectories in, prompts between, rows of `rewards` out. No Ray, no model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pa_dist import schema
from pa_dist.config import RewardModel, ThinkPRM
from pa_dist.errors import fault, first_line
from pa_dist.render.plain import ActionRule, Rendered, action_rule, render
from pa_dist.reward_models.prompts import SATISFACTION, VERIFY, Prompt, Show
from pa_dist.reward_models.verdicts import Critique, judge
from pa_dist.runtime.attempts import reason

_KEYS = [field.name for field in schema.KEYS]
READS = (*_KEYS, "messages", "extra")
"""Columns of `trajectories`."""
PROMPTS = pa.schema(
    [
        *schema.KEYS,
        pa.field("step", pa.list_(pa.int32())),
        pa.field("first_step", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("ids", pa.list_(pa.int32())),
    ]
)


def prompt_rows(
    trajectories: pa.Table, name: str, settings: RewardModel, tokenizer: Any, vocabulary: int, rule: ActionRule
) -> tuple[pa.Table, pa.Table]:
    """What a reward model is shown of a block of `trajectories`.

    Args:
      name: the reward model's.
      vocabulary: how many tokens the model knows; its tokenizer may know more.
      rule: which messages are actions.

    Returns:
      A table of `PROMPTS`, and the rows that cannot be shown as a table of `rejects`.
    """
    room = settings.max_length - (settings.max_new_tokens if isinstance(settings, ThinkPRM) else 0)
    show = Show(tokenizer, room)
    rows: list[dict[str, Any]] = []
    lost: dict[str, str] = {}
    for row in trajectories.to_pylist():
        try:
            rendered = render(row["messages"], action_rule(rule, row["benchmark"]))
            if not rendered.actions:
                raise ValueError("no message is an action")
            prompt = _prompt(show, rendered, row["extra"], settings)
            if (token := max(prompt.ids)) >= vocabulary:
                raise ValueError(f"token id {token} is outside the model's vocabulary of {vocabulary}")
        except BaseException as raised:  # a tokenizer may be anybody's; one row must not stop the run
            lost[row["trajectory_id"]] = _why(fault(raised))
            continue
        rows.append(
            {
                **{key: row[key] for key in _KEYS},
                "step": rendered.actions,
                "first_step": prompt.first_step,
                "truncated": prompt.truncated,
                "ids": prompt.ids,
            }
        )
    return pa.Table.from_pylist(rows, PROMPTS), unjudged_rows(name, lost)


def _prompt(show: Show, rendered: Rendered, extra: str | None, settings: RewardModel) -> Prompt:
    if isinstance(settings, ThinkPRM):
        return show.verify(rendered, extra, settings.prompt or VERIFY)
    if settings.input == "prompt":
        return show.asked(rendered, settings.cut, settings.prompt or SATISFACTION)
    return (show.chat if settings.input == "chat" else show.plain)(rendered, settings.cut)


def unjudged_rows(name: str, reasons: Mapping[str, str]) -> pa.Table:
    """Rows of `rejects`, from why each trajectory is one.

    Its id is its place only: the trajectory stays in the run, without this model's score.
    """
    rows = [
        {"source": "trajectories", "place": key, "trajectory_id": None, "stage": "reward", "reason": f"{name}: {why}"}
        for key, why in reasons.items()
    ]
    return pa.Table.from_pylist(rows, schema.REJECTS)


def reward_rows(
    prompts: pa.Table, name: str, outcomes: Sequence[float | Critique | str], tokenizer: Any
) -> tuple[pa.Table, pa.Table]:
    """Rows of `rewards`, and the others as a table of `rejects`.

    Args:
      prompts: of `PROMPTS`.
      outcomes: of each prompt the trajectory's score, a critique of its steps, or why there is neither.
    """
    rows, lost = [], {}
    for row, outcome in zip(prompts.to_pylist(), outcomes, strict=True):
        if isinstance(outcome, str):
            lost[row["trajectory_id"]] = outcome
            continue
        try:
            read = _judged(row, outcome, tokenizer) if isinstance(outcome, Critique) else _scored(outcome)
        except BaseException as raised:  # as above: a critique is read with the tokenizer
            lost[row["trajectory_id"]] = _why(fault(raised))
            continue
        rows.append({**row, "n_tokens": len(row["ids"]), **read})
    return pa.Table.from_pylist(rows, schema.REWARDS), unjudged_rows(name, lost)


def _why(error: Exception) -> str:
    return first_line(error) if isinstance(error, ValueError) else reason(error)


def _scored(score: float) -> dict[str, Any]:
    if not math.isfinite(score):
        raise ValueError("its score is not finite")
    return {"step": None, "score": score}


def _judged(row: dict[str, Any], critique: Critique, tokenizer: Any) -> dict[str, Any]:
    judged, text = judge(critique, len(row["step"]), tokenizer)
    ended = "never judged" if critique.finished else "the critique ended at its limit of tokens before"
    reasons = ["not shown: the trajectory is too long" if i < row["first_step"] else ended for i in range(len(judged))]
    # Of a step that was not shown, a verdict is a guess.
    shown = [step if i >= row["first_step"] else step._replace(score=None, read=None) for i, step in enumerate(judged)]
    return {
        "step_score": [step.score for step in shown],
        "step_read": [step.read for step in shown],
        "step_reason": [None if step.read else why for step, why in zip(shown, reasons, strict=True)],
        "critique": text,
    }
