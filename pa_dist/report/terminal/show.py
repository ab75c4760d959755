"""`pa-dist show`: one trajectory in a terminal."""

import difflib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from pa_dist.errors import RunFolderError
from pa_dist.reduce.evaluated import evaluate_settings, further_references
from pa_dist.reduce.labels import LaterLabels
from pa_dist.reduce.metrics.groups import GROUP
from pa_dist.report.numbers import signed
from pa_dist.report.viewer.selection import CHOSEN_BY, OUTCOMES, outcome_of
from pa_dist.report.viewer.token_text import policy_pieces
from pa_dist.report.viewer.trajectory import (
    LOGPROBS,
    STEPS,
    SUSPECTED_BY,
    Row,
    further_columns,
    numbered,
    record,
    suspicious,
)
from pa_dist.schema import WRONG
from pa_dist.store.folder import RunFolder
from pa_dist.store.index import locate, rows
from pa_dist.terminal import bar, coloured, console_for, line, visible
from pa_dist.trajectory import Message

# Characters shown of a message that is no action.
_MOST = 600
# Tokens named with their values below a step, for whom colours say nothing.
_NAMED = 3
_GIVEN = ("trajectory_id", *GROUP, "task_id", "trial", "reward", "mistake_step", "step_labels", "messages")
# Ids that nearest ones are looked for among.
_COMPARED = 20_000


def show(folder: RunFolder, trajectory_id: str, console: Console | None = None, *, full: bool = False) -> None:
    """Print a trajectory with its advantages.

    Args:
      full: long messages whole.

    Raises:
      RunFolderError: nothing is evaluated here, or there is no such trajectory; the message names the nearest ids.
    """
    console = console_for(console)
    settings = evaluate_settings(folder)
    trajectory_id = trajectory_id.encode(errors="backslashreplace").decode()  # an argument may be any bytes
    given = _row(folder, "trajectories", trajectory_id, _GIVEN)
    scored = _row(folder, "logprobs", trajectory_id, LOGPROBS)
    if given is None or scored is None:
        raise RunFolderError(_why_none(folder, trajectory_id))
    (row,) = LaterLabels(folder).onto(given).to_pylist()
    references = further_references(folder)
    steps = _row(folder, "steps", trajectory_id, [*STEPS, *further_columns(references)])
    pieces = policy_pieces(folder.manifest)
    told, as_zero = [] if steps is None else steps.to_pylist(), settings.preset == "paper"
    row |= record(scored, told, pieces, empty_is_zero=as_zero, references=references)
    score = _row(folder, "scores", trajectory_id, [CHOSEN_BY])
    row["score"] = None if score is None else score[CHOSEN_BY][0].as_py()
    row["style"] = folder.manifest["stages"]["score"]["settings"].get("render", {}).get("style", "plain")
    for text in _lines(row, settings.beta, settings.success_threshold, None if full else _MOST):
        console.print(text, soft_wrap=True)
    if isinstance(pieces, str):
        console.print(Text(f"No tokens to colour: {visible(pieces)}"), soft_wrap=True)


def _row(folder: RunFolder, table_name: str, key: str, columns: Sequence[str]) -> pa.Table | None:
    """A trajectory's rows of a table: of one file, as each table has them together."""
    files = locate(folder, table_name).holding([key])
    return rows(folder, files, [key], columns) if files else None


def _why_none(folder: RunFolder, wanted: str) -> str:
    rejects = folder.parts("rejects")
    dataset = folder.dataset("rejects") if rejects else None
    found = [] if dataset is None else dataset.to_table(filter=pc.field("trajectory_id") == wanted).to_pylist()
    if found:
        return f"{folder}: trajectory {line(wanted)} is a reject: {line(found[0]['reason'], 200)}"
    ids = folder.columns("scores", ["trajectory_id"])["trajectory_id"]
    near = ids.filter(pc.match_substring(ids, wanted, ignore_case=True)).slice(0, 3).to_pylist() if wanted else []
    near = near or difflib.get_close_matches(wanted, ids.slice(0, _COMPARED).to_pylist(), 3, 0.4)
    nearest = f"; nearest: {', '.join(map(line, near))}" if near else ""
    return f"{folder}: no trajectory {line(wanted)!r}{nearest}"


def _lines(row: Row, beta: float, threshold: float, most: int | None) -> Iterator[Text]:
    outcome = OUTCOMES[outcome_of(row, threshold)]
    reward = "" if row["reward"] is None else f" (reward {row['reward']:g})"
    yield Text(visible(row["trajectory_id"]), "bold")
    place = [row["benchmark"], row["domain"], f"task {row['task_id']}" if row["task_id"] is not None else None]
    place += [f"trial {row['trial']}" if row["trial"] is not None else None]
    place += [f"by {row['behavior']}" if row["behavior"] is not None else None]
    yield Text(" · ".join(visible(part) for part in place if part))
    yield Text(f"{outcome}{reward}; score {signed(row['score'])} ({CHOSEN_BY})")
    yield from _pointed_at(row)
    scale = _scale(row, beta)
    yield Text.assemble(
        "Tokens by advantage, nats: ",
        coloured(f" {-scale:.2f} ", -scale, scale),
        " less likely than under the reference, more ",
        coloured(f" +{scale:.2f} ", scale, scale),
    )
    steps = {step["at"]: (place, step) for place, step in enumerate(row["steps"])}
    marks = _marks(row, outcome)
    largest = max((abs(step["value"]) for step in row["steps"] if step["value"] is not None), default=0.0)
    total = 0.0
    for at, message in enumerate(row["messages"]):
        yield Text()
        if at not in steps:
            label = "".join(f"  {mark}" for mark in _label(row, at))
            yield Text.assemble(Text(visible(f"message {at} {_who(message)}"), "bold"), label)
            yield from _thought(message, row["style"], most)
            yield _told(message, most)
            continue
        number, step = steps[at]
        total += step["value"] or 0.0
        yield _head(f"step {numbered(number, len(steps))}", marks.get(number, []), step, message, largest, total)
        yield from _thought(message, row["style"], most)
        yield from _action(step, message, beta, scale, most)


