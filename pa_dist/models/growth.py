"""How much longer a tokenizer makes a text: a normalizer may make millions of words of one, and so end a process."""

import json
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from pa_dist.render.unrenderable import Unrenderable

TIMES = 32
"""Of a text's bytes: no more may its tokens be, nor its bytes once normalized. A byte-level vocabulary makes one token
a byte, and the longest ligature of Unicode becomes eleven times its bytes."""
SLACK = 4096
# Bytes that a replacement is tried with where it cannot be told beforehand how often it takes place.
_MOST = 1 << 28


class Growth:
    """A tokenizer's normalizer, step by step."""

    def __init__(self, tokenizer: Any) -> None:
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        self._steps = [] if normalizer is None else list(_steps(normalizer, json.loads(normalizer.__getstate__())))
        factor = 1.0
        for _, spec in self._steps:
            factor *= max(1.0, _factor(spec))
        self._harmless = factor <= TIMES

    def check(self, text: str) -> None:
        """Raise `Unrenderable` where normalizing a text makes too much of it, before it is all made."""
        if self._harmless:
            return
        most = TIMES * len(text.encode()) + SLACK
        grown = text
        for step, spec in self._steps:
            expected = _expected(grown, spec)
            if expected is None or expected <= max(most, _MOST if spec["type"] != "Replace" else most):
                grown = step.normalize_str(grown)
                expected = len(grown.encode())
            if expected > most:
                raise Unrenderable(f"its tokenizer makes {expected} bytes or more of a text of {len(text.encode())}")

    def checked(self, text: str, ids: list[int]) -> list[int]:
        """Tokens of a text, if they are not too many."""
        if len(ids) > SLACK and len(ids) > TIMES * len(text.encode()) + SLACK:
            raise Unrenderable(f"its tokenizer makes {len(ids)} tokens of a text of {len(text.encode())} bytes")
        return ids


_KNOWN: WeakKeyDictionary[Any, Growth] = WeakKeyDictionary()


def growth(tokenizer: Any) -> Growth:
    """Of a tokenizer, found out once."""
    if tokenizer not in _KNOWN:
        _KNOWN[tokenizer] = Growth(tokenizer)
    return _KNOWN[tokenizer]


def _steps(normalizer: Any, spec: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    if spec["type"] == "Sequence":
        for at, part in enumerate(spec["normalizers"]):
            yield from _steps(normalizer[at], part)
    else:
        yield normalizer, spec


def _factor(spec: dict[str, Any]) -> float:
    """How many times its bytes a text may become by one step; what maps characters by a table of its own, any."""
    if spec["type"] == "Replace":
        return len(spec["content"].encode()) / max(1, len(_pattern(spec).encode()))
    if spec["type"] == "Prepend":
        return 1.0 if len(spec["prepend"].encode()) <= SLACK / 8 else float("inf")
    return float("inf") if spec["type"] == "Precompiled" else 1.0


def _expected(text: str, spec: dict[str, Any]) -> int | None:
    """Bytes after a step, the most where a pattern decides; None where the step is to be tried."""
    size = len(text.encode())
    if spec["type"] == "Prepend":
        return size + len(spec["prepend"].encode())
    if spec["type"] != "Replace":
        return None
    made, pattern = len(spec["content"].encode()), _pattern(spec)
    if pattern:
        return size + text.count(pattern) * (made - len(pattern.encode()))
    most = (len(text) + 1) * made
    return most if most > _MOST else None


def _pattern(spec: dict[str, Any]) -> str:
    """A replacement's own text; none of a pattern, which may match as little as nothing."""
    return str(spec["pattern"].get("String", ""))
