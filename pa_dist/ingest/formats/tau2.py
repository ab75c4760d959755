"""tau2-bench: `{timestamp, info, tasks, simulations}`, a file a domain, a trajectory a simulation."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pa_dist.ingest import reasoning, records
from pa_dist.ingest.json_stream import RECORD_BYTES, Broken, Scanner
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

BENCHMARK = "tau2"
_EXTRA = ("termination_reason", "seed", "mode", "agent_cost", "user_cost", "duration")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Simulations of one file. The policy text is the `system` of each: the messages leave it out."""
    try:
        info = _Info(source, limit)
    except Unusable as error:
        yield Reject(source.name, "info", str(error))
        return
    build = partial(_trajectory, info=info)
    found = False
    with source.open() as file:
        scanner = Scanner(file, limit)
        for key in scanner.members():
            if key != "simulations":
                scanner.skip()
                continue
            found = True
            for element in scanner.array():
                yield records.usable(Origin(source, f"simulations.{element.index}", element.raw, limit), build)
        scanner.end()
    if not found:
        yield Reject(source.name, "file", "no simulations")


class _Info:
    """What a file says of all its simulations. It may stand behind them, so it is looked for in a pass of its own,
    which ends at once where it stands in front."""

    def __init__(self, source: Source, limit: int) -> None:
        info = _find_info(source, limit)
        environment = records.section(info, "environment_info", "info.")
        agent = records.section(info, "agent_info", "info.")
        domain = records.optional_text(environment.get("domain_name"), "info.environment_info.domain_name")
        self.domain = domain or source.stem
        self.behavior = records.optional_text(agent.get("llm"), "info.agent_info.llm")
        self.policy = records.optional_text(environment.get("policy"), "info.environment_info.policy")
        self.tools = records.as_json(environment.get("tool_defs") or None, "info.environment_info.tool_defs")


def _find_info(source: Source, limit: int) -> dict[str, Any]:
    with source.open() as file:
        scanner = Scanner(file, limit)
        try:
            for key in scanner.members():
                if key == "info":
                    raw = scanner.take()
                    if raw is None:
                        raise Unusable(records.too_long(limit))
                    return records.section({"info": records.parse(raw)}, "info")
                scanner.skip()
        except Broken:  # the pass over the simulations meets the same fault, and reports it
            pass
    return {}


def _trajectory(record: dict[str, Any], origin: Origin, info: _Info) -> Trajectory:
    history = record.get("messages")
    if isinstance(history, list):
        history = [_with_reasoning(message) for message in history]
    converted, left_behind = messages(history)
    reward = records.section(record, "reward_info").get("reward")
    return Trajectory(
        place=origin.place,
        trajectory_id=records.given_id(record.get("id"), origin.source) or origin.new_id(),
        benchmark=BENCHMARK,
        domain=info.domain,
        task_id=records.label(record.get("task_id"), "task_id"),
        trial=records.trial(record.get("trial"), origin.source),
        behavior=info.behavior,
        messages=converted,
        system=info.policy,
        tools=info.tools,
        reward=records.number(reward, "reward_info.reward"),
        mistake_step=None,
        mistake_agent=None,
        extra=records.extra(record, _EXTRA),
        left_behind=left_behind,
    )


def _with_reasoning(message: Any) -> Any:
    """What a model thought is only in the server's response, which tau2 keeps whole as `raw_data`."""
    raw = message.get("raw_data") if isinstance(message, dict) else None
    choices = raw.get("choices") if isinstance(raw, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    response = first.get("message") if isinstance(first, dict) else None
    if not isinstance(response, dict) or any(message.get(key) for key in reasoning.KEYS):
        return message
    return {**message, **{key: response[key] for key in reasoning.KEYS if key in response}}
