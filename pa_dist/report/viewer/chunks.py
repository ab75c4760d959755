"""The viewer's data: an index of the trajectories it holds, and chunks of some trajectories each.

A page opened from disk cannot fetch, so a chunk is a script that calls one function with a number and a text: the
JSON, compressed, in base64. What a trajectory says is never part of a program. A run whose chunks are small has them
in the page itself.
"""

import base64
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pa_dist import truncation
from pa_dist.config import Evaluate
from pa_dist.mapper import Mapper
from pa_dist.reduce.evaluated import evaluate_settings, further_references
from pa_dist.reduce.labels import LaterLabels
from pa_dist.report.viewer.selection import Share, choose, read_choice
from pa_dist.report.viewer.token_text import TokenText, policy_pieces
from pa_dist.report.viewer.trajectory import LOGPROBS, STEPS, Row, further_columns, record, suspicious
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import grouped, places, rows

TRAJECTORIES = 10_000
"""That a viewer holds, unless told otherwise."""

DATA = ("report", "data")
# Of the JSON of a chunk, which then ends; and of all chunks' scripts, which lie in the page as long as they are fewer.
_CHUNK_CHARS = 1 << 20
_EMBEDDED_BYTES = 3 << 20
_ABOUT_CHARS = 120
_GIVEN = ["trajectory_id", "messages", "mistake_step", "mistake_agent", "step_labels"]


@dataclass(frozen=True)
class Viewer:
    """What the page embeds: compressed JSON in base64."""

    index: str
    chunks: dict[int, str]
    """By number; none where they are files."""


@dataclass(frozen=True)
class _Written:
    """What a task says of the trajectories that it wrote, in order."""

    suspicious: list[int | None]
    labelled: list[int | None]
    """Numbers of steps, counted from 1: the most suspicious one's, and the labelled one's where the label is on one."""
    abouts: list[str]
    chunks: list[tuple[int, int]]
    """The number of each chunk, which is its first trajectory's place in the index, and its bytes."""
    largest: list[float]
    """Of each trajectory, what a twentieth of its tokens' differences (policy minus reference, nats) exceed."""


def write_viewer(folder: RunFolder, limit: int, map_tasks: Mapper) -> Viewer:
    """Write `OUT/report/data`, replacing what an earlier report left.

    Args:
      folder: a run folder that is evaluated.
      limit: trajectories to hold; of more, whole tasks are chosen by the run's seed.
      map_tasks: runs the tasks; the builtin `map` does.
    """
    folder.filesystem.create_dir(folder.path(*DATA), recursive=True)
    settings = evaluate_settings(folder)
    (choice,) = map_tasks(partial(choose, folder, settings), [limit])
    written = list(map_tasks(partial(_write_group, folder, settings), choice.groups))
    index = {"run": _facts(folder, settings, written), **read_choice(choice), **_index(written)}
    return Viewer(packed(json.dumps(index, separators=(",", ":"))), _embedded(folder, written))


def packed(text: str) -> str:
    """A text as the page unpacks it. JSON that is ASCII keeps what UTF-8 cannot hold."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _write_group(folder: RunFolder, settings: Evaluate, group: Share) -> _Written:
    pieces = policy_pieces(folder.manifest)
    written = _Written([], [], [], [], [])
    waiting: list[str] = []
    texts: dict[str, int] = {}
    first, size = group.first, 0
    for place, row in enumerate(_rows(folder, group, settings.preset == "paper", pieces), group.first + 1):
        written.suspicious.append(_number(suspicious(row["blamed"])))
        written.labelled.append(_number(_labelled(row)))
        written.abouts.append(about(row["messages"]))
        written.largest.extend(_largest(row))
        waiting.append(json.dumps(_shared(row, texts), separators=(",", ":")))
        size += len(waiting[-1])
        if size > _CHUNK_CHARS or place == group.first + len(group.ids):
            size = _chunk(folder, first, waiting, list(texts))
            written.chunks.append((first, size))
            waiting, texts, first, size = [], {}, place, 0
    return written


def _rows(folder: RunFolder, group: Share, empty_is_zero: bool, pieces: TokenText | str) -> Iterator[Row]:
    """A group's trajectories as chunks hold them, in order."""
    read = {
        name: rows(folder, group.files[name], group.ids, columns)
        for name, columns in (("trajectories", _GIVEN), ("logprobs", LOGPROBS))
    }
    read["trajectories"] = LaterLabels(folder, group.files["labels"]).onto(read["trajectories"])
    at = {name: places(table) for name, table in read.items()}
    references = further_references(folder)
    steps = grouped(rows(folder, group.files["steps"], group.ids, [*STEPS, *further_columns(references)]))
    for key in group.ids:
        given, scored = (read[name].slice(at[name][key][0], 1) for name in ("trajectories", "logprobs"))
        shown = record(scored, steps.get(key, []), pieces, empty_is_zero=empty_is_zero, references=references)
        yield {**given.to_pylist()[0], **shown}