def _pointed_at(row: Row) -> Iterator[Text]:
    """The most suspicious step, and the labelled one, by the numbers that heads have."""
    n_steps, place = len(row["steps"]), suspicious(row["blamed"])
    yield Text(
        f"most suspicious step: {'none, no advantage is below zero' if place is None else numbered(place, n_steps)}"
    )
    if (label := row["mistake_step"]) is not None:
        places = [place for place, step in enumerate(row["steps"]) if step["at"] == label]
        where = f"step {numbered(places[0], n_steps)}" if places else f"message {label}, which is no step"
        yield Text(f"labelled mistake: {where}")


def _marks(row: Row, outcome: str) -> dict[int, list[str]]:
    """What is said of steps, by place. Predictors of a failure have nothing to say of what is known to be none."""
    succeeded = outcome == "success" and row["mistake_step"] is None
    found: dict[int, list[str]] = {}
    for name, place in row["blamed"].items():
        if name == SUSPECTED_BY or not succeeded:
            found.setdefault(place, []).append("▼ most suspicious" if name == SUSPECTED_BY else f"▼ {name}")
    for place, step in enumerate(row["steps"]):
        found.setdefault(place, []).extend(_label(row, step["at"]))
    return found


def _label(row: Row, at: int) -> list[str]:
    """The mark of a message that is labelled as the mistake, or as wrong."""
    if at == row["mistake_step"]:
        return ["✕ labelled mistake"]
    return ["✕ labelled wrong"] if row["step_labels"] is not None and row["step_labels"][at] == WRONG else []


def _thought(message: Message, style: str, most: int | None) -> Iterator[Text]:
    """What a model thought before it spoke, set apart from what it said."""
    if not (text := message.get("reasoning")):
        return
    known = ", no part of the plain rendering and not scored" if style == "plain" else ""
    yield Text(f"reasoning{known}:", "dim italic")
    yield _cut(text, most, "dim")


def _head(number: str, marks: Sequence[str], step: Row, message: Message, largest: float, total: float) -> Text:
    head = Text(visible(f"{number} {_who(message)}"), "bold")
    head.append(f" (message {step['at']})", "not bold dim")
    head.append(f"  advantage {signed(step['value'])} ", "not bold")
    if step["value"] is not None:
        head.append(bar(step["value"], largest), _tint(step["value"]))
        head.append(f"  sum {signed(total)}", "not bold")
    for name, value in step.get("others", {}).items():
        head.append(f"  {name} {signed(value)}", "not bold")
    for mark in marks:
        head.append(f"  {mark}")
    return head


def _action(step: Row, message: Message, beta: float, scale: float, most: int | None) -> Iterator[Text]:
    if step["why"] or step["cut"]:
        why = f"not scored: {step['why']}" if step["why"] else "some of its tokens were truncated"
        yield Text(f"({why})", "italic")
    if not step["pieces"]:
        yield _told(message, most)
        return
    named, text, first = [], Text(), 0
    joined = dict(step["joined"])
    for place, piece in enumerate(step["pieces"]):
        end = first + len(joined.get(place, "1"))
        value = _mean(step, first, end, beta)
        text.append_text(coloured(piece.lstrip("\n") if not place else piece, value, scale))
        if value is not None:
            named.append((value, piece))
        first = end
    yield text
    extremes = sorted(named)[:_NAMED] + sorted(named)[-_NAMED:][::-1] if len(named) > 2 * _NAMED else []
    if extremes:
        yield Text(
            "  " + ", ".join(f"{visible(piece).strip()!r} {signed(value)}" for value, piece in extremes),
            "dim",
        )


def _mean(step: Row, first: int, end: int, beta: float) -> float | None:
    if step["policy"] is None or step["reference"] is None:
        return None
    pairs = zip(step["policy"][first:end], step["reference"][first:end], strict=True)
    values = [beta * (p - r) / 1000 for p, r in pairs if p is not None and r is not None]
    return sum(values) / len(values) if values else None


def _scale(row: Row, beta: float) -> float:
    """What a twentieth of the trajectory's tokens exceed, at least a hundredth of a nat."""
    found = [_mean(step, i, i + 1, beta) for step in row["steps"] for i in range(len(step["policy"] or ()))]
    known = [abs(value) for value in found if value is not None]
    return max(0.01, float(np.quantile(known, 0.95))) if known else 1.0


def _told(message: Message, most: int | None) -> Text:
    calls = [f"{call['name'] or ''}({call['arguments'] or ''})" for call in message["tool_calls"] or []]
    return _cut("\n".join(filter(None, [message["content"], *calls])), most)


def _cut(text: str, most: int | None, style: str = "") -> Text:
    """A text by its beginning, where it is long."""
    if most is None or len(text) <= most:
        return Text(visible(text), style)
    return Text(f"{visible(text[:most])}… {len(text) - most:,} more characters; --full shows them", style)


def _who(message: Message) -> str:
    name = message["name"]
    return message["role"] if name in (None, message["role"]) else f"{message['role']} {name}"


def _tint(value: float) -> str:
    return "#e08e3a" if value < 0 else "#5a9bd4"
