"""What a reward model is shown of a trajectory, as token ids.

A trajectory is untrusted text: its tokens are made apart from those of the template around it, and what looks like a
control token in it (the end of a turn, say) becomes ordinary ones.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pa_dist.errors import first_line
from pa_dist.models.growth import growth
from pa_dist.render.plain import Rendered
from pa_dist.render.unrenderable import SECONDS, limited

# The task that WildReward was trained for, in words of ours.
SATISFACTION = """# Task Description
You judge conversations. Say how satisfied the **User** will be with the Assistant's response, given the context, as \
an integer from 1 to 5.

# Scoring Criteria
[1] The user rejects it
[2] The user corrects it or points at an error
[3] Neutral
[4] The user goes along with it
[5] The user is clearly satisfied

# Input Data
## Context (History)


## User Query
{query}

## Assistant Response
{response}

# Output
By these criteria, answer with the integer alone: 1, 2, 3, 4 or 5."""

# ThinkPRM's task, in words of ours: a problem, a numbered solution, a critique whose verdicts can be parsed.
VERIFY = """Below are a task and the steps that were taken to solve it.

[Task]

{task}

[Solution]

{steps}

Examine every step shown above and say whether it is correct. If the solution is not finished, judge the steps that \
are there. Close the critique of each step with a line of its own, 'Step N is \\boxed{correct}' or \
'Step N is \\boxed{incorrect}', N being its number.
"""
# The critiques that ThinkPRM learned from all begin like this.
OPENING = "\nLet's verify step by step:"

# What one text of two may take of the room, as a fraction, where it would crowd out the other.
QUERY_SHARE = 1 / 4
TASK_SHARE = 1 / 2


class Prompt(NamedTuple):
    """Token ids, and what they hold."""

    ids: list[int]
    truncated: bool
    """Whether some of the trajectory is missing."""
    first_step: int = 0
    """Place among the actions of the first one that is shown."""


class Show:
    """Makes prompts for one tokenizer."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        """`max_length`: tokens of a prompt."""
        self.tokenizer, self.max_length = tokenizer, max_length
        self._growth = growth(tokenizer)

    def plain(self, rendered: Rendered, cut: Literal["left", "right"]) -> Prompt:
        """The plain rendering, between what the tokenizer itself puts around a text."""
        before, after = self._around()
        return self._fit(before, self._words("".join(rendered.texts)), after, cut)

    def chat(self, rendered: Rendered, cut: Literal["left", "right"]) -> Prompt:
        """The model's own chat template: an action is the assistant's turn, all before it the user's.

        The texts are those of the plain rendering, the assistant's without its role.

        Raises:
          ValueError: the template does not show every turn once.
        """
        turns = _turns(rendered)
        frame = self._frame([role for role, _ in turns])
        opening, *between, closing = map(self._markup, frame)
        ids: list[int] = []
        for (_, text), after in zip(turns, [*between, []], strict=True):
            ids += [*self._words(text), *after]
        return self._fit(opening, ids, closing, cut)

    def asked(self, rendered: Rendered, cut: Literal["left", "right"], prompt: str) -> Prompt:
        """The plain rendering as `{response}` of a prompt, what came before the first action as its `{query}`.

        Raises:
          ValueError: there is no room for anything.
        """
        opening, closing = self._around()
        before, between, after = (self._words(text) for text in re.split(r"\{query\}|\{response\}", prompt))
        room = self.max_length - sum(map(len, (opening, before, between, after, closing)))
        query = self._words(_task(rendered).strip())[: max(0, int(room * QUERY_SHARE))]
        head = [*opening, *before, *query, *between]
        return self._fit(head, self._words("".join(rendered.texts).strip()), [*after, *closing], cut)

    def verify(self, rendered: Rendered, extra: str | None, prompt: str) -> Prompt:
        """ThinkPRM's prompt: the task, and the actions as numbered steps with what was observed after each.

        Where not all fit, the first steps are left out, whole, and the others keep their numbers; of a last step that
        does not fit alone, its end is shown.

        Args:
          extra: the trajectory's, JSON, for a `question` that no message holds.
          prompt: with `{task}` and `{steps}` in it.

        Raises:
          ValueError: the template loses the turn, or there is no room for anything.
        """
        opening, closing = (self._markup(text) for text in self._frame(["user"], answer=True))
        before, between, after = (self._words(text) for text in re.split(r"\{task\}|\{steps\}", prompt))
        head, tail = [*opening, *before], [*after, *closing, *self._words(OPENING)]
        room = self.max_length - len(head) - len(between) - len(tail)
        if room < 2:
            raise ValueError(f"max_length leaves {room} tokens for the trajectory")
        steps = [self._words(text) for text in _numbered(rendered)]
        needed = sum(map(len, steps))
        task = self._words(_task(rendered).strip() or _question(extra))
        budget = room - min(len(task), int(room * TASK_SHARE))
        first = len(steps) - 1
        held = len(steps[first])
        while first and held + len(steps[first - 1]) <= budget:
            first -= 1
            held += len(steps[first])
        shown = [token for step in steps[first:] for token in step][-budget:]
        task_kept = task[: room - len(shown)]
        whole = len(task_kept) == len(task) and len(shown) == needed
        return Prompt([*head, *task_kept, *between, *shown, *tail], not whole, first)

    def _fit(self, head: list[int], body: list[int], tail: list[int], cut: Literal["left", "right"]) -> Prompt:
        room = self.max_length - len(head) - len(tail)
        if room < 1:
            raise ValueError(f"max_length leaves {room} tokens for the trajectory")
        kept = body if len(body) <= room else body[-room:] if cut == "left" else body[:room]
        return Prompt([*head, *kept, *tail], len(kept) < len(body))

    def _words(self, text: str) -> list[int]:
        self._growth.check(text)
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return self._growth.checked(text, ids)

    def _markup(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _around(self) -> tuple[list[int], list[int]]:
        """The control tokens that the tokenizer puts before and after a text, if any."""
        bare, whole = self._markup("a"), self.tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

    def _frame(self, roles: Sequence[str], answer: bool = False) -> list[str]:
        """What the chat template puts before, between and after turns of these roles."""
        marks = [f"<turn {i} of {len(roles)}>" for i in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            with limited(SECONDS):
                text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
        except Exception as error:  # a template raises what it likes
            raise ValueError(f"its chat template cannot be used: {first_line(error)}") from None
        frame = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise ValueError(f"its chat template does not show {mark[1:-1]} in its place")
            frame.append(before)
        return [*frame, text]


def _task(rendered: Rendered) -> str:
    """All that came before the first action."""
    return "".join(rendered.texts[: rendered.actions[0]])


def _question(extra: str | None) -> str:
    question = json.loads(extra or "{}").get("question")
    return question if isinstance(question, str) else ""


def _numbered(rendered: Rendered) -> list[str]:
    """Each action as a step, with the messages that follow it up to the next."""
    ends = [*rendered.actions[1:], len(rendered.texts)]
    spans = zip(rendered.actions, ends, strict=True)
    return [f"Step {n}:\n{''.join(rendered.texts[a:b]).strip()}\n\n" for n, (a, b) in enumerate(spans, start=1)]


def _turns(rendered: Rendered) -> list[tuple[str, str]]:
    """Turns of user and assistant, one after the other, the user's first."""
    actions = set(rendered.actions)
    turns: list[tuple[str, str]] = []
    for index, text in enumerate(rendered.texts):
        role = "assistant" if index in actions else "user"
        if role == "assistant":
            text = text.partition("]: ")[2]
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n{text}" if role == "assistant" else turns[-1][1] + text)
        else:
            turns.append((role, text.lstrip("\n")))
    return turns if turns[0][0] == "user" else [("user", "[the conversation begins]"), *turns]
