"""tau2-bench: `{timestamp, info, tasks, simulations}`, a file a domain, a trajectory a simulation."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.json_stream import Broken, Scanner
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject, Trajectory, Unusable
from pa_dist.ingest.sources import Source

BENCHMARK = "tau2"
_EXTRA = ("termination_reason", "seed", "mode", "agent_cost", "user_cost", "duration", "system_message")


def read(source: Source) -> Iterator[Trajectory | Reject]:
    """Simulations of one file. The policy text is kept with each, as `system_message` of `extra`: the
    messages leave it out."""
    try:
        info = _Info(source)
    except Unusable as error:
        yield Reject(source.name, "info", str(error))
        return
    build = partial(_trajectory, info=info)
    found = False
    with source.open() as file:
        scanner = Scanner(file)
        for key in scanner.members():
            if key != "simulations":
                scanner.skip()
                continue
            found = True
            for element in scanner.array():
                yield records.usable(Origin(source, f"simulations.{element.index}", element.raw), build)
        scanner.end()
    if not found:
        yield Reject(source.name, "file", "no simulations")


class _Info:
    """What a file says of all its simulations. It may stand behind them, so it is looked for in a pass of its own,
    which ends at once where it stands in front."""

    def __init__(self, source: Source) -> None:
        info = _find_info(source)
        environment = records.section(info, "environment_info", "info.")
        agent = records.section(info, "agent_info", "info.")
        domain = records.optional_text(environment.get("domain_name"), "info.environment_info.domain_name")
        self.domain = domain or source.stem
        self.behavior = records.optional_text(agent.get("llm"), "info.agent_info.llm")
        self.policy = records.optional_text(environment.get("policy"), "info.environment_info.policy")
        self.tools = records.as_json(environment.get("tool_defs") or None, "info.environment_info.tool_defs")


def _find_info(source: Source) -> dict[str, Any]:
    with source.open() as file:
        scanner = Scanner(file)
        try:
            for key in scanner.members():
                if key == "info":
                    raw = scanner.take()
                    if raw is None:
                        raise Unusable("longer than the largest record that is read")
                    return records.section({"info": records.parse(raw)}, "info")
                scanner.skip()
        except Broken:  # the pass over the simulations meets the same fault, and reports it
            pass
    return {}


def _trajectory(record: dict[str, Any], origin: Origin, info: _Info) -> Trajectory:
    history = messages(record.get("messages"))
    reward = records.section(record, "reward_info").get("reward")
    facts = {"system_message": info.policy, **{k: v for k, v in record.items() if v is not None}}
    return Trajectory(
        place=origin.place,
        trajectory_id=records.given_id(record.get("id"), origin.source) or origin.new_id(),
        benchmark=BENCHMARK,
        domain=info.domain,
        task_id=records.label(record.get("task_id"), "task_id"),
        trial=records.trial(record.get("trial"), origin.source),
        behavior=info.behavior,
        messages=history,
        tools=info.tools,
        reward=records.number(reward, "reward_info.reward"),
        mistake_step=None,
        mistake_agent=None,
        extra=records.extra(facts, _EXTRA),
    )
