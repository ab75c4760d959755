"""The model's own chat template: each action in the state that the policy was in when it generated it.

The state of an action is what a server gives the model: the messages before it, rendered with the generation prompt.
The action is what the template makes of its message as an answer, up to the end of the turn. States that begin as the
one before ends, its action included, make up one text, as all do under most templates. Where a template rewrites
history (drops earlier reasoning, merges turns, writes an empty thought for the last one alone), no single text holds
all states: the action then begins another text, and the prefix tree runs what both share once.

What a template leaves out of a state or an action was given or generated all the same: such a trajectory is a reject,
but for what templates are known to leave out, the thoughts of earlier answers. A thought that the generation prompt
begins (`<think>`) is the state's up to its tag, and the action's from there on.

A template is a program, which transformers runs in jinja2's sandbox; what messages hold is data to it, never a
template. A control token's text in a message is broken by `MARK` on its way through the template, so that no tokenizer
takes it for what the template writes itself; `score.tokenize` takes the mark out.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pa_dist.errors import first_line
from pa_dist.render.plain import Rendered, assistant_body
from pa_dist.render.probes import ANSWER, QUESTION, REASONING_KEYS, Probes
from pa_dist.render.thoughts import TAGS, gone_on, opening, split, squeezed, thinking, visible, without
from pa_dist.render.unrenderable import SECONDS, TookTooLong, Unrenderable, limited
from pa_dist.trajectory import Message, ToolCall

MARK = "\ufdd0"
"""A code point that Unicode keeps out of texts."""

ROLES = {"developer": "system", "function": "tool"}
"""Roles by other names."""


class RenderedChat(NamedTuple):
    """A trajectory as texts that each hold the states of some of its actions, in their order."""

    texts: list[Rendered]
    """Of each, pieces whose concatenation it is, the indices of those that are actions, and who acted."""
    steps: list[int]
    """Message index of each action."""


class _Turn(NamedTuple):
    """A message as a template is given it."""

    name: str
    """Which it is, for reasons."""
    given: dict[str, Any]
    """As one of the history."""
    answer: dict[str, Any]
    """As an answer just generated, with all that was generated."""
    calls: list[ToolCall]

    def said(self) -> list[str]:
        """What has to be read of it in any state: of an assistant's, which templates shorten, not its thoughts, nor
        what comes with calls, which some take for one."""
        if self.given["role"] != "assistant":
            return [self.given["content"]]
        calls = self.given.get("tool_calls", [])
        return [call["function"]["name"] for call in calls] or [visible(self.given["content"])]


def control_tokens(*tokenizers: Any) -> list[str]:
    """What one of the tokenizers reads as a token of its own that no text of a message may stand for, longest first."""
    added = [token for tokenizer in tokenizers for token in tokenizer.added_tokens_decoder.values()]
    return sorted({token.content for token in added if token.special}, key=lambda text: (-len(text), text))


class ChatTemplate:
    """A tokenizer's chat template, and what it makes of messages."""

    def __init__(
        self,
        tokenizer: Any,
        controls: Collection[str],
        *,
        options: Mapping[str, Any] | None = None,
        end_of_turn: bool = False,
        seconds: float = SECONDS,
    ) -> None:
        """Take a tokenizer that has a template.

        Args:
          controls: control tokens of all tokenizers that will read the texts.
          options: variables of the template.
          end_of_turn: whether the token that ends the turn belongs to an action.
          seconds: that one rendering may take.

        Raises:
          Unrenderable: the template has no place for what is generated, or does not come to an end.
          Exception: what it raises on a plain question and answer; any library's.
        """
        self._tokenizer, self._options, self._with_end = tokenizer, dict(options or {}), end_of_turn
        self._seconds = seconds
        either = "|".join(map(re.escape, controls)) or "(?!)"
        self._controls, self._last_control = re.compile(either), re.compile(f"(?:{either})$")
        lead, _, end = self._answer(ANSWER).rpartition("probe_answer")
        self._end = end.rstrip()
        if self._controls.search(lead) and self._apply([QUESTION], prompt=True) == self._apply([QUESTION]):
            raise Unrenderable("the chat template writes no generation prompt")
        self._tags = opening(self._apply([QUESTION], prompt=True)) or TAGS
        # A policy's own tags are no forgery, but in a content they would be broken like one.
        self._splits = bool(self._controls.search(self._tags.tag) or self._controls.search(self._tags.close))
        self._probes = Probes(self._apply, self._answer, str(getattr(tokenizer, "chat_template", "")))

    def shows_reasoning(self, calls: bool) -> bool:
        """Whether reasoning that a log holds apart comes into its action, of messages with calls or without."""
        return self._probes.reasoning.get(calls, self._probes.reasoning[False]) is not None

    def render(self, messages: Sequence[Message], tools: str | None = None, system: str | None = None) -> RenderedChat:
        """Render a trajectory. Its actions are the assistant's messages, but for a very first one: nothing led to it,
        so that it is a greeting that no model generated.

        Args:
          tools: JSON of the schemas offered to the agent; a template without tools gets them in the system message.
          system: a system message where `messages` have none.

        Raises:
          Unrenderable: a state or an action would lose some of its text, or the template raises, and at which message.
        """
        schemas, roles = self._schemas(tools), [role_of(message["role"]) for message in messages]
        seen = _seen(messages, roles)
        turns = [self._turn(index, roles[index], messages) for index in seen]
        if system and "system" not in roles:
            given = {"role": "system", "content": self._marked(system)}
            turns.insert(0, _Turn("the system message", given, given, []))
        history = [turn.given for turn in turns]
        if schemas and not self._probes.tools:
            history, schemas = _with_tools(history, schemas), None
        first, more = len(turns) - len(seen), len(history) - len(turns)

        texts: list[Rendered] = []
        steps, text, since = [], "", 0
        for at, index in enumerate(seen, first):
            if turns[at].given["role"] != "assistant" or index == 0:
                continue
            state = self._state(history[: at + more], schemas, turns[max(since - 1, 0) : at] or [turns[at]])
            if not texts or not state.startswith(text):
                texts.append(Rendered([], [], []))
                text, since = "", 0
            _check_shown(state[len(text) :], turns[since:at])
            action = self._action(turns[at], state, schemas)
            pieces, actions, agents = texts[-1]
            actions.append(len(pieces) + 1)
            pieces += [state[len(text) :], action]
            agents.append(messages[index]["name"] or messages[index]["role"])
            steps.append(index)
            text, since = state + action, at + 1
        return RenderedChat(texts, steps)

    def _state(self, history: list[dict[str, Any]], schemas: list[Any] | None, new: Sequence[_Turn]) -> str:
        """What a server gives the model; `new` are the last of the history, those that no state held yet."""
        try:
            return self._apply(history, schemas, prompt=True)
        except TookTooLong:  # and would again
            raise
        except Exception as error:  # a template raises what it likes
            raised = error
        ends = range(len(history) - len(new) + 1, len(history) + 1)
        for turn, end in zip(new, ends, strict=True):  # the first message without which it does not raise this
            try:
                self._apply(history[:end], schemas, prompt=True)
            except Exception as error:
                if str(error) == str(raised):
                    raise _raised(turn.name, raised) from raised
        raise _raised(new[-1].name, raised) from raised

    def _action(self, turn: _Turn, state: str, schemas: list[Any] | None) -> str:
        odd = _odd_arguments(turn.calls)
        try:
            action = self._answer(turn.answer, schemas, state).rstrip()
        except Exception as error:  # as in _state
            if odd and not isinstance(error, Unrenderable):
                number, call, _ = odd[0]
                raise Unrenderable(
                    f"{turn.name}: the arguments of call {number} ({call!r}) are no object, and the chat template "
                    f"takes no other: {first_line(error)}"
                ) from error
            raise _raised(turn.name, error) from error
        begun = opening(state)
        body = squeezed((begun.tag if begun else "") + action)
        message = turn.answer
        shown = [message["content"], *(call["function"]["name"] for call in message.get("tool_calls", []))]
        if any(squeezed(part) not in body for part in shown):
            raise Unrenderable(f"{turn.name}: the chat template leaves out a part of it")
        if any(squeezed(message.get(key, "")) not in body for key in REASONING_KEYS):
            raise Unrenderable(f"{turn.name}: the chat template leaves out its reasoning")
        for number, call, written in odd if "tool_calls" in message else []:
            given = self._marked(written)
            quoted = isinstance(_arguments(written), str) and json.dumps(given, ensure_ascii=False) in action
            if squeezed(given) not in body or quoted:
                raise Unrenderable(
                    f"{turn.name}: the arguments of call {number} ({call!r}) are no object, and the chat template does "
                    "not show them as they were written"
                )
        if action.endswith(self._end):
            end = self._end
        else:  # some templates end a call by another token than an answer
            token = self._last_control.search(action)
            end = token[0] if token else ""
        token = self._controls.search(end)  # Llama-2 writes a space before it
        return action.removesuffix(end) + (end[: token.end()] if token and self._with_end else "")

    def _answer(self, message: dict[str, Any], schemas: list[Any] | None = None, state: str | None = None) -> str:
        """What the template makes of an assistant's message, from the generation prompt on.

        It answers a question of ours: with the true history, some templates write other text before it than they gave
        the model to go on from.

        Args:
          state: what the model truly was given; null for what it is given with that question.
        """
        prompt, whole = self._apply([QUESTION], schemas, prompt=True), self._apply([QUESTION, message], schemas)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        begun = opening(prompt)
        if begun is None or not whole.startswith(begun.lead):
            raise Unrenderable("the chat template's render does not go on from its generation prompt")
        begins = opening(prompt if state is None else state) is not None
        return gone_on(begun, message["content"], whole[len(begun.lead) :], begins=begins)

    def _turn(self, index: int, role: str, messages: Sequence[Message]) -> _Turn:
        """A message as templates know it: nothing null, tool calls and reasoning as this one wants them, marked."""
        message, name = messages[index], f"message {index}"
        calls = list(message["tool_calls"] or []) if role == "assistant" else []
        if role == "tool" and not self._probes.results:
            raise Unrenderable(f"{name}: the chat template leaves out tool messages")
        if role not in ("system", "user", "assistant", "tool") and not self._probes.shows(role):
            raise Unrenderable(f"{name}: the chat template leaves out messages of the role {message['role']!r:.40}")
        content, reasoning = message["content"] or "", _reasoning(message) if role == "assistant" else ""
        key = self._probes.reasoning.get(bool(calls), self._probes.reasoning[False])
        if reasoning and (rest := without(content, reasoning)) is not None:  # logged twice
            verbatim = key is None or (key == "content" and not self._splits)
            content, reasoning = (content, "") if verbatim else (rest, reasoning)
        elif role == "assistant" and not reasoning and key and (self._splits or not self._probes.splits):
            reasoning, content = split(content)
        row: dict[str, Any] = {"role": role, "name": message["name"], "tool_call_id": message.get("tool_call_id")}
        if role == "tool" and self._probes.named and not row["name"]:
            row["name"] = _called(messages[:index], row["tool_call_id"])
        if calls and self._probes.arguments is None:
            parsed = [ToolCall(**{**call, "arguments": json.dumps(_arguments(call["arguments"]))}) for call in calls]
            content = assistant_body(content, parsed)
        elif calls:
            row["tool_calls"] = [self._call(call) for call in calls]
        if reasoning and key is not None and key != "content":
            row[key] = reasoning
        given = self._marked({**{k: value for k, value in row.items() if value is not None}, "content": content})
        answer = given
        if reasoning and key == "content":
            answer = {**given, "content": thinking(self._tags, self._marked(reasoning), given["content"])}
        return _Turn(name, given, answer, calls)

    def _call(self, call: ToolCall) -> dict[str, Any]:
        given, written = _arguments(call["arguments"]), call["arguments"] or ""
        if self._probes.arguments == "text" and not isinstance(given, str):
            given = "{}" if given == {} and not written.lstrip().startswith("{") else written
        function = {"name": call["name"] or "", "arguments": given}
        return {"type": "function", "function": function, **({"id": call["id"]} if call["id"] else {})}

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
        with limited(self._seconds):
            rendered: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **self._options
            )
        return rendered


