"""Who & When: one failed multi-agent run a file, labelled with the agent and the step of the decisive mistake."""

from collections.abc import Iterator
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.json_stream import RECORD_BYTES
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

BENCHMARK = "who_and_when"
HAND_CRAFTED = "Hand-Crafted"
ALGORITHM_GENERATED = "Algorithm-Generated"
_EXTRA = ("question", "ground_truth", "level", "mistake_reason", "is_correct", "is_corrected", "system_prompt")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """The run of one file. Rewards are null: all of them failed, but no reward is published."""
    return records.whole(source, limit, _trajectory)


def _trajectory(record: dict[str, Any], origin: Origin) -> Trajectory:
    history, left_behind = messages(record.get("history"), "history")
    split = origin.source.parent
    if split not in (HAND_CRAFTED, ALGORITHM_GENERATED):
        # Only the generated runs name the agent apart from its role.
        split = ALGORITHM_GENERATED if any(m["name"] is not None for m in history) else HAND_CRAFTED
    return Trajectory(
        place=origin.place,
        trajectory_id=origin.new_id(),
        benchmark=BENCHMARK,
        domain=split,
        task_id=records.label(record.get("question_ID"), "question_ID"),
        trial=records.trial(None, origin.source),
        behavior=None,
        messages=history,
        system=None,
        tools=None,
        reward=None,
        mistake_step=records.mistake_step(record.get("mistake_step"), len(history)),
        mistake_agent=records.optional_text(record.get("mistake_agent"), "mistake_agent"),
        extra=records.extra(record, _EXTRA),
        left_behind=left_behind,
    )
