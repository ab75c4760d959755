"""What a chat template makes of calls, results, reasoning and roles, found out by rendering probes."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pa_dist.render.thoughts import TAGS, Opening, opening, squeezed, thinking
from pa_dist.render.unrenderable import TookTooLong

QUESTION = {"role": "user", "content": "probe_question"}
ANSWER = {"role": "assistant", "content": "probe_answer"}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""What templates call the reasoning of a message, the commonest first."""

_CALL: dict[str, Any] = {"probe_key": "probe_value"}
_TOOL = {"type": "function", "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object"}}}
_RESULT = {"role": "tool", "name": "probe_name", "content": "probe_result", "tool_call_id": "probe0001"}

Apply = Callable[..., str]
"""Messages and tools as text; `prompt`: with the generation prompt."""


class Probes:
    """What a template shows, and how it wants it.

    Attributes:
      arguments: how it wants a call's arguments, so that they come out as JSON or in a form of its own; None where it
        writes no calls.
      results: whether it shows results of tools; templates that raise on them say so of each row.
      named: whether results must say which tool they are of.
      tools: whether it shows the tools that were offered.
      reasoning: of messages without calls and with them, the key by which it is given their reasoning; `content`
        where it takes it between tags; None where it shows none.
      splits: whether it takes reasoning from a content's tags as it does from its key.
    """

    def __init__(self, apply: Apply, answer: Callable[[dict[str, Any]], str], source: str) -> None:
        """Find out.

        Args:
          answer: what is generated to a question of ours, of an assistant's message.
          source: the template itself.
        """
        self._apply, self._answer = apply, answer
        self._roles: dict[str, bool] = {}
        self.arguments = self._probe_arguments()
        told, untold = (
            self._probe_result(_RESULT),
            self._probe_result({k: v for k, v in _RESULT.items() if k != "name"}),
        )
        self.results = told is not False
        self.named = told is True and not untold
        self.tools = "probe_tool" in self._tried([QUESTION], [_TOOL])
        asked = {False: ANSWER}
        if self.arguments:
            asked[True] = _called(self.arguments)[1]
        self.reasoning = {calls: self._probe_reasoning(source, message) for calls, message in asked.items()}
        self.splits = self._probe_splits()

    def shows(self, role: str) -> bool:
        """Whether messages of a role are shown; templates that raise on it say so themselves."""
        if role not in self._roles:
            shown = self._tried([QUESTION, ANSWER, {"role": role, "content": "probe_content"}])
            self._roles[role] = not shown or "probe_content" in shown
        return self._roles[role]

    def _probe_arguments(self) -> Literal["object", "text"] | None:
        kinds: tuple[Literal["object", "text"], ...] = ("object", "text")
        for kind in kinds:
            shown = self._tried(_called(kind))
            quoted = [repr(_CALL), json.dumps(json.dumps(_CALL))]  # an object taken for text, or text for an object
            words = ["probe_name", *_CALL, *_CALL.values()]
            if all(word in shown for word in words) and not any(form in shown for form in quoted):
                return kind
        return None

    def _probe_result(self, result: dict[str, Any]) -> bool | None:
        """Whether a result is shown; None where the template raises."""
        shown = self._tried([*(_called(self.arguments) if self.arguments else [QUESTION, ANSWER]), result])
        return "probe_result" in shown if shown else None

    def _probe_reasoning(self, source: str, message: dict[str, Any]) -> str | None:
        given = {key: {**message, key: "probe_thought"} for key in REASONING_KEYS}
        begun = opening(self._apply([QUESTION], prompt=True))
        if begun is not None or TAGS.close in source:
            given["content"] = _between_tags(begun, message)
        return next((key for key, it in given.items() if "probe_thought" in self._tried_answer(it)), None)

    def _probe_splits(self) -> bool:
        key = self.reasoning[False]
        if key in (None, "content"):
            return True
        by_key = self._tried_answer({**ANSWER, key: "probe_thought"})
        by_tags = self._tried_answer(_between_tags(opening(self._apply([QUESTION], prompt=True)), ANSWER))
        return squeezed(by_key) == squeezed(by_tags)

    def _tried(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None = None) -> str:
        return _or_nothing(lambda: self._apply(messages, tools))

    def _tried_answer(self, message: dict[str, Any]) -> str:
        return _or_nothing(lambda: self._answer(message))


def _or_nothing(render: Callable[[], str]) -> str:
    try:
        return render()
    except TookTooLong:
        raise
    except Exception:  # a template raises what it likes; what it cannot show, it does not show
        return ""


def _between_tags(begun: Opening | None, message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": thinking(begun or TAGS, "probe_thought", message["content"])}


def _called(kind: Literal["object", "text"]) -> list[dict[str, Any]]:
    arguments: Any = _CALL if kind == "object" else json.dumps(_CALL)
    function = {"name": "probe_name", "arguments": arguments}
    call = {"id": "probe0001", "type": "function", "function": function}
    return [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]
