"""What a plan holds."""

from dataclasses import dataclass

from pa_dist.plan.estimate import Estimate


@dataclass(frozen=True)
class ModelPlan:
    """One model of the pair."""

    model: str
    parameters: int
    active: int
    """Weights of the matrices that a token passes, the head's among them."""
    passes: int
    """How often the corpus is scored with it: the reference once more for each merged one."""
    tokens: Estimate
    """These three of one pass."""
    distinct_tokens: Estimate
    flops: Estimate
    memory: dict[str, int]
    """Bytes of a replica, by what for."""
    apart: str | None
    """Why prefixes are not shared."""


@dataclass(frozen=True)
class RewardPlan:
    """One reward model."""

    model: str
    parameters: int
    tokens: Estimate
    generated: Estimate
    """Tokens of critiques, at most."""
    truncated: Estimate
    rejects: Estimate
    flops: Estimate
    weights_bytes: int


@dataclass(frozen=True)
class DevicePlan:
    """One device."""

    device: str
    per_second: dict[str, float]
    """What a replica of each model is taken to do, in `unit`."""
    unit: str
    hours: float
    """Of the scoring stage, with the config's replicas."""
    device_hours: float
    reward_hours: float | None
    """Of the reward models after it; null where one generates."""
    memory: float | None
    fits: dict[str, bool | None]
    """Whether a replica's memory is there, of each model; on the CPU of one machine, that of all replicas of both."""


@dataclass(frozen=True)
class Expected:
    """Rejects of one kind."""

    stage: str
    reason: str
    count: float


@dataclass(frozen=True)
class Plan:
    """All of it. Totals are of the whole corpus; their errors are 0 where nothing was extrapolated."""

    name: str | None
    files: int
    read_files: int
    bytes: int
    read_bytes: int
    sampled: int
    """Trajectories that were tokenised and counted."""
    exact: bool
    records: float
    trajectories: float
    scored: Estimate
    steps: Estimate
    truncated: Estimate
    """Trajectories that lose some of an action."""
    truncated_steps: Estimate
    action_tokens: Estimate
    logprobs_bytes: Estimate
    rejects: list[Expected]
    models: dict[str, ModelPlan]
    reward_models: dict[str, RewardPlan]
    devices: list[DevicePlan]
    assumptions: list[str]
