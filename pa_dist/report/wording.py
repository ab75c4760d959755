"""Names and findings as the report writes them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pa_dist.reduce.metrics.groups import Group
from pa_dist.report.numbers import figure, number

Row = dict[str, Any]

SCENARIOS = {
    "uq": "Which trajectories succeed",
    "prefix": "How early it shows",
    "best_of_n": "Choosing the best of n trials",
    "fa": "Where failures begin",
}
# What each is judged by.
MAIN = {"uq": "auroc", "prefix": "auroc_at", "best_of_n": "success", "fa": "step_accuracy"}
MINE = "progress_advantage"
# The predictor of whose baseline the random choice is the fair one.
CHANCE = "random"
_MOST_NAMED = 3
UNNAMED = "a policy without a name"


def plain(name: str) -> str:
    """A name from a file as harmless text: what would move the cursor or turn the line round is shown as a mark."""
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Cn") else letter for letter in name)


def titles(groups: Iterable[Group], shown: Callable[[str], str] = plain) -> dict[Group, str]:
    """Groups in words: benchmark and domain, and the behavior where several share these.

    Args:
      groups: those that stand beside each other.
      shown: makes a name from a file harmless where it is shown.
    """
    groups = list(dict.fromkeys(groups))
    shared = Counter(group[:2] for group in groups)
    found = {}
    for group in groups:
        *where, behavior = (shown(name) if name else "" for name in group)
        found[group] = " ".join(filter(None, where)) or "all trajectories"
        if shared[group[:2]] > 1:
            found[group] += f", by {behavior or UNNAMED}"
    return found


class Slugs:
    """Names for files and ids: safe letters, and no two alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, *names: str | None) -> str:
        """A new one for these names."""
        words = re.sub(r"[^a-z0-9]+", "-", " ".join(filter(None, names)).lower()).strip("-")[:60]
        slug, count = words or "figure", 1
        while slug in self._taken:
            count += 1
            slug = f"{words or 'figure'}-{count}"
        self._taken.add(slug)
        return slug


def finding(scenario: str, rows: Sequence[Row]) -> str:
    """What progress advantage reached in one group, in words; rows of its headline cells and the baselines."""
    mine = [row for row in rows if row["method"] == MINE]
    match scenario:
        case "uq":
            row = next((row for row in mine if row["metric"] == "auroc"), None)
            return f"AUROC {_told(row)} over {_count(row, 'trajectory', 'trajectories')}"
        case "prefix":
            return early(mine)
        case "best_of_n":
            row = max((row for row in mine if row["metric"] == "success"), key=_at, default=None)
            if row is None or row["at"] is None:
                return (row and row["note"]) or "undefined"
            same = {other["metric"]: other["value"] for other in rows if _at(other) == _at(row)}
            ends = (("mean", "a random one"), ("oracle", "the best possible choice"))
            beside = [f"{said} {number(same[end])}" for end, said in ends if same.get(end) is not None]
            of = f"best of {_at(row):g}" if _at(row) else "the best trial"
            return "; ".join([f"{of} succeeds in {_told(row)} of {_count(row, 'task', 'tasks')}", *beside])
        case _:
            exact = [row for row in rows if row["metric"] == "step_accuracy"]
            steps = [row for row in mine if row["metric"] == "step_auroc"]
            told = [f"step AUROC {_told(row)} over {_count(row, 'labelled step', 'labelled steps')}" for row in steps]
            if told and not exact:
                return told[0]
            found = [f"{row['predictor']} {_told(row)}" for row in exact if row["method"] == MINE]
            chance = [row for row in exact if row["predictor"] == CHANCE]
            found += [f"a step at random {_told(row)}" for row in chance]
            n = _count(exact[0] if exact else None, "labelled trajectory", "labelled trajectories")
            return "; ".join(
                [f"the labelled step is found in a share of {n}: {', '.join(found)}", *told, *reachable(rows)]
            )


def early(rows: Sequence[Row]) -> str:
    """What one method says before trajectories end; rows of the scenario `prefix` in one group."""
    shares = [f"{_told(row)} after {row['at']:.0%}" for row in rows if row["metric"] == "auroc_at"]
    alarm = {row["metric"]: row for row in rows if row["metric"] in ("false_alarms", "caught", "caught_step")}
    said = f"AUROC {', '.join(shares)} of the steps" if shares else "undefined"
    if alarm.get("caught", {}).get("value") is None:
        return said
    at = f"{number(alarm['false_alarms']['value'])} of the successes flagged at any step"
    said += f"; with {at}, {_told(alarm['caught'])} of {_count(alarm['caught'], 'failure', 'failures')} are caught"
    step = alarm["caught_step"]["value"]
    return said if step is None else f"{said}, half of these by step {step:g}"


def reachable(rows: Sequence[Row]) -> list[str]:
    """What progress advantage finds of the labels that can be found at all, where that is not all of them.

    Args:
      rows: of failure attribution, in one group.
    """
    mine = [row for row in rows if row["method"] == MINE]
    every = max((row["n"] or 0 for row in mine if row["metric"] == "step_accuracy"), default=0)
    hit = [row for row in mine if row["metric"] == "step_accuracy_reachable"]
    n = max((row["n"] or 0 for row in hit), default=0)
    if not hit or n == every:
        return []
    if not n:
        return ["no label is on a scored step"]
    of = "the label" if n == 1 else f"the {n:,} labels"
    found = ", ".join(f"{row['predictor']} {_told(row)}" for row in hit)
    return [f"over {of} on scored steps alone: {found}"]


def _told(row: Row | None) -> str:
    return "undefined" if row is None or row["value"] is None else figure(row)


def _at(row: Row) -> float:
    return float(row["at"] or 0)


def _count(row: Row | None, one: str, many: str) -> str:
    n = 0 if row is None else row["n"] or 0
    return f"{n:,} {one if n == 1 else many}"


def listed(names: Sequence[str]) -> str:
    """A few names, or some of many: a, b, c and 4 more."""
    shown = list(names[:_MOST_NAMED])
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
