"""What trajectories came to, as numbers that are equal where the answers are: what votes count."""

import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Ints, column, is_valid, lengths, offsets
from pa_dist.store.folder import REDUCING, RunFolder

_FILE = (REDUCING, "answers", "answers.arrow")
_SCHEMA = pa.schema([pa.field("answer", pa.int64())])
# Of conversations, of which some are held at a time.
_SAID = ["trajectory_id", *(f"messages.list.element.{name}" for name in ("role", "content"))]
_ROWS = 256


def keep_answers(settings: Evaluate, folder: RunFolder) -> int:
    """Leave the answer of each row of `scores`, where any has one; counts these."""
    ids, found = [], []
    for batch in _answered(settings, folder):
        given = is_valid(column(batch, "answer"))
        ids.append(column(batch, "trajectory_id").filter(pa.array(given)))
        found.append(_numbers(column(batch, "answer").drop_null().to_pylist()))
    if not any(map(len, ids)):
        return 0
    names = folder.columns("scores", ["trajectory_id"])["trajectory_id"]
    at = pc.index_in(names, value_set=pa.concat_arrays(ids))
    answers = pa.array(np.concatenate(found)).take(at.combine_chunks()).fill_null(-1)
    folder.filesystem.create_dir(folder.path(*_FILE[:-1]), recursive=True)
    with (
        folder.replacing(*_FILE) as path,
        folder.filesystem.open_output_stream(path) as out,
        pa.ipc.new_file(out, _SCHEMA) as writer,
    ):
        writer.write_table(pa.table([answers], schema=_SCHEMA))
    return len(answers) - int(pc.sum(pc.equal(answers, -1)).as_py() or 0)


def kept_answers(folder: RunFolder, place: Ints) -> Ints | None:
    """The answers of rows by their places in `scores`, -1 where there is none; null where no row has one."""
    if not any(info.base_name == _FILE[-1] for info in folder.listed(*_FILE[:-1])):
        return None
    with folder.filesystem.open_input_file(folder.path(*_FILE)) as file:
        answers: Ints = pa.ipc.open_file(file).read_all()["answer"].to_numpy()[place]
    return answers


def _answered(settings: Evaluate, folder: RunFolder) -> Iterator[pa.Table]:
    """trajectory_id and answer, some rows at a time."""
    if settings.answers == "auto":
        table = folder.dataset("trajectories", schema.TRAJECTORIES)
        for batch in table.to_batches(columns=["trajectory_id", "answer"]):
            yield pa.Table.from_batches([batch])
        return
    for path in folder.parts("trajectories"):
        with pq.ParquetFile(path, filesystem=folder.filesystem) as file:
            for batch in file.iter_batches(_ROWS, columns=_SAID):
                said = last_messages(batch.column("messages"))
                yield pa.table({"trajectory_id": batch.column("trajectory_id"), "answer": said})


def last_messages(conversations: pa.ListArray) -> pa.Array:
    """The text of each conversation's last message by the assistant that has any; null where none has."""
    messages = conversations.flatten()
    content = pc.utf8_trim_whitespace(pc.struct_field(messages, "content"))
    said = pc.and_(pc.equal(pc.struct_field(messages, "role"), "assistant"), pc.not_equal(content, ""))
    places = np.flatnonzero(said.fill_null(False).to_numpy(zero_copy_only=False))
    starts = offsets(lengths(conversations))
    # Of the places up to a conversation's end the last, unless it lies before its start.
    last = np.append(places, -1)[np.searchsorted(places, starts[1:]) - 1]
    return content.take(pa.array(last, mask=last < starts[:-1]))


def _numbers(answers: Sequence[str]) -> Ints:
    """63 bits of each answer, read as `normalised`."""
    digests = b"".join(blake2b(normalised(answer).encode(), digest_size=8).digest() for answer in answers)
    return np.asarray(np.frombuffer(digests, np.uint64) >> np.uint64(1), np.int64)


def normalised(answer: str) -> str:
    """An answer without what does not tell it from another: case, white space, Unicode's variants, a last full stop."""
    return " ".join(unicodedata.normalize("NFKC", answer).casefold().split()).removesuffix(".").rstrip()
