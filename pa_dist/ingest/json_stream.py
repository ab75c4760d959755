"""Reads the records of a JSON file of any size, holding one of them at a time.

A small scanner finds where each record begins and ends, and `json.loads` reads it. ijson, the library for this, was
tried first: its fast backend changes data without a word (a lone surrogate becomes `?`) or stops for good (NaN, a
byte order mark, with `use_float` an integer beyond 64 bits), and a fault in one record ends the file. Here a record
means exactly what `json.loads` says, a bad one is dropped alone, and both steps run at the speed of C.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

CHUNK_BYTES = 1 << 20
# A record is held in memory several times over, parsed; also bounds what a missing quote can make the scanner swallow.
RECORD_BYTES = 64 << 20
BOM = b"\xef\xbb\xbf"

# Possessive throughout (`++`, `*+`): with nothing to backtrack into, a long string costs no memory and no second look.
_BODY = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING_BODY = re.compile(_BODY, re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"' + _BODY + rb'")*+', re.DOTALL)
_SPACE = re.compile(rb"[ \t\n\r]*+")
_SCALAR = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
_QUOTE, _BACKSLASH = b'"\\'


class Readable(Protocol):
    """What a scanner reads from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


class Broken(Exception):
    """The file's own structure is at fault, so nothing after `place` can be read."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


@dataclass(frozen=True)
class Element:
    """One record. `raw` is None if it was longer than the limit."""

    index: int
    raw: bytes | None


class Scanner:
    """A cursor over the bytes of one JSON document.

    `members` and `array` walk into a container; `take` and `skip` pass over one value. A container's brackets are
    only counted: whether its inside is JSON is for `json.loads` to say.
    """

    def __init__(self, file: Readable, limit: int = RECORD_BYTES) -> None:
        self._file = file
        self._buffer = file.read(CHUNK_BYTES)
        self._offset = 0  # of the buffer in the file
        self._at = len(BOM) if self._buffer.startswith(BOM) else 0
        self._value = _Pieces(limit)  # of the value being taken, from buffers already left
        self._taking = False
        self._start = 0

    def peek(self) -> bytes:
        """The next byte that is not space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._refill():
                return self._buffer[self._at : self._at + 1]

    def look(self, *allowed: bytes) -> bytes:
        """The next byte, which must be one of these."""
        byte = self.peek()
        if byte not in allowed:
            self._broken(f"expected {' or '.join(repr(a.decode()) for a in allowed)}")
        return byte

    def step(self, *allowed: bytes) -> bytes:
        """`look`, and pass over it."""
        byte = self.look(*allowed)
        self._at += 1
        return byte

    def members(self) -> Iterator[str]:
        """Keys of the object here, the cursor on each one's value; the caller passes over it before the next."""
        self.step(b"{")
        if self.peek() == b"}":
            self._at += 1
            return
        while True:
            self.look(b'"')
            key = self.take() or b'""'  # no reader knows a key longer than the limit
            self.step(b":")
            try:
                name = str(json.loads(key.decode("utf-8")))
            except ValueError as error:
                self._broken(f"bad key: {error}")
            yield name
            if self.step(b",", b"}") == b"}":
                return

    def array(self) -> Iterator[Element]:
        """Elements of the array here."""
        self.step(b"[")
        if self.peek() == b"]":
            self._at += 1
            return
        index = 0
        while True:
            yield Element(index, self.take())
            if self.step(b",", b"]") == b"]":
                return
            index += 1

    def end(self) -> None:
        """Nothing may follow the document."""
        if self.peek():
            self._broken("something follows the JSON document")

    def take(self) -> bytes | None:
        """The bytes of the value here; None if they are more than the limit."""
        self.peek()
        self._taking, self._start = True, self._at
        self.skip()
        self._keep()
        self._taking = False
        return self._value.take()

    def skip(self) -> None:
        """Pass over the value here."""
        first = self.peek()
        if first in (b"{", b"["):
            self._skip_container()
        elif first == b'"':
            self._skip_string()
        else:
            self._skip_scalar()

    def _skip_container(self) -> None:
        depth = 0
        while True:
            self._at = _TO_BRACKET.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at == len(self._buffer):
                self._refill_or_break()
                continue
            byte = self._buffer[self._at]
            if byte == _QUOTE:  # a string that this buffer does not close
                self._skip_string()
                continue
            self._at += 1
            depth += 1 if byte in b"{[" else -1
            if depth == 0:
                return

    def _skip_string(self) -> None:
        self._at += 1
        while True:
            self._at = _STRING_BODY.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at == len(self._buffer):
                self._refill_or_break()
            elif self._buffer[self._at] == _BACKSLASH:  # the buffer's last byte: what it escapes is in the next
                self._refill_or_break()
                self._at = 1
            else:
                self._at += 1
                return

    def _skip_scalar(self) -> None:
        length = 0
        while True:
            end = _SCALAR.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            length += end - self._at
            self._at = end
            if end < len(self._buffer) or not self._refill():
                break
        if not length:
            self._broken("expected a value")

    def _keep(self) -> None:
        if self._taking:
            self._value.add(self._buffer[self._start : self._at])

    def _refill(self) -> bool:
        """Go on to the next buffer; False at the end of the file."""
        self._at = len(self._buffer)
        self._keep()
        self._offset += len(self._buffer)
        self._buffer = self._file.read(CHUNK_BYTES)
        self._at = self._start = 0
        return bool(self._buffer)

    def _refill_or_break(self) -> None:
        if not self._refill():
            self._broken("")

    def _broken(self, problem: str) -> NoReturn:
        at = self._offset + self._at
        if self._at < len(self._buffer):
            found = self._buffer[self._at : self._at + 1]
            raise Broken(f"byte {at}", f"{problem}, found {found!r}; the rest of the file was not read")
        raise Broken(f"byte {at}", "truncated: the file ends inside the JSON document" if at else "the file is empty")


class _Pieces:
    """Bytes of one record, let go once they are more than the limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    def take(self) -> bytes | None:
        """All of them as one, None if they were too many; then it is empty again."""
        whole = b"".join(self._pieces) if self._size <= self._limit else None
        self._pieces, self._size = [], 0
        return whole


def lines(file: Readable, limit: int = RECORD_BYTES) -> Iterator[Element]:
    """Lines of a JSONL file, stripped and counted from 1; blank ones are left out."""
    for index, raw in enumerate(_split(file, limit), start=1):
        stripped = raw and raw.strip(b" \t\r")
        if stripped != b"":
            yield Element(index, stripped)


def _split(file: Readable, limit: int) -> Iterator[bytes | None]:
    line = _Pieces(limit)
    chunk = file.read(CHUNK_BYTES).removeprefix(BOM)
    while chunk:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line.add(chunk[start:end])
            yield line.take()
            start = end + 1
        line.add(chunk[start:])
        chunk = file.read(CHUNK_BYTES)
    yield line.take()
