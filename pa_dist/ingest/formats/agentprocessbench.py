"""AgentProcessBench: JSONL, a trajectory a line, each assistant message labelled 1, 0 or -1."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.formats import chat
from pa_dist.ingest.json_stream import RECORD_BYTES
from pa_dist.ingest.records import Origin, Reject
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

KEYS = frozenset(["messages", "step_labels", "final_label"])
"""What tells its records from other conversations."""
BENCHMARK = "agentprocessbench"
_EXTRA = ("question", "ground_truth", "answer_text", "tool_metrics", "total_index")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Trajectories of one file."""
    return chat.read_lines(source, limit, lambda record, origin: [trajectory(record, origin)])


def trajectory(record: dict[str, Any], origin: Origin) -> Trajectory:
    """The trajectory of one record.

    `final_label` is the reward, -1 as 0. The first wrong step of a failure is its `mistake_step`: successes may have
    wrong steps, which did not cost them. Raises `Unusable`.
    """
    of, n, trial = (records.label(record.get(key), key) for key in ("data_source", "query_index", "sample_index"))
    final = records.number(record.get("final_label"), "final_label")
    named = "/".join(filter(None, (of, n)))
    found = chat.trajectory(
        {
            "messages": record.get("messages"),
            "tools": record.get("tools"),
            "step_labels": record.get("step_labels"),
            "id": f"{named}/{trial}" if of and n and trial else None,
            "benchmark": BENCHMARK,
            "domain": of,
            "task_id": named or None,
            "trial": record.get("sample_index"),
            "reward": None if final is None else max(final, 0.0),
            **{key: record.get(key) for key in _EXTRA},
        },
        origin,
        kept=_EXTRA,
    )
    return replace(found, mistake_step=None, mistake_from_labels=False) if final is not None and final > 0 else found