def role_of(role: str) -> str:
    """A role as templates have it, which know each by one name."""
    role = role.strip().lower()
    return ROLES.get(role, role)


def _seen(messages: Sequence[Message], roles: Sequence[str]) -> list[int]:
    """Indices of the messages that the agent was given: not a user's calls of tools of their own, as tau2 has them, nor
    what came of these."""
    own = [bool(message["tool_calls"]) and role == "user" for message, role in zip(messages, roles, strict=True)]
    calls = {call["id"] for message, is_own in zip(messages, own, strict=True) if is_own for call in _calls(message)}
    hidden = calls - {None}
    return [i for i, message in enumerate(messages) if not own[i] and message.get("tool_call_id") not in hidden]


def _calls(message: Message) -> list[ToolCall]:
    return message["tool_calls"] or []


def _called(messages: Sequence[Message], call_id: str | None) -> str | None:
    """The tool that a result is of: that of the call of its id, else of the last one."""
    calls = [call for message in messages for call in _calls(message)]
    names = [call["name"] for call in calls if call["id"] == call_id] if call_id else []
    return (names or [call["name"] for call in calls] or [None])[-1]


def _reasoning(message: Message) -> str:
    text = message.get("reasoning") or ""
    return text if text.strip() else ""


def _arguments(text: str | None) -> Any:
    """A call's arguments: nothing is an empty object, and what is no JSON the text that the model wrote."""
    try:
        parsed = json.loads(text or "null")
    except ValueError:
        parsed = text
    return {} if parsed is None or (isinstance(parsed, str) and not parsed.strip()) else parsed


