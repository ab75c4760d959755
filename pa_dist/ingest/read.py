"""The formats by name, and reading a file of one of them."""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

from pa_dist.config import FileFormat
from pa_dist.ingest.containers import not_text
from pa_dist.ingest.formats import (
    agentdojo,
    agentprocessbench,
    chat,
    inspect_log,
    parquet,
    tau2,
    tau_bench,
    who_and_when,
)
from pa_dist.ingest.json_stream import RECORD_BYTES, Broken
from pa_dist.ingest.records import Reject, Unusable
from pa_dist.ingest.sources import Source, Unreadable
from pa_dist.trajectory import Trajectory


class Reader(Protocol):
    """Reads one file, its records up to a number of bytes."""

    def __call__(self, source: Source, limit: int = RECORD_BYTES, /) -> Iterator[Trajectory | Reject]: ...


READERS: dict[FileFormat, Reader] = {
    "tau2": tau2.read,
    "tau_bench": tau_bench.read,
    "who_and_when": who_and_when.read,
    "agentdojo": agentdojo.read,
    "agentprocessbench": agentprocessbench.read,
    "inspect_log": inspect_log.read,
    "chat": chat.read,
    "parquet": parquet.read,
}


def read(
    format: FileFormat, source: Source, messages_column: str | None = None, limit: int = RECORD_BYTES
) -> Iterator[Trajectory | Reject]:
    """Everything in one file, usable or not. Never empty, and never raises for what the file holds: where reading
    cannot go on, the last item says where and why."""
    reader = partial(parquet.read, messages_column=messages_column) if format == "parquet" else READERS[format]
    n_items = 0
    try:
        if format != "parquet" and (fault := not_text(source)):
            raise Unusable(fault)
        for item in reader(source, limit):
            n_items += 1
            yield item
    except Broken as error:
        yield Reject(source.name, error.place, error.reason)
    except Unusable as error:
        yield Reject(source.name, "file", str(error))
    except Unreadable as error:
        yield Reject(source.name, "file", f"cannot be read after {n_items} records: {error}")
    else:
        if n_items == 0:
            yield Reject(source.name, "file", "no records")
