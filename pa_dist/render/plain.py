"""The paper's plain rendering: each message is `[role]: content` on a line of its own, no chat template."""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pa_dist.trajectory import Message, ToolCall

ActionRule = Literal["auto", "assistant", "non_blank"]


class Rendered(NamedTuple):
    """A trajectory as text, one string a message; the trajectory is their concatenation."""

    texts: list[str]
    actions: list[int]
    """Indices of the messages that are actions."""
    agents: list[str]
    """Who acted, one an action."""


def render(messages: Sequence[Message], rule: Literal["assistant", "non_blank"]) -> Rendered:
    """Render a trajectory, messages verbatim but for the assistant's under the rule `assistant`.

    Args:
      rule: which messages are actions. `assistant`: those of the role assistant; their tool calls follow the content,
        one line each, the body is stripped, and an empty one becomes `[assistant action]`. `non_blank` (Who & When):
        every message with non-blank content, except a first one whose role is `human`.

    Source: METHOD.md, published conventions; arXiv 2606.26080.
    """
    texts, actions, agents = [], [], []
    for index, message in enumerate(messages):
        newline = "\n" if index else ""
        content = message["content"] or ""
        if rule == "assistant":
            acts = message["role"] == "assistant"
            body = assistant_body(content, message["tool_calls"] or []) if acts else content
        else:
            acts = bool(content.strip()) and not (index == 0 and message["role"].lower() == "human")
            body = content
        texts.append(f"{newline}[{message['role']}]: {body}")
        if acts:
            actions.append(index)
            agents.append(message["name"] or message["role"])
    return Rendered(texts, actions, agents)


def action_rule(rule: ActionRule, benchmark: str | None) -> Literal["assistant", "non_blank"]:
    """What `auto` stands for: Who & When labels any agent's message, the other formats the assistant's."""
    if rule == "auto":
        return "non_blank" if benchmark == "who_and_when" else "assistant"
    return rule


def assistant_body(content: str, tool_calls: Sequence[ToolCall]) -> str:
    """Content and tool calls as the published rendering writes them."""
    calls = [f"tool_call({call['name'] or ''}, {_arguments(call['arguments'])!r})" for call in tool_calls]
    return "\n".join([content, *calls]).strip() or "[assistant action]"


def _arguments(text: str | None) -> Any:
    return {} if text is None else json.loads(text)
