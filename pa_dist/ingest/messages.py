"""Messages of the OpenAI kind, as all formats hold them after a little renaming, into the table's messages.

Keys of a message that the table has no column for (costs, timestamps, audio) are left behind, and counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pa_dist.ingest import reasoning
from pa_dist.ingest.left_behind import holds
from pa_dist.ingest.records import (
    Unusable,
    optional_text,
    text,
    value_shown,
)
from pa_dist.trajectory import Message, ToolCall

_READ = frozenset(["role", "name", "content", "tool_calls", "tool_call_id", *reasoning.KEYS])
_OF_TEXT = frozenset(["type", "text"])
_OF_CALL = frozenset(["id", "function"])
_OF_FUNCTION = frozenset(["name", "arguments"])


class History(NamedTuple):
    """The messages of a trajectory."""

    messages: list[Message]
    left_behind: Counter[str]
    """How many of them (of their parts, of their calls) hold something under a key that nothing reads."""


def messages(value: Any, what: str = "messages") -> History:
    """Check and convert a history. The list is used up: of a long one, two copies would be held.

    Args:
      value: a list of `{role, content, name, tool_calls, tool_call_id}`.
      what: the key it came from, for the reasons.

    Raises:
      Unusable: naming the message at fault.
    """
    if value is None or value == []:
        raise Unusable("no messages")
    if not isinstance(value, list):
        raise Unusable(f"{what} is not a list but {value_shown(value)}")
    left: Counter[str] = Counter()
    for i, message in enumerate(value):
        value[i] = _message(message, f"{what}[{i}]", left)
    return History(value, left)


def _message(message: Any, what: str, left: Counter[str]) -> Message:
    if not isinstance(message, dict):
        raise Unusable(f"{what} is not an object but {value_shown(message)}")
    if "role" not in message:
        raise Unusable(f"{what} has no role")
    role, others = text(message["role"], f"{what}.role"), message.keys() - _READ
    call_id = message.get("tool_call_id")
    if call_id is None and role == "tool":
        call_id = message.get("id")  # tau2's name for it
        others -= {"id"}
    content, thought = _content(message.get("content"), f"{what}.content", left)
    calls, calls_key = _tool_calls(message, what, left)
    count(message, others - {calls_key} if others else others, left)
    return {
        "role": role,
        "name": optional_text(message.get("name"), f"{what}.name"),
        "content": content,
        "reasoning": optional_text(reasoning.of(message, thought, left), f"{what}.reasoning"),
        "tool_calls": calls,
        "tool_call_id": optional_text(call_id, f"{what}.tool_call_id"),
    }


def count(node: Mapping[str, Any], others: Iterable[str], left: Counter[str], path: str = "") -> None:
    """Count those keys that hold something: the ones that are not read."""
    for key in others:
        if holds(node[key]):
            left[f"{path}{key}"] += 1


def _content(value: Any, what: str, left: Counter[str]) -> tuple[str | None, list[str]]:
    """The text of a message's content, and what its reasoning parts hold."""
    if not isinstance(value, list):
        return optional_text(value, what), []
    said: list[str] = []
    thought: list[str] = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else part
        if isinstance(kind, str) and kind in reasoning.PARTS and isinstance(part, dict):
            found = reasoning.of_part(part, left)
            thought += found
            if found and any(said):  # the column has one place for it
                left["content: reasoning behind text, now before it"] += 1
        elif kind != "text" or not isinstance(part, dict):
            raise Unusable(f"{what}[{i}] is not a text part but {kind!r:.40}")
        else:
            count(part, part.keys() - _OF_TEXT, left, "content.")
            said.append(text(part.get("text"), f"{what}[{i}].text"))
    return "".join(said), thought


def _tool_calls(message: dict[str, Any], what: str, left: Counter[str]) -> tuple[list[ToolCall] | None, str]:
    """A message's calls, and the key they came from."""
    calls, one = message.get("tool_calls"), message.get("function_call")
    if calls in (None, []) and holds(one):  # OpenAI's first form: one call, without an id
        return [_tool_call(one, f"{what}.function_call", left)], "function_call"
    if calls in (None, []):
        return None, "tool_calls"
    if not isinstance(calls, list):
        raise Unusable(f"{what}.tool_calls is not a list but {value_shown(calls)}")
    return [_tool_call(call, f"{what}.tool_calls[{i}]", left) for i, call in enumerate(calls)], "tool_calls"


def _tool_call(call: Any, what: str, left: Counter[str]) -> ToolCall:
    if not isinstance(call, dict):
        raise Unusable(f"{what} is not an object but {value_shown(call)}")
    function, others = call.get("function"), call.keys() - _OF_CALL
    if function is None:
        function = call
        others -= _OF_FUNCTION
    elif not isinstance(function, dict):
        raise Unusable(f"{what}.function is not an object but {value_shown(function)}")
    else:
        count(function, function.keys() - _OF_FUNCTION, left, "tool_calls.function.")
    count(call, others - {"type"} if call.get("type") == "function" else others, left, "tool_calls.")
    return {
        "id": optional_text(call.get("id"), f"{what}.id"),
        "name": text(function.get("name"), f"{what}.name"),
        "arguments": _arguments(function.get("arguments"), f"{what}.arguments"),
    }


def _arguments(value: Any, what: str) -> str:
    """JSON text of the arguments, `{}` where there are none: a call without any is logged as `""`, null, or not at all.

    Models write them as text, which is kept as it is; where that is not JSON, it becomes one JSON string.
    """
    if value is None or (isinstance(value, str) and value.strip() in ("", "null")):
        return "{}"
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return text(json.dumps(value, ensure_ascii=False), what)
        return text(value, what)
    return text(json.dumps(value, ensure_ascii=False), what)
