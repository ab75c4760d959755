"""What a reader yields: a `Trajectory`, or a `Reject` that says where and why; and the checks that decide which."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

from pa_dist.ingest.json_stream import RECORD_BYTES, Scanner
from pa_dist.ingest.sources import Source
from pa_dist.trajectory import Trajectory

INT32 = range(-(2**31), 2**31)
# Up to here a float is one integer only.
_EXACT = 2**53
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
_LONGEST_SHOWN = 40


class Unusable(Exception):
    """Why a record cannot be used. Readers turn it into a `Reject`; it leaves no reader."""


@dataclass(frozen=True)
class Reject:
    """A row of `rejects`."""

    source: str
    place: str
    reason: str


@dataclass(frozen=True)
class Origin:
    """Where a record was found, and its bytes; None if they were more than the limit."""

    source: Source
    place: str
    raw: bytes | None
    limit: int = RECORD_BYTES

    def new_id(self) -> str:
        """A stable id for a record without one. The parent folder's name tells equal rollouts of two trials apart; the
        rest of the path is left out, so that a corpus can move."""
        names = (self.source.parent, self.source.file_name, self.place)
        content = blake2b(digest_size=16)
        for part in (*(name.encode(errors="surrogateescape") for name in names), self.raw or b""):
            content.update(len(part).to_bytes(8))  # lengths keep ("ab", "c") and ("a", "bc") apart
            content.update(part)
        return content.hexdigest()


def usable(origin: Origin, build: Callable[[dict[str, Any], Origin], Trajectory]) -> Trajectory | Reject:
    """Parse one record and build its trajectory, or say why it cannot be used; `build` may raise `Unusable`."""
    (only,) = all_usable(origin, lambda record, origin: [build(record, origin)])
    return only


def all_usable(
    origin: Origin, build: Callable[[dict[str, Any], Origin], Sequence[Trajectory]]
) -> Sequence[Trajectory | Reject]:
    """The same of a record that may hold several trajectories: all of them, or one reject."""
    try:
        if origin.raw is None:
            raise Unusable(too_long(origin.limit))
        record = parse(origin.raw)
        if not isinstance(record, dict):
            raise Unusable(f"not a JSON object but {value_shown(record)}")
        return build(record, origin)
    except Unusable as error:
        return [Reject(origin.source.name, origin.place, str(error))]
    except RecursionError:
        return [Reject(origin.source.name, origin.place, "nested too deeply")]


def whole(
    source: Source, limit: int, build: Callable[[dict[str, Any], Origin], Trajectory]
) -> Iterator[Trajectory | Reject]:
    """The one record that is a file."""
    with source.open() as file:
        scanner = Scanner(file, limit)
        scanner.look(b"{")
        yield usable(Origin(source, "file", scanner.take(), limit), build)
        scanner.end()


def too_long(limit: int) -> str:
    """Why a record of more bytes than the limit is not read."""
    return f"longer than {limit / 2**20:g} MiB, the largest record that is read (trajectories.max_record_mib)"


def parse(raw: bytes) -> Any:
    """`json.loads` of UTF-8 only. NaN is let in: Python writes it, and only a label must be a finite number."""
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unusable(f"not UTF-8 (byte {error.start} of the record)") from None
    except ValueError as error:  # also an integer of more digits than Python reads
        raise Unusable(f"not JSON: {error}") from None


def given_id(value: Any, source: Source) -> str | None:
    """A record's own id. Rollouts of a task may repeat it from one `trial_<i>` folder to the next, so in such a
    folder its name is added, whatever else is read: twice in one trial is still a duplicate."""
    if value == "":
        raise Unusable("id is an empty string")
    given = label(value, "id")
    return given if given is None or source.trial is None else f"{given}/trial_{source.trial}"


def value_shown(value: Any) -> str:
    """A value as reasons show it: the beginning of its JSON, escaped, and its type."""
    if value is None:
        return "null"
    if isinstance(value, str):
        value = value[: _LONGEST_SHOWN + 1]
    pieces = islice(json.JSONEncoder(default=str).iterencode(value), _LONGEST_SHOWN + 1)  # of a long one, no more
    written = "".join(piece[: _LONGEST_SHOWN + 1] for piece in pieces)
    short = written if len(written) <= _LONGEST_SHOWN else f"{written[:_LONGEST_SHOWN]}..."
    return f"{short} ({_KINDS.get(type(value), type(value).__name__)})"


def text(value: Any, what: str) -> str:
    """A string that UTF-8, and so Arrow, can hold."""
    if not isinstance(value, str):
        raise Unusable(f"{what} is not a string but {value_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"{what} holds a lone surrogate (character {error.start})") from None
    return value


def optional_text(value: Any, what: str) -> str | None:
    """Text, or None where there is none. Raises `Unusable`."""
    return None if value is None else text(value, what)


def label(value: Any, what: str) -> str | None:
    """An identifier: a string, or an integer as a string."""
    whole = _whole(value)
    if whole is not None:
        return str(whole)
    if value is not None and not isinstance(value, str):
        raise Unusable(f"{what} is neither a string nor an integer but {value_shown(value)}")
    return optional_text(value, what)


def _whole(value: Any) -> int | None:
    """The integer that a value is. A column of integers with a null in it is often written as floats: 3.0 is 3."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: Any, what: str) -> float | None:
    """A finite float; true is 1 and false 0, as rewards are."""
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise Unusable(f"{what} is not a number but {value_shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise Unusable(f"{what} is not a finite number but {value_shown(value)}")
    return result


def integer(value: Any, what: str) -> int | None:
    """An integer, also where it is written as a float. Raises `Unusable`."""
    if value is None:
        return None
    whole = _whole(value)
    if whole is None:
        raise Unusable(f"{what} is not an integer but {value_shown(value)}")
    if whole not in INT32:
        raise Unusable(f"{what} is beyond 32 bits: {value_shown(whole)}")
    return whole


def trial(value: Any, source: Source) -> int | None:
    """The trial of the folder `trial_<i>` if the file lies in one, else the record's own."""
    return integer(value, "trial") if source.trial is None else integer(source.trial, "trial of the folder")


def mistake_step(value: Any, n_messages: int) -> int | None:
    """A 0-based message index. Who & When publishes it as a string of digits."""
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value):
        value = int(value)
    step = integer(value, "mistake_step")
    if step is not None and not 0 <= step < n_messages:
        raise Unusable(f"mistake_step {step} is outside the history of {n_messages} messages")
    return step


def as_json(value: Any, what: str) -> str | None:
    """JSON text, null for null."""
    return None if value is None else text(json.dumps(value, ensure_ascii=False), what)


def extra(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The named keys that are not null, as JSON."""
    return as_json({name: record[name] for name in names if record.get(name) is not None} or None, "extra")


def renamed(record: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """A record with some of its keys under other names."""
    return {names.get(key, key): value for key, value in record.items()}


def section(record: Mapping[str, Any], name: str, path: str = "") -> dict[str, Any]:
    """A nested object; an empty one where it is null or absent."""
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unusable(f"{path}{name} is not an object but {value_shown(value)}")
    return value