def _labelled(row: Row) -> int | None:
    """The place of the step that is labelled; None where no step is."""
    return next((place for place, step in enumerate(row["steps"]) if step["at"] == row["mistake_step"]), None)


def _number(place: int | None) -> int | None:
    return None if place is None else place + 1


def about(messages: Sequence[Mapping[str, Any]]) -> str:
    """How a trajectory's task begins: the user's first words, or else anybody's."""
    said = [(message["role"], message["content"]) for message in messages if (message["content"] or "").strip()]
    asked = [text for role, text in said if role.lower() in ("user", "human")] or [text for _, text in said]
    # Squeezing all of a long text would take a while for the sake of its beginning.
    return " ".join(asked[0][: 10 * _ABOUT_CHARS].split())[:_ABOUT_CHARS] if asked else ""


def _shared(row: Row, texts: dict[str, int]) -> Row:
    """A row whose messages name their contents by place: trials of a task repeat much of each other."""
    messages = [
        {
            **{name: value for name, value in message.items() if value is not None},
            "content": texts.setdefault(message["content"] or "", len(texts)),
        }
        for message in row["messages"]
    ]
    return {**row, "messages": messages}


def _largest(row: Row) -> list[float]:
    differences = [
        abs(policy - reference) / 1000
        for step in row["steps"]
        if step["policy"] is not None and step["reference"] is not None  # of other tokens nothing compares
        for policy, reference in zip(step["policy"], step["reference"], strict=True)
        if policy is not None and reference is not None
    ]
    return [float(np.quantile(differences, 0.95))] if differences else []


def _chunk(folder: RunFolder, number: int, rows: list[str], texts: list[str]) -> int:
    """Write a chunk's script; its bytes."""
    text = f'{{"texts":{json.dumps(texts)},"rows":[{",".join(rows)}]}}'
    script = f'viewerChunk({number},"{packed(text)}");\n'.encode()
    with (
        folder.replacing(*DATA, _name(number)) as path,
        folder.filesystem.open_output_stream(path) as out,
    ):
        out.write(script)
    return len(script)


def _name(number: int) -> str:
    return f"{number:05d}.js"


def _embedded(folder: RunFolder, written: Sequence[_Written]) -> dict[int, str]:
    """What the chunks' files hold, if that is little; then the page is the whole report, and the files go."""
    chunks = [chunk for part in written for chunk in part.chunks]
    if sum(size for _, size in chunks) > _EMBEDDED_BYTES:
        return {}
    found = {}
    for number, _ in chunks:
        script = folder.read("/".join([*DATA, _name(number)])) or b""
        found[number] = script.decode().split('"')[1]
    folder.filesystem.delete_dir(folder.path(*DATA))
    return found


def _facts(folder: RunFolder, settings: Evaluate, written: Sequence[_Written]) -> Row:
    """What holds of all trajectories of a run."""
    pieces = policy_pieces(folder.manifest)
    stages = folder.manifest["stages"]
    score = stages["score"]
    largest = [value for part in written for value in part.largest]
    return {
        "beta": settings.beta,
        "threshold": settings.success_threshold,
        "scale": _round_scale(settings.beta * float(np.median(largest))) if largest else 1.0,
        "without_pieces": pieces if isinstance(pieces, str) else None,
        "max_length": score["settings"].get("score", {}).get("max_length"),
        "style": score["settings"].get("render", {}).get("style", "plain"),
        "truncated": truncation.in_full(score),
        "rejected": folder.manifest["stages"].get("ingest", {}).get("rejected", 0) + score.get("rejects", 0),
    }


def _round_scale(value: float) -> float:
    """The least of 1, 2, 5, 10, 20 ... and of 0.5, 0.2, 0.1 ... that is not below a value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(step * power for step in (1, 2, 5, 10) if step * power >= value):.6g}")


def _index(written: Sequence[_Written]) -> Row:
    abouts: dict[str, int] = {}
    told = [abouts.setdefault(text, len(abouts)) for part in written for text in part.abouts]
    return {
        "suspicious": [number for part in written for number in part.suspicious],
        "labelled": [number for part in written for number in part.labelled],
        "about": told,
        "abouts": list(abouts),
        "chunks": [number for part in written for number, _ in part.chunks],
    }
