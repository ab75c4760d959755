"""The scanner against its slow twin, `json.loads` of the whole file."""

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist.ingest import json_stream
from pa_dist.ingest.json_stream import Broken, Element, Scanner, lines


class Trickle:
    """A file that gives a few bytes at a time, so that every token is cut somewhere."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file, self._size = io.BytesIO(data), size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


TEXT = st.text(st.sampled_from('ab"\\[]{},:\n\u00e9\U0001f600 \ud800'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
INDENT = st.sampled_from([None, 0, 3])


def dumps(value, indent, ascii):
    # A lone surrogate can only be written as an escape.
    return json.dumps(value, indent=indent, ensure_ascii=ascii).encode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=5), INDENT, st.booleans(), st.integers(1, 9), st.booleans())
def test_array_is_what_json_loads_says(values, indent, ascii, size, bom):
    data = dumps(values, indent, ascii)
    scanner = Scanner(Trickle((json_stream.BOM if bom and size > 2 else b"") + data, size))
    got = [json.loads(e.raw) for e in scanner.array()]
    scanner.end()
    assert repr(got) == repr(json.loads(data))  # repr: NaN equals itself, 1 is not 1.0


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=5), INDENT, st.booleans(), st.integers(1, 9), st.booleans())
def test_members_are_what_json_loads_says(record, indent, ascii, size, skip):
    data = dumps(record, indent, ascii)
    scanner = Scanner(Trickle(data, size))
    got = []
    for key in scanner.members():
        got.append((key, None if skip else json.loads(scanner.take())))
        if skip:
            scanner.skip()
    scanner.end()
    # Two keys of the record may be written alike (lone surrogates become `?`): compare all pairs, not a dict.
    objects: list[list[tuple]] = []
    json.loads(data, object_pairs_hook=lambda pairs: objects.append(pairs) or dict(pairs))
    outermost = objects[-1]
    assert repr(got) == repr([(k, None if skip else v) for k, v in outermost])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_whole_elements_in_front_of_a_cut_are_kept(values, data):
    whole = json.dumps(values).encode()
    cut = data.draw(st.integers(1, len(whole) - 1))
    scanner = Scanner(Trickle(whole[:cut], 7))
    got = []
    with pytest.raises(Broken, match="truncated") as broken:
        got.extend(element.raw for element in scanner.array())
    assert broken.value.place == f"byte {cut}"
    # An element is whole when its closing brace is in front of the cut.
    ends = [len(json.dumps(values[: i + 1])) - 1 for i in range(len(values))]
    assert got == [json.dumps(v).encode() for v, end in zip(values, ends, strict=True) if end <= cut]


def test_numbers_keep_their_type_and_value():
    data = b"[1, 1.0, -0.0, 1e400, 123456789012345678901234567890, 0.1, 1E2, NaN, -Infinity]"
    got = [json.loads(e.raw) for e in Scanner(io.BytesIO(data)).array()]
    assert repr(got) == "[1, 1.0, -0.0, inf, 123456789012345678901234567890, 0.1, 100.0, nan, -inf]"
    assert math.isnan(got[7])


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b"", "byte 0", "the file is empty"),
        (b"[1 2]", "byte 3", "expected ',' or ']', found b'2'"),
        (b"[1,]", "byte 3", "expected a value, found b']'"),
        (b"{}", "byte 0", r"expected '\[', found b'{'"),
        (b"[1] x", "byte 4", "something follows"),
        (b"[1", "byte 2", "truncated"),
        (b'["a\\', "byte 4", "truncated"),
        (b"[" * 9, "byte 9", "truncated"),
        ("[1]".encode("utf-16"), "byte 0", "found b'.xff'"),
    ],
)
def test_a_fault_of_the_file_says_where(size, data, place, reason):
    def read():
        scanner = Scanner(Trickle(data, size))
        list(scanner.array())
        scanner.end()

    with pytest.raises(Broken, match=reason) as broken:
        read()
    assert broken.value.place == place


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_record_over_the_limit_is_passed_over(size):
    scanner = Scanner(Trickle(b'[{"a": 1}, {"a": "12345"}, 7]', size), limit=8)
    assert list(scanner.array()) == [Element(0, b'{"a": 1}'), Element(1, None), Element(2, b"7")]
    assert list(lines(Trickle(b"12345678\n123456789\n\n1", size), limit=8)) == [
        Element(1, b"12345678"),
        Element(2, None),
        Element(4, b"1"),
    ]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40).filter(lambda b: not b.startswith(json_stream.BOM)), st.integers(3, 9))
def test_lines_are_those_of_the_whole_file(data, size):
    expected = [(i, raw.strip(b" \t\r")) for i, raw in enumerate(data.split(b"\n"), 1) if raw.strip(b" \t\r")]
    assert [(e.index, e.raw) for e in lines(Trickle(data, size))] == expected


def test_a_long_string_is_scanned_once():
    # 20 MB of escapes and quotes over many buffers: a scanner that starts over at each would take minutes.
    value = '\\"[' * 7_000_000
    [element] = Scanner(io.BytesIO(b'["' + value.encode() + b'"]')).array()
    assert len(element.raw) == 21_000_002
