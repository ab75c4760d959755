"""inspect_ai logs: `.json` (`{version, status, eval, samples}`), or `.eval`, a zip of `header.json`, `samples/*.json`.

Read with the standard library: inspect_ai's own reader brings a whole evaluation framework with it.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import Any

import pyarrow as pa

from pa_dist.ingest import records
from pa_dist.ingest.json_stream import RECORD_BYTES, Broken, Scanner
from pa_dist.ingest.messages import messages
from pa_dist.ingest.records import Origin, Reject, Unusable
from pa_dist.ingest.sources import Source, Unreadable, natural
from pa_dist.trajectory import Trajectory

BENCHMARK = "inspect"
ZIP = b"PK\x03\x04"
_HEADER = "header.json"
_ZSTD = 93
_ATTACHMENT = "attachment://"
# What a model said or thought, of a part and of a message.
_TEXTS = ("text", "reasoning", "content")
# The letters of inspect_ai's scorers: correct, partially correct, incorrect, no answer.
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_EXTRA = ("input", "target", "scores", "metadata", "error", "limit")


def read(source: Source, limit: int = RECORD_BYTES) -> Iterator[Trajectory | Reject]:
    """Samples of one log, an epoch a trial. The reward is the first score, where that is a number or a letter."""
    with source.open() as file:
        zipped = file.read(len(ZIP)) == ZIP
    try:
        yield from _zipped(source, limit) if zipped else _json(source, limit)
    except Unusable as error:
        yield Reject(source.name, "eval", str(error))
    except RecursionError:
        yield Reject(source.name, "eval", "nested too deeply")


def _json(source: Source, limit: int) -> Iterator[Trajectory | Reject]:
    build = partial(_trajectory, about=_about(source, limit))
    with source.open() as file:
        scanner = Scanner(file, limit)
        for key in scanner.members():
            if key != "samples":
                scanner.skip()
                continue
            for element in scanner.array():
                yield records.usable(Origin(source, f"samples.{element.index}", element.raw, limit), build)
        scanner.end()


def _about(source: Source, limit: int) -> dict[str, Any]:
    """What a log says of all its samples; it may stand behind them."""
    with source.open() as file:
        scanner = Scanner(file, limit)
        try:
            for key in scanner.members():
                if key == "eval":
                    return records.section({"eval": records.parse(_within(scanner.take(), limit))}, "eval")
                scanner.skip()
        except Broken:  # the pass over the samples meets the same fault, and reports it
            pass
    return {}


def _zipped(source: Source, limit: int) -> Iterator[Trajectory | Reject]:
    with source.open_seekable() as file:
        try:
            log = zipfile.ZipFile(file)
            names = log.namelist()
            header = records.parse(_within(_member(log, _HEADER, limit), limit)) if _HEADER in names else {}
        except Unusable:
            raise
        except Exception as error:  # as below
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        if not isinstance(header, dict):
            raise Unusable(f"{_HEADER} is not an object")
        build = partial(_trajectory, about=records.section(header, "eval"))
        for name in sorted((n for n in names if n.startswith("samples/") and n.endswith(".json")), key=natural):
            try:
                raw = _member(log, name, limit)
            except Exception as error:  # each compression has errors of its own; nothing but reading happens here
                yield Reject(source.name, name, f"cannot be read: {type(error).__name__}: {error}")
                continue
            yield records.usable(Origin(source, name, raw, limit), build)


def _within(raw: bytes | None, limit: int) -> bytes:
    if raw is None:
        raise Unusable(records.too_long(limit))
    return raw


def _member(log: zipfile.ZipFile, name: str, limit: int) -> bytes | None:
    """A member's bytes, None if they are more than the limit, whatever size the archive says that they have.

    inspect_ai may compress them by zstd, which the standard library learns only in Python 3.14: such a member is read
    as if it were stored.
    """
    info = log.getinfo(name)
    if max(info.file_size, info.compress_size) > limit:
        return None
    if info.compress_type != _ZSTD:
        with log.open(name) as member:
            return member.read(limit + 1)  # a size: without one, all is decompressed at once
    compressed = copy(info)
    compressed.compress_type, compressed.file_size = zipfile.ZIP_STORED, info.compress_size
    del compressed.CRC  # of what is in it
    with log.open(compressed) as member:
        data = member.read()
    content: bytes = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read(info.file_size)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 for {name}")
    return content


def _trajectory(record: dict[str, Any], origin: Origin, about: dict[str, Any]) -> Trajectory:
    attachments = records.section(record, "attachments")
    history = record.get("messages")
    if isinstance(history, list):
        history = [_openai(message, attachments) for message in history]
    converted, left_behind = messages(history)
    epoch = records.integer(record.get("epoch"), "epoch")
    return Trajectory(
        place=origin.place,
        trajectory_id=records.given_id(record.get("uuid"), origin.source) or origin.new_id(),
        benchmark=BENCHMARK,
        domain=records.optional_text(about.get("task"), "eval.task") or origin.source.stem,
        task_id=records.label(record.get("id"), "id"),
        trial=records.trial(None if epoch is None else epoch - 1, origin.source),
        behavior=records.optional_text(about.get("model"), "eval.model"),
        messages=converted,
        system=None,
        tools=None,
        reward=_reward(records.section(record, "scores")),
        mistake_step=None,
        mistake_agent=None,
        extra=records.extra(record, _EXTRA),
        left_behind=left_behind,
    )


def _openai(message: Any, attachments: dict[str, Any]) -> Any:
    """inspect_ai writes a call as `{function: NAME, arguments: {...}}`, and long texts once, apart."""
    if not isinstance(message, dict):
        return message
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        content = [_part(part, attachments) if isinstance(part, dict) else part for part in content]
    if isinstance(calls, list):
        calls = [
            _call(call, attachments) if isinstance(call, dict) and isinstance(call.get("function"), str) else call
            for call in calls
        ]
    return {**_part(message, attachments), "content": _attached(content, attachments), "tool_calls": calls}


def _call(call: dict[str, Any], attachments: dict[str, Any]) -> dict[str, Any]:
    call = records.renamed(call, function="name")
    arguments = call.get("arguments")
    if isinstance(arguments, dict):
        call["arguments"] = {name: _attached(value, attachments) for name, value in arguments.items()}
    return call


def _part(part: dict[str, Any], attachments: dict[str, Any]) -> dict[str, Any]:
    return {name: _attached(value, attachments) if name in _TEXTS else value for name, value in part.items()}


def _attached(value: Any, attachments: dict[str, Any]) -> Any:
    if not isinstance(value, str) or not value.startswith(_ATTACHMENT):
        return value
    name = value.removeprefix(_ATTACHMENT)
    if name not in attachments:
        raise Unusable(f"attachment {json.dumps(name)[:50]} is not in the log")
    return attachments[name]


def _reward(scores: dict[str, Any]) -> float | None:
    first = next(iter(scores.values()), None)
    value = first.get("value") if isinstance(first, dict) else first
    if isinstance(value, str):
        return _LETTERS.get(value)
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and math.isnan(value):  # inspect_ai's word for a sample that was not scored
        return None
    return records.number(value, "scores") if isinstance(value, int | float) else None
