"""Chat logs: JSONL, a conversation of OpenAI-style messages a line.

Keys: messages, and optionally id, task_id, trial, reward, mistake_step, mistake_agent, step_labels, pair_id,
final_answer or answer, system_message, tools, benchmark, domain and behavior; any other goes to `extra`. Without a
`mistake_step` the first step that is labelled wrong is taken for it.

In the place of messages, `chosen` and `rejected` are two conversations, or continuations of `prompt`, that part at an
assistant message (TRL's preference format): two trajectories of one pair, that message labelled right in the one and
wrong in the other.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.containers import not_lines
from pa_dist.ingest.json_stream import RECORD_BYTES, lines
from pa_dist.ingest.left_behind import holds
from pa_dist.ingest.messages import messages
from pa_dist.ingest.padding import unpad_arguments, unpadded_tools
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source
from pa_dist.ingest.step_labels import first_wrong, step_labels
from pa_dist.schema import RIGHT, WRONG
from pa_dist.trajectory import Trajectory

BENCHMARK = "chat"
PAIR = {"chosen": RIGHT, "rejected": WRONG}
"""Keys of a record that holds two conversations, and the labels of the actions in which they differ."""
_LABELS = ("task_id", "trial", "reward", "mistake_step", "mistake_agent", "benchmark", "domain", "behavior")
_ANSWERS = ("final_answer", "answer")
_KEYS = frozenset(["messages", "id", "system_message", "tools", "step_labels", "pair_id", *_LABELS, *_ANSWERS])


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Conversations of one file; a bad line is dropped alone, and a file that is no lines as a whole."""
    return read_lines(source, limit, trajectories)


def read_lines(
    source: Source, limit: int, build: Callable[[dict[str, Any], Origin], Sequence[Trajectory]]
) -> Iterator[Trajectory | Reject]:
    """The same of another format of lines."""
    with source.open() as file:
        for n, element in enumerate(lines(file, limit)):
            items = records.all_usable(Origin(source, f"line {element.index}", element.raw, limit), build)
            if n == 0 and isinstance(items[0], Reject) and (fault := not_lines(source, limit)):
                yield Reject(source.name, "file", fault)
                return
            yield from items


def trajectories(record: dict[str, Any], origin: Origin) -> list[Trajectory]:
    """The trajectory of a conversation, or the two of a pair. Raises `Unusable`."""
    if record.get("messages") is not None or not record.keys() >= PAIR.keys():
        return [trajectory(record, origin)]
    shared = {key: value for key, value in record.items() if key not in (*PAIR, "prompt", "messages")}
    prompt = record.get("prompt")
    for key in ("step_labels", "mistake_step"):
        if shared.get(key) is not None:
            raise Unusable(f"{key} beside chosen and rejected, of which it would be one")
    if not isinstance(prompt, list):  # a text repeats what the conversations begin with
        shared, prompt = shared | {"prompt": prompt}, []
    both = [_part(record, key, prompt) for key in PAIR]
    at = next((i for i, (one, other) in enumerate(zip(*both, strict=False)) if one != other), -1)
    if not all(isinstance(of[at], dict) and of[at].get("role") == "assistant" for of in both if at >= 0) or at < 0:
        raise Unusable("chosen and rejected do not part at an assistant message")
    given = records.given_id(record.get("id"), origin.source) or origin.new_id()
    pair = records.label(record.get("pair_id"), "pair_id") or given
    task = record.get("task_id")
    return [
        trajectory(
            shared
            | {"messages": messages, "id": f"{given}/{key}", "pair_id": pair, "step_labels": {str(at): label}}
            | {"task_id": pair if task is None else task},
            origin,
        )
        for (key, label), messages in zip(PAIR.items(), both, strict=True)
    ]


def _part(record: dict[str, Any], key: str, prompt: list[Any]) -> list[Any]:
    if not isinstance(record[key], list):
        raise Unusable(f"{key} is not a list of messages but {records.value_shown(record[key])}")
    return deepcopy([*prompt, *record[key]])  # of which the messages are converted in place


def trajectory(record: dict[str, Any], origin: Origin, kept: Collection[str] = ()) -> Trajectory:
    """The trajectory of one conversation.

    Args:
      kept: keys that nobody misses who finds them in `extra`.

    Raises:
      Unusable: why there is none.
    """
    padded = unpad_arguments(record.get("messages"))
    history, left_behind = messages(record.get("messages"))
    if padded:
        left_behind["tool_calls.function.arguments: nulls of padding"] = padded
    # Of two answers the second may be the right one, which the task's author gave.
    answer = next((key for key in _ANSWERS if holds(record.get(key))), None)
    others = [key for key in record if key not in _KEYS or (key in _ANSWERS and key != answer)]
    labels = step_labels(record.get("step_labels"), history)
    mistake, wrong = records.mistake_step(record.get("mistake_step"), len(history)), first_wrong(labels)
    return Trajectory(
        place=origin.place,
        trajectory_id=records.given_id(record.get("id"), origin.source) or origin.new_id(),
        benchmark=records.optional_text(record.get("benchmark"), "benchmark") or BENCHMARK,
        domain=records.optional_text(record.get("domain"), "domain") or origin.source.stem,
        task_id=records.label(record.get("task_id"), "task_id"),
        trial=records.trial(record.get("trial"), origin.source),
        behavior=records.optional_text(record.get("behavior"), "behavior"),
        messages=history,
        system=records.optional_text(record.get("system_message"), "system_message"),
        tools=_tools(record.get("tools")),
        reward=records.number(record.get("reward"), "reward"),
        mistake_step=wrong if mistake is None else mistake,
        mistake_agent=records.optional_text(record.get("mistake_agent"), "mistake_agent"),
        answer=_answer(record.get(answer)) if answer else None,
        extra=records.extra(record, others),
        left_behind=left_behind,
        unread=[key for key in others if key not in kept and holds(record[key])],
        pair_id=records.label(record.get("pair_id"), "pair_id"),
        step_labels=labels,
        mistake_from_labels=mistake is None and wrong is not None,
    )


def _answer(value: Any) -> str | None:
    """Text as it is; a number, a list and the like as JSON."""
    return records.text(value, "answer") if isinstance(value, str) else records.as_json(value, "answer")


def _tools(value: Any) -> str | None:
    if value is not None and not isinstance(value, list):
        raise Unusable(f"tools is not a list but {records.value_shown(value)}")
    return records.as_json(unpadded_tools(value) or None, "tools")
