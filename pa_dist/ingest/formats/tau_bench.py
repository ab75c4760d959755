"""tau-bench (v1): a list of `{task_id, trial, reward, info, traj}`; published files are `<behavior>-<domain>.json`."""

from collections.abc import Iterator
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.json_stream import RECORD_BYTES, Scanner
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

BENCHMARK = "tau_bench"
DOMAINS = ("airline", "retail")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Runs of one file."""
    with source.open() as file:
        scanner = Scanner(file, limit)
        for element in scanner.array():
            yield records.usable(Origin(source, f"item {element.index}", element.raw, limit), _trajectory)
        scanner.end()


def _behavior_and_domain(stem: str) -> tuple[str | None, str]:
    behavior, _, domain = stem.rpartition("-")
    return (behavior, domain) if behavior and domain in DOMAINS else (None, stem)


def _trajectory(record: dict[str, Any], origin: Origin) -> Trajectory:
    behavior, domain = _behavior_and_domain(origin.source.stem)
    history, left_behind = messages(record.get("traj"), "traj")
    info = records.section(record, "info")
    task = records.section(info, "task", "info.")
    return Trajectory(
        place=origin.place,
        trajectory_id=origin.new_id(),
        benchmark=BENCHMARK,
        domain=domain,
        task_id=records.label(record.get("task_id"), "task_id"),
        trial=records.trial(record.get("trial"), origin.source),
        behavior=behavior,
        messages=history,
        system=None,
        tools=None,
        reward=records.number(record.get("reward"), "reward"),
        mistake_step=None,
        mistake_agent=None,
        extra=records.extra({**task, **info}, ("instruction", "user_id", "source", "user_cost", "error")),
        left_behind=left_behind,
    )
