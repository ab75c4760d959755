"""What rows of a file of labels say of one trajectory, read as ingest reads the labels of a record."""

from collections.abc import Mapping, Sequence
from typing import Any

from pa_dist.ingest import records
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.step_labels import first_wrong, step_labels
from pa_dist.trajectory import Message

Said = dict[str, Any]
_OUTCOMES = {
    **dict.fromkeys(("true", "pass", "passed", "success", "correct"), 1.0),
    **dict.fromkeys(("false", "fail", "failed", "failure", "incorrect"), 0.0),
}


def said(row: Mapping[str, Any], messages: Sequence[Message]) -> Said:
    """The labels that a row gives: reward, mistake_step, mistake_agent, step_labels.

    Args:
      messages: of the trajectory; their roles alone are read.

    Raises:
      Unusable: naming the label at fault.
    """
    reward = _outcome(row.get("reward"), "reward")
    found = {
        "reward": _outcome(row.get("success"), "success") if reward is None else reward,
        "mistake_step": records.mistake_step(row.get("mistake_step"), len(messages)),
        "mistake_agent": records.optional_text(row.get("mistake_agent"), "mistake_agent"),
        "step_labels": step_labels(row.get("step_labels"), messages),
    }
    return {name: label for name, label in found.items() if label is not None}


def _outcome(value: Any, what: str) -> float | None:
    word = _OUTCOMES.get(value.strip().lower()) if isinstance(value, str) else None
    return records.number(value, what) if word is None else word


def together(rows: Sequence[Said]) -> Said:
    """What all rows of a trajectory say.

    Raises:
      Unusable: two of them say different things; names the label.
    """
    found: Said = {}
    for row in rows:
        for name, label in row.items():
            if found.setdefault(name, label) != label:
                raise Unusable(f"another row of the same trajectory gives another {name}; none of them is used")
    return found


def joined(own: Said, later: Said) -> Said:
    """A trajectory's own labels with later ones in their place. A `mistake_step` that was the first of its own
    `step_labels` to be wrong goes with them, as nobody gave it."""
    found = own | later
    if (
        "step_labels" in later
        and "mistake_step" not in later
        and own["mistake_step"] == first_wrong(own["step_labels"])
    ):
        found["mistake_step"] = first_wrong(later["step_labels"])
    return found
