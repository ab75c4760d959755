"""The formats by name, and reading a file of one of them."""

from collections.abc import Callable, Iterator

from pa_dist.config import Format
from pa_dist.ingest import chat, tau2, tau_bench, who_and_when
from pa_dist.ingest.json_stream import Broken
from pa_dist.ingest.records import Reject, Trajectory
from pa_dist.ingest.sources import Source, Unreadable

Reader = Callable[[Source], Iterator[Trajectory | Reject]]

READERS: dict[Format, Reader] = {
    "tau2": tau2.read,
    "tau_bench": tau_bench.read,
    "who_and_when": who_and_when.read,
    "chat": chat.read,
}


def read(format: Format, source: Source) -> Iterator[Trajectory | Reject]:
    """Everything in one file, usable or not. Never empty, and never raises for what the file holds: where reading
    cannot go on, the last item says where and why."""
    n_items = 0
    try:
        for item in READERS[format](source):
            n_items += 1
            yield item
    except Broken as error:
        yield Reject(source.name, error.place, error.reason)
    except Unreadable as error:
        yield Reject(source.name, "file", f"cannot be read after {n_items} records: {error}")
    else:
        if n_items == 0:
            yield Reject(source.name, "file", "no records")