def _odd_arguments(calls: Sequence[ToolCall]) -> list[tuple[int, str | None, str]]:
    """Calls whose arguments are no object: their number, their name, and what the model wrote."""
    parsed = [_arguments(call["arguments"]) for call in calls]
    return [
        (number, call["name"], given if isinstance(given, str) else call["arguments"] or "")
        for number, (call, given) in enumerate(zip(calls, parsed, strict=True), start=1)
        if not isinstance(given, dict)
    ]


def _with_tools(history: list[dict[str, Any]], schemas: list[Any]) -> list[dict[str, Any]]:
    """Schemas at the end of the system message, for templates that have no place for them."""
    text = json.dumps(schemas, ensure_ascii=False)
    if history and history[0]["role"] == "system":
        first = {**history[0], "content": f"{history[0]['content']}\n\n{text}"}
        return [first, *history[1:]]
    return [{"role": "system", "content": text}, *history]


def _check_shown(state: str, turns: Sequence[_Turn]) -> None:
    """Raise `Unrenderable` where a text leaves out what one of the messages says."""
    body, at = squeezed(state), 0
    for turn in turns:
        for text in filter(None, map(squeezed, turn.said())):
            # One after the other, but some templates put system messages first; and some write results as JSON.
            found = body.find(text, at)
            if found < 0 and text not in body and not any(form in body for form in _as_json(turn.said())):
                raise Unrenderable(f"{turn.name}: the chat template leaves out {_what(turn)}")
            at = max(at, found + len(text))


def _as_json(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        for ascii_only in (False, True):
            yield squeezed(json.dumps(text, ensure_ascii=ascii_only)[1:-1])


def _what(turn: _Turn) -> str:
    return "one of the system messages" if turn.given["role"] == "system" else "a part of it"


def _raised(name: str, error: Exception) -> Unrenderable:
    kind = "" if isinstance(error, Unrenderable) else f"{type(error).__name__}: "
    return Unrenderable(f"{name}: {kind}{first_line(error)}")
