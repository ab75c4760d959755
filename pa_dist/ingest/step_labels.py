"""Labels of a trajectory's steps, as files give them: right, neutral or wrong."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pa_dist.ingest.records import Unusable, integer, value_shown
from pa_dist.schema import NEUTRAL, RIGHT, WRONG
from pa_dist.trajectory import Message, Trajectory

Labels = list[int | None]
_NUMBERS = (RIGHT, NEUTRAL, WRONG)
_KINDS = ("right", "neutral", "wrong")
_WORDS = {"right": RIGHT, "correct": RIGHT, "neutral": NEUTRAL, "wrong": WRONG, "incorrect": WRONG}
_EXPECTED = "1, 0, -1, right, neutral, wrong, true or false"


def step_labels(value: Any, messages: Sequence[Message], what: str = "step_labels") -> Labels | None:
    """A label for each message; None where no message has one.

    Args:
      value: a list with an entry for each assistant message, or for each message of any role; or a mapping of message
        indexes, as JSON has them in strings. A label is 1, 0 or -1, `right`, `neutral` or `wrong`, or a boolean; null
        says nothing.

    Raises:
      Unusable: naming the entry at fault.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        found = {str(key): _label(label, f"{what}[{key!r:.20}]") for key, label in value.items()}
        # A column of structs has the keys of all rows, null in those that lack them.
        places = {_place(key, len(messages), what): label for key, label in found.items() if label is not None}
        aligned = [places.get(i) for i in range(len(messages))]
    elif isinstance(value, list):
        labels = [_label(label, f"{what}[{i}]") for i, label in enumerate(value)]
        aligned = _aligned(labels, messages, what)
    else:
        raise Unusable(f"{what} is neither a list nor an object but {value_shown(value)}")
    return None if all(label is None for label in aligned) else aligned


def first_wrong(labels: Labels | None) -> int | None:
    """The first message that is labelled wrong."""
    return labels.index(WRONG) if labels is not None and WRONG in labels else None


def counted(trajectory: Trajectory) -> dict[str, int]:
    """What a run says of step labels, of one trajectory: nothing where there are none."""
    if trajectory.step_labels is None:
        return {}
    kinds = {name: trajectory.step_labels.count(label) for name, label in zip(_KINDS, _NUMBERS, strict=True)}
    return {"trajectories": 1, **kinds, "mistakes": int(trajectory.mistake_from_labels)}


def in_words(counts: Mapping[str, int]) -> str:
    """The sums of these over a run."""
    kinds = ", ".join(f"{counts[name]:,} {name}" for name in _KINDS)
    taken = f"; of {counts['mistakes']:,} the first wrong one is the mistake_step" if counts["mistakes"] else ""
    return f"step labels of {counts['trajectories']:,} trajectories: {kinds}{taken}"


def _aligned(labels: Labels, messages: Sequence[Message], what: str) -> Labels:
    """A list's labels, one a message."""
    said = [message["role"] == "assistant" for message in messages]
    if len(labels) in (0, len(messages)):
        return labels
    if len(labels) != sum(said):
        raise Unusable(f"{what} has {len(labels)} entries for {sum(said)} assistant messages, of {len(said)} in all")
    each = iter(labels)
    return [next(each) if assistant else None for assistant in said]


def _place(key: str, n_messages: int, what: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", key, re.ASCII) or int(key) >= n_messages:
        raise Unusable(f"{what} has {value_shown(key)}, which is no index of its {n_messages} messages")
    return int(key)


def _label(value: Any, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return RIGHT if value else WRONG
    if isinstance(value, str):
        label = _WORDS.get(value)
    else:
        label = integer(value, what) if isinstance(value, int | float) else None
    if label not in _NUMBERS:
        raise Unusable(f"{what} is no label but {value_shown(value)}; {_EXPECTED}")
    return label
