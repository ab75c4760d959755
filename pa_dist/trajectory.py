"""A trajectory and its messages, as readers give them and the table `trajectories` has them (`schema.TRAJECTORIES`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict


class ToolCall(TypedDict):
    """One row of `messages.tool_calls`; `arguments` is JSON."""

    id: str | None
    name: str | None
    arguments: str | None


class Message(TypedDict):
    """One row of `messages`."""

    role: str
    name: str | None
    content: str | None
    reasoning: NotRequired[str | None]
    """What the model thought before its content. Not part of the published rendering."""
    tool_calls: list[ToolCall] | None
    tool_call_id: NotRequired[str | None]


@dataclass(frozen=True)
class Trajectory:
    """A row of `trajectories` (`schema.TRAJECTORIES`), and its place in the file."""

    place: str
    trajectory_id: str
    benchmark: str
    domain: str
    task_id: str | None
    trial: int | None
    behavior: str | None
    messages: list[Message]
    system: str | None
    tools: str | None
    reward: float | None
    mistake_step: int | None
    mistake_agent: str | None
    extra: str | None
    answer: str | None = None
    """What it came to, where the record says so."""
    left_behind: Mapping[str, int] = field(default_factory=dict)
    """How often a key of its messages held something that has no column."""
    unread: Sequence[str] = ()
    """Keys of the record that only `extra` keeps."""
    pair_id: str | None = None
    step_labels: Sequence[int | None] | None = None
    """Of each message: 1 right, 0 neutral, -1 wrong; None where nobody said."""
    mistake_from_labels: bool = False
    """Whether `mistake_step` is the first wrong one of these, as nobody gave it."""
