"""Messages of the OpenAI kind, as chat logs and both tau benches hold them, into the table's messages.

Keys of a message that the table has no column for (costs, timestamps, raw responses) are left behind.
"""

import json
from typing import Any

from pa_dist.ingest.records import Message, ToolCall, Unusable, optional_text, text


def messages(value: Any, what: str = "messages") -> list[Message]:
    """Check and convert a history.

    Args:
      value: a list of `{role, content, name, tool_calls, tool_call_id}`.
      what: the key it came from, for the reasons.

    Raises:
      Unusable: naming the message at fault.
    """
    if value is None or value == []:
        raise Unusable("no messages")
    if not isinstance(value, list):
        raise Unusable(f"{what} is not a list")
    return [_message(message, f"{what}[{i}]") for i, message in enumerate(value)]


def _message(message: Any, what: str) -> Message:
    if not isinstance(message, dict):
        raise Unusable(f"{what} is not an object")
    if "role" not in message:
        raise Unusable(f"{what} has no role")
    role = text(message["role"], f"{what}.role")
    call_id = message.get("tool_call_id")
    if call_id is None and role == "tool":
        call_id = message.get("id")  # tau2's name for it
    return {
        "role": role,
        "name": optional_text(message.get("name"), f"{what}.name"),
        "content": _content(message.get("content"), f"{what}.content"),
        "reasoning": None,
        "tool_calls": _tool_calls(message, what),
        "tool_call_id": optional_text(call_id, f"{what}.tool_call_id"),
    }


def _content(value: Any, what: str) -> str | None:
    if not isinstance(value, list):
        return optional_text(value, what)
    parts = []
    for i, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise Unusable(f"{what}[{i}] is not a text part but {kind!r:.40}")
        parts.append(text(part.get("text"), f"{what}[{i}].text"))
    return "".join(parts)


def _tool_calls(message: dict[str, Any], what: str) -> list[ToolCall] | None:
    calls = message.get("tool_calls")
    if calls is None and message.get("function_call") is not None:  # OpenAI's first form: one call, without an id
        return [_tool_call(message["function_call"], f"{what}.function_call")]
    if calls is None or calls == []:
        return None
    if not isinstance(calls, list):
        raise Unusable(f"{what}.tool_calls is not a list")
    return [_tool_call(call, f"{what}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, what: str) -> ToolCall:
    if not isinstance(call, dict):
        raise Unusable(f"{what} is not an object")
    function = call.get("function", call)
    if not isinstance(function, dict):
        raise Unusable(f"{what}.function is not an object")
    return {
        "id": optional_text(call.get("id"), f"{what}.id"),
        "name": text(function.get("name"), f"{what}.name"),
        "arguments": _arguments(function.get("arguments"), f"{what}.arguments"),
    }


def _arguments(value: Any, what: str) -> str:
    """JSON text of the arguments. Models write them as text: where that is not JSON, it becomes one JSON string."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return text(json.dumps(value, ensure_ascii=False), what)
        return text(value, what)
    return text(json.dumps(value, ensure_ascii=False), what)
