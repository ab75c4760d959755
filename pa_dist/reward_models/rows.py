"""Between Arrow tables and reward models: trajectories in, prompts between, rows of `rewards` out. No Ray, no model."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pa_dist import schema
from pa_dist.config import RewardModel, ThinkPRM
from pa_dist.errors import first_line
from pa_dist.render.plain import ActionRule, Rendered, action_rule, render
from pa_dist.reward_models.prompts import Prompt, Show
from pa_dist.reward_models.verdicts import Critique, judge

_KEYS = [field.name for field in schema.KEYS]
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
    trajectories: pa.Table, name: str, settings: RewardModel, tokenizer: Any, rule: ActionRule
) -> tuple[pa.Table, pa.Table]:
    """What a reward model is shown of a block of `trajectories`.

    Args:
      name: the reward model's.
      rule: which messages are actions.

    Returns:
      A table of `PROMPTS`, and the rows that cannot be shown as a table of `rejects`.
    """
    room = settings.max_length - (settings.max_new_tokens if isinstance(settings, ThinkPRM) else 0)
    show = Show(tokenizer, room)
    rows, rejects = [], []
    for row in trajectories.to_pylist():
        try:
            rendered = render(row["messages"], action_rule(rule, row["benchmark"]))
            if not rendered.actions:
                raise ValueError("no message is an action")
            prompt = _prompt(show, rendered, row["extra"], settings)
        except Exception as error:  # a tokenizer and its template may be anybody's; one row must not stop the run
            rejects.append(reject(row["trajectory_id"], name, first_line(error)))
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
    return pa.Table.from_pylist(rows, PROMPTS), pa.Table.from_pylist(rejects, schema.REJECTS)


def _prompt(show: Show, rendered: Rendered, extra: str | None, settings: RewardModel) -> Prompt:
    if isinstance(settings, ThinkPRM):
        return show.verify(rendered, extra)
    by_input = {"plain": show.plain, "chat": show.chat, "satisfaction": show.satisfaction}
    return by_input[settings.input](rendered, settings.cut)


def reject(trajectory_id: str, name: str, reason: str) -> dict[str, str | None]:
    """A row of `rejects`. Its id is its place only: the trajectory stays in the run, without this model's score."""
    return {
        "source": "trajectories",
        "place": trajectory_id,
        "trajectory_id": None,
        "stage": "reward",
        "reason": f"{name}: {reason}",
    }


def reward_rows(
    prompts: pa.Table, name: str, outcomes: Sequence[float | Critique | str], tokenizer: Any
) -> tuple[pa.Table, pa.Table]:
    """Rows of `rewards`, and the others as a table of `rejects`.

    Args:
      prompts: of `PROMPTS`.
      outcomes: of each prompt the trajectory's score, a critique of its steps, or why there is neither.
    """
    rows, rejects = [], []
    for row, outcome in zip(prompts.to_pylist(), outcomes, strict=True):
        if isinstance(outcome, float) and not math.isfinite(outcome):
            outcome = "its score is not finite"
        if isinstance(outcome, str):
            rejects.append(reject(row["trajectory_id"], name, outcome))
            continue
        read = {"score": outcome} if isinstance(outcome, float) else _judged(row, outcome, tokenizer)
        rows.append({**row, "n_tokens": len(row["ids"]), "step": None, **read})
    return pa.Table.from_pylist(rows, schema.REWARDS), pa.Table.from_pylist(rejects, schema.REJECTS)


def _judged(row: dict[str, Any], critique: Critique, tokenizer: Any) -> dict[str, Any]:
    judged, text = judge(critique, len(row["step"]), tokenizer)
    ended = "never judged" if critique.finished else "the critique ended at its limit of tokens before"
    reasons = ["not shown: the trajectory is too long" if i < row["first_step"] else ended for i in range(len(judged))]
    # Of a step that was not shown, a verdict is a guess.
    shown = [step if i >= row["first_step"] else step._replace(score=None, read=None) for i, step in enumerate(judged)]
    return {
        "step": row["step"],
        "step_score": [step.score for step in shown],
        "step_read": [step.read for step in shown],
        "step_reason": [None if step.read else why for step, why in zip(shown, reasons, strict=True)],
        "critique": text,
    }
