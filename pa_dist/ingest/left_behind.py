"""Which keys of what was read no column takes, counted over a whole ingest."""

import json
import re
from collections.abc import Mapping
from typing import Any

MOST_KEYS = 200
"""Keys that are told apart: a log may use ids as keys."""
OTHERS = "(other keys)"
_LONGEST = 60
_DEEPEST = 4


def holds(value: Any, deepest: int = _DEEPEST) -> bool:
    """Whether there is anything in a value: null, empty, and what consists of these alone is nothing."""
    if value is None or value == "":
        return False
    if not isinstance(value, dict | list) or not deepest:
        return True
    return any(holds(inner, deepest - 1) for inner in (value.values() if isinstance(value, dict) else value))


class KeyCounts:
    """How often each key held something. Keys are strangers' text: kept escaped, cut, and not without end."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, found: Mapping[str, int]) -> None:
        """Count what one record held."""
        for key, n in sorted(found.items()):  # which keys there is room for has to be the same every time
            self._add(_shown(key), n)

    def merge(self, counts: Mapping[str, int]) -> None:
        """Count what another tally counted."""
        for key, n in counts.items():
            self._add(key, n)

    def _add(self, key: str, n: int) -> None:
        if key not in self.counts and len(self.counts) >= MOST_KEYS:
            key = OTHERS
        self.counts[key] = self.counts.get(key, 0) + n

    @property
    def sorted(self) -> dict[str, int]:
        """The counts, the largest first."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))


def in_words(counts: Mapping[str, int], most: int = 5) -> str:
    """`audio 12, refusal 3 and 4 more keys`, of counts that are sorted."""
    first = ", ".join(f"{key} {n:,}" for key, n in list(counts.items())[:most])
    more = len(counts) - most
    return f"{first} and {more} more key{'s' if more > 1 else ''}" if more > 0 else first


def _shown(key: str) -> str:
    """A key as one word of a line: quoted and escaped unless it is plain."""
    if len(key) > _LONGEST:
        key = key[:_LONGEST] + "..."
    return key if re.fullmatch(r"[\w.\- :,]+", key, re.ASCII) else json.dumps(key)
