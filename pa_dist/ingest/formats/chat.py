"""Chat logs: JSONL, a conversation of OpenAI-style messages a line.

Keys: messages, and optionally id, task_id, trial, reward, mistake_step, mistake_agent, final_answer or answer,
system_message, tools, benchmark, domain and behavior; any other goes to `extra`.
"""

from collections.abc import Iterator
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.containers import not_lines
from pa_dist.ingest.json_stream import RECORD_BYTES, lines
from pa_dist.ingest.left_behind import holds
from pa_dist.ingest.messages import messages
from pa_dist.ingest.padding import unpad_arguments, unpadded_tools
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

BENCHMARK = "chat"
_LABELS = ("task_id", "trial", "reward", "mistake_step", "mistake_agent", "benchmark", "domain", "behavior")
_ANSWERS = ("final_answer", "answer")
_KEYS = frozenset(["messages", "id", "system_message", "tools", *_LABELS, *_ANSWERS])


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Conversations of one file; a bad line is dropped alone, and a file that is no lines as a whole."""
    with source.open() as file:
        for n, element in enumerate(lines(file, limit)):
            item = records.usable(Origin(source, f"line {element.index}", element.raw, limit), trajectory)
            if n == 0 and isinstance(item, Reject) and (fault := not_lines(source, limit)):
                yield Reject(source.name, "file", fault)
                return
            yield item


def trajectory(record: dict[str, Any], origin: Origin) -> Trajectory:
    """The trajectory of one conversation. Raises `Unusable`."""
    padded = unpad_arguments(record.get("messages"))
    history, left_behind = messages(record.get("messages"))
    if padded:
        left_behind["tool_calls.function.arguments: nulls of padding"] = padded
    # Of two answers the second may be the right one, which the task's author gave.
    answer = next((key for key in _ANSWERS if holds(record.get(key))), None)
    others = [key for key in record if key not in _KEYS or (key in _ANSWERS and key != answer)]
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
        mistake_step=records.mistake_step(record.get("mistake_step"), len(history)),
        mistake_agent=records.optional_text(record.get("mistake_agent"), "mistake_agent"),
        answer=_answer(record.get(answer)) if answer else None,
        extra=records.extra(record, others),
        left_behind=left_behind,
        unread=[key for key in others if holds(record[key])],
    )


def _answer(value: Any) -> str | None:
    """Text as it is; a number, a list and the like as JSON."""
    return records.text(value, "answer") if isinstance(value, str) else records.as_json(value, "answer")


def _tools(value: Any) -> str | None:
    if value is not None and not isinstance(value, list):
        raise Unusable(f"tools is not a list but {records.value_shown(value)}")
    return records.as_json(unpadded_tools(value) or None, "tools")
