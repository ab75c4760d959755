"""Files that hold conversations in another container than is read: what they are, and what was expected."""

import json
from itertools import islice
from typing import Any

from pa_dist.ingest.json_stream import Broken, Scanner, lines
from pa_dist.ingest.sources import Source

EXPECTED = "expected one conversation a line (JSON Lines)"
# First bytes, longer ones in front: a mark of UTF-32 begins with one of UTF-16.
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\x00": "UTF-16",
    b"[\x00": "UTF-16",
    b"\x00{": "UTF-16",
    b"\x00[": "UTF-16",
}
_COMPRESSED = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_POINTER = b"version https://git-lfs"
_LINES = 20


def not_text(source: Source) -> str | None:
    """Why a file is no JSON text in UTF-8, from its first bytes."""
    with source.open() as file:
        first = file.read(64)
    for mark, encoding in _MARKS.items():
        if first.startswith(mark):
            return f"text in {encoding}; expected UTF-8"
    for mark, suffix in _COMPRESSED.items():
        if first.startswith(mark):
            return f"compressed; its name has to end in .{suffix}"
    return "a git-lfs pointer, not the file; `git lfs pull` brings that" if first.startswith(_POINTER) else None


def not_lines(source: Source, limit: int) -> str | None:
    """Why a file whose first line is no conversation is no JSON Lines as a whole; None where it may be."""
    with source.open() as file:
        found = list(islice(lines(file, limit), _LINES))
    if not found or found[0].raw is None:
        return None
    first, *others = found
    line = _loaded(first.raw)
    if line is not None:
        return of_list(line) if not others else None
    with source.open() as file:
        scanner = Scanner(file, limit)
        try:
            if scanner.look(b"{", b"[") == b"[":
                # The second is asked for, too: after the first comes a comma, or the list is a line that is cut off.
                return of_list([_loaded(element.raw) for element in islice(scanner.array(), 2)])
            raw = scanner.take()
        except Broken:
            return None
    # Of a document beyond the limit, only that no line is a record.
    spans = isinstance(_loaded(raw), dict) if raw else not any(isinstance(_loaded(e.raw), dict) for e in others)
    return f"a JSON document over several lines; {EXPECTED}" if spans else None


def of_list(value: Any) -> str | None:
    """What a JSON list is, by its first element."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, dict) and "messages" in first:
        return f"a list of conversations; {EXPECTED}"
    if isinstance(first, dict) and "role" in first:
        return f"a list of messages; {EXPECTED}, an object with `messages`"
    return None


def _loaded(raw: bytes | None) -> Any:
    """A value, None where it cannot be told."""
    try:
        return json.loads((raw or b"null").decode())
    except (ValueError, RecursionError):
        return None
