"""The model's own chat template: each action in the state that the policy was in when it generated it.

The state of an action is what a server gives the model: the messages before it, rendered with the generation prompt.
The action is what the template makes of its message as an answer, up to the end of the turn. States that begin as the
one before ends, its action included, make up one text, as all do under most templates. Where a template rewrites
history (drops earlier reasoning, merges turns, writes an empty thought for the last one alone), no single text holds
all states: the action then begins another text, and the prefix tree runs what both share once.

A template is a program, which transformers runs in jinja2's sandbox; what messages hold is data to it, never a
template. A control token's text in a message is broken by `MARK` on its way through the template, so that no tokenizer
takes it for what the template writes itself; `score.tokenize` takes the mark out.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pa_dist.render.plain import Message, Rendered, assistant_body

MARK = "\ufdd0"
"""A code point that Unicode keeps out of texts."""

_CALL: dict[str, Any] = {"probe_key": "probe_value"}
_QUESTION = {"role": "user", "content": "probe_question"}
_ANSWER = {"role": "assistant", "content": "probe_answer"}
_TOOL = {"type": "function", "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object"}}}


class Unrenderable(Exception):
    """Why a trajectory cannot be rendered; the message is the reason of a reject."""


class RenderedChat(NamedTuple):
    """A trajectory as texts that each hold the states of some of its actions, in their order."""

    texts: list[Rendered]
    """Of each, pieces whose concatenation it is, the indices of those that are actions, and who acted."""
    steps: list[int]
    """Message index of each action."""


def control_tokens(*tokenizers: Any) -> list[str]:
    """What one of the tokenizers reads as a token of its own that no text of a message may stand for, longest first."""
    added = [token for tokenizer in tokenizers for token in tokenizer.added_tokens_decoder.values()]
    return sorted({token.content for token in added if token.special}, key=lambda text: (-len(text), text))


class ChatTemplate:
    """A tokenizer's chat template, and what it makes of tools, found out by rendering probes."""

    def __init__(
        self,
        tokenizer: Any,
        controls: Collection[str],
        *,
        options: Mapping[str, Any] | None = None,
        end_of_turn: bool = False,
    ) -> None:
        """Take a tokenizer that has a template.

        Args:
          controls: control tokens of all tokenizers that will read the texts.
          options: variables of the template.
          end_of_turn: whether the token that ends the turn belongs to an action.

        Raises:
          Unrenderable: the template has no place for what is generated.
          Exception: what it raises on a plain question and answer; any library's.
        """
        self._tokenizer, self._options, self._with_end = tokenizer, dict(options or {}), end_of_turn
        either = "|".join(map(re.escape, controls)) or "(?!)"
        self._controls, self._last_control = re.compile(either), re.compile(f"(?:{either})$")
        lead, _, end = self._answer(_ANSWER).rpartition("probe_answer")
        self._end = end.rstrip()
        if self._controls.search(lead) and self._apply([_QUESTION], prompt=True) == self._apply([_QUESTION]):
            raise Unrenderable("the chat template writes no generation prompt")
        self._arguments = self._probe_arguments()
        self._shows_results = self._probe_results()
        self._shows_tools = "probe_tool" in self._tried([_QUESTION], [_TOOL])

    def render(self, messages: Sequence[Message], tools: str | None = None, system: str | None = None) -> RenderedChat:
        """Render a trajectory. Its actions are the assistant's messages, but for a very first one: nothing led to it,
        so that it is a greeting that no model generated.

        Args:
          tools: JSON of the schemas offered to the agent; a template without tools gets them in the system message.
          system: a system message where `messages` have none.

        Raises:
          Unrenderable: an action would lose some of its text.
          Exception: what the template itself raises.
        """
        schemas = self._schemas(tools)
        seen = _seen(messages)
        history = [self._message(index, messages[index]) for index in seen]
        if system and not any(message["role"] in ("system", "developer") for message in messages):
            history.insert(0, {"role": "system", "content": self._marked(system)})
        if schemas and not self._shows_tools:
            history, schemas = _with_tools(history, schemas), None

        texts: list[Rendered] = []
        steps, text = [], ""
        for at, index in enumerate(seen, len(history) - len(seen)):
            message = messages[index]
            if message["role"] != "assistant" or index == 0:
                continue
            state = self._apply(history[:at], schemas, prompt=True)
            action = self._action(index, history[at], schemas)
            if not texts or not state.startswith(text):
                texts.append(Rendered([], [], []))
                text = ""
            pieces, actions, agents = texts[-1]
            actions.append(len(pieces) + 1)
            pieces += [state[len(text) :], action]
            agents.append(message["name"] or message["role"])
            steps.append(index)
            text = state + action
        return RenderedChat(texts, steps)

    def _action(self, index: int, message: dict[str, Any], schemas: list[Any] | None) -> str:
        action = self._answer(message, schemas).rstrip()
        body = _squeezed(action)
        shown = [message["content"], *(call["function"]["name"] for call in message.get("tool_calls", []))]
        if any(_squeezed(part) not in body for part in shown):
            raise Unrenderable(f"message {index}: the chat template leaves out a part of it")
        if action.endswith(self._end):
            end = self._end
        else:  # some templates end a call by another token than an answer
            token = self._last_control.search(action)
            end = token[0] if token else ""
        token = self._controls.match(end)
        return action.removesuffix(end) + (token[0] if token and self._with_end else "")

    def _answer(self, message: dict[str, Any], schemas: list[Any] | None = None) -> str:
        """What the template makes of an assistant's message, from the generation prompt on.

        It answers a question of ours: with the true history, some templates write other text before it than they gave
        the model to go on from.
        """
        prompt, whole = self._apply([_QUESTION], schemas, prompt=True), self._apply([_QUESTION, message], schemas)
        if not whole.startswith(prompt):
            raise Unrenderable("the chat template's render does not go on from its generation prompt")
        return whole[len(prompt) :]

    def _message(self, index: int, message: Message) -> dict[str, Any]:
        """A message as templates know it: nothing null, tool calls as this one wants them, marked."""
        calls = message["tool_calls"] if message["role"] == "assistant" else None
        if message["role"] == "tool" and not self._shows_results:
            raise Unrenderable(f"message {index}: the chat template leaves out tool messages")
        content = message["content"] or ""
        if calls and self._arguments is None:
            content, calls = assistant_body(content, calls), None
        row: dict[str, Any] = {"role": message["role"], "content": content, "name": message["name"]}
        row["tool_call_id"] = message.get("tool_call_id")
        row["tool_calls"] = [self._call(call["id"], call["name"], call["arguments"]) for call in calls or []] or None
        marked: dict[str, Any] = self._marked({key: value for key, value in row.items() if value is not None})
        return marked

    def _call(self, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
        given: Any = arguments or "{}"
        function = {"name": name or "", "arguments": json.loads(given) if self._arguments == "object" else given}
        return {"type": "function", "function": function, **({"id": call_id} if call_id else {})}

    def _schemas(self, tools: str | None) -> list[Any] | None:
        found = json.loads(tools) if tools else None
        marked: list[Any] = self._marked(list(found.values()) if isinstance(found, dict) else found or [])
        return marked or None

    def _marked(self, value: Any) -> Any:
        """A value with every control token in its texts broken."""
        if isinstance(value, str):
            if MARK in value:
                raise Unrenderable(f"a text holds U+{ord(MARK):04X}, which is no character")
            return self._controls.sub(lambda token: token[0][0] + MARK + token[0][1:], value)
        if isinstance(value, dict):
            return {self._marked(key): self._marked(item) for key, item in value.items()}
        return [self._marked(item) for item in value] if isinstance(value, list) else value

    def _apply(self, messages: list[dict[str, Any]], tools: list[Any] | None = None, *, prompt: bool = False) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **self._options
        )
        return rendered

    def _probe_arguments(self) -> Literal["object", "text"] | None:
        """How the template wants a call's arguments, so that they come out as JSON or in a form of its own; None where
        it writes no calls."""
        kinds: tuple[Literal["object", "text"], ...] = ("object", "text")
        for kind in kinds:
            shown = self._tried(self._probe_call(kind))
            quoted = [repr(_CALL), json.dumps(json.dumps(_CALL))]  # an object taken for text, or text for an object
            words = ["probe_name", *_CALL, *_CALL.values()]
            if all(word in shown for word in words) and not any(form in shown for form in quoted):
                return kind
        return None

    def _probe_results(self) -> bool:
        """Whether results of tools are shown; templates that raise on them say so of each row."""
        result = {"role": "tool", "name": "probe_name", "content": "probe_result", "tool_call_id": "probe0001"}
        call = self._probe_call(self._arguments) if self._arguments else [_QUESTION, _ANSWER]
        shown = self._tried([*call, result])
        return not shown or "probe_result" in shown

    def _probe_call(self, kind: Literal["object", "text"]) -> list[dict[str, Any]]:
        arguments: Any = _CALL if kind == "object" else json.dumps(_CALL)
        function = {"name": "probe_name", "arguments": arguments}
        call = {"id": "probe0001", "type": "function", "function": function}
        return [_QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]

    def _tried(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        try:
            return self._apply(messages, tools)
        except Exception:  # a template raises what it likes; what it cannot show, it does not show
            return ""


def _seen(messages: Sequence[Message]) -> list[int]:
    """Indices of the messages that the agent was given: not a user's calls of tools of their own, as tau2 has them, nor
    what came of these."""
    calls = {call["id"] for message in messages if message["role"] == "user" for call in message["tool_calls"] or []}
    apart = [
        bool(message["tool_calls"]) if message["role"] == "user" else message.get("tool_call_id") in calls - {None}
        for message in messages
    ]
    return [index for index, hidden in enumerate(apart) if not hidden]


def _with_tools(history: list[dict[str, Any]], schemas: list[Any]) -> list[dict[str, Any]]:
    """Schemas at the end of the system message, for templates that have no place for them."""
    text = json.dumps(schemas, ensure_ascii=False)
    if history and history[0]["role"] in ("system", "developer"):
        first = {**history[0], "content": f"{history[0]['content']}\n\n{text}"}
        return [first, *history[1:]]
    return [{"role": "system", "content": text}, *history]


def _squeezed(text: str) -> str:
    """A text without white space, which templates strip and add."""
    return "".join(text.split())
