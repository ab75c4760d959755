"""AgentDojo: a run a file, `{suite_name, pipeline_name, user_task_id, injection_task_id, messages, utility, security}`.

The reward is `utility`, whether the user's task was done; `security` and the attack go to `extra`.
"""

from collections.abc import Iterator
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.json_stream import RECORD_BYTES
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

BENCHMARK = "agentdojo"
_EXTRA = ("injection_task_id", "attack_type", "injections", "security", "error", "duration", "benchmark_version")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """The run of one file."""
    return records.whole(source, limit, _trajectory)


def _trajectory(record: dict[str, Any], origin: Origin) -> Trajectory:
    history = record.get("messages")
    if isinstance(history, list):
        history = [_openai(message) for message in history]
    utility = record.get("utility")
    if utility is not None and not isinstance(utility, bool):
        raise Unusable(f"utility is not true or false but {records.value_shown(utility)}")
    converted, left_behind = messages(history)
    task = records.label(record.get("user_task_id"), "user_task_id")
    injection = records.label(record.get("injection_task_id"), "injection_task_id")
    return Trajectory(
        place=origin.place,
        trajectory_id=origin.new_id(),
        benchmark=BENCHMARK,
        domain=records.optional_text(record.get("suite_name"), "suite_name") or origin.source.stem,
        # Attacked and not, a user's task is two tasks: other text, other chance of success.
        task_id=task if task is None or injection is None else f"{task}/{injection}",
        trial=records.trial(None, origin.source),
        behavior=records.optional_text(record.get("pipeline_name"), "pipeline_name"),
        messages=converted,
        system=None,
        tools=None,
        reward=None if utility is None else float(utility),
        mistake_step=None,
        mistake_agent=None,
        extra=records.extra(record, _EXTRA),
        left_behind=left_behind,
    )


def _openai(message: Any) -> Any:
    """AgentDojo writes a call as `{function: NAME, args: {...}}` and a text block's text as `content`. Of a call that
    failed it shows the model the error instead of the content."""
    if not isinstance(message, dict):
        return message
    message = dict(message)
    content, calls = message.get("content"), message.get("tool_calls")
    if message.get("role") == "tool":
        content = message.pop("error", None) or content
    if isinstance(content, list):
        content = [_openai_part(part) for part in content]
    if isinstance(calls, list):
        calls = [
            records.renamed(call, function="name", args="arguments")
            if isinstance(call, dict) and isinstance(call.get("function"), str)
            else call
            for call in calls
        ]
    return {**message, "content": content, "tool_calls": calls}


def _openai_part(part: Any) -> Any:
    return records.renamed(part, content="text") if _is_block(part) else part


def _is_block(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and "content" in part
