"""`format: auto`: what a file is, from what it holds and not from its name."""

from pa_dist.config import FileFormat
from pa_dist.ingest import records
from pa_dist.ingest.containers import not_text, of_list
from pa_dist.ingest.formats import agentprocessbench, chat, inspect_log, parquet
from pa_dist.ingest.json_stream import RECORD_BYTES, Broken, Scanner, lines
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.sources import Source

# Of a JSON object, keys that only this format has together; the first that fits is taken.
_OF_OBJECTS: list[tuple[FileFormat, frozenset[str]]] = [
    ("tau2", frozenset(["simulations"])),
    ("inspect_log", frozenset(["eval", "samples"])),
    ("agentdojo", frozenset(["suite_name", "user_task_id", "messages"])),
    ("who_and_when", frozenset(["history", "mistake_step"])),
    ("agentprocessbench", agentprocessbench.KEYS),
    ("chat", frozenset(["messages"])),
    ("chat", frozenset(chat.PAIR)),
]
_LINES = 20


def recognise(source: Source, limit: int = RECORD_BYTES) -> FileFormat:
    """The format of one file.

    Raises:
      Unusable: nothing fits; says what was found. Unreadable: the file cannot be read.
    """
    with source.open() as file:
        magic = file.read(4)
    if magic == parquet.MAGIC:
        return "parquet"
    if magic == inspect_log.ZIP:
        return "inspect_log"
    if fault := not_text(source):
        raise Unusable(fault)
    with source.open() as file:
        scanner = Scanner(file, limit)
        first = scanner.peek()
        try:
            if first == b"[":
                return _of_array(scanner)
            keys = _keys(scanner) if first == b"{" else []
        except Broken as error:
            raise Unusable(f"no format recognised: {error.place}: {error.reason}") from None
    found = _of_keys(keys) or _of_lines(source, limit)
    if found is None:
        what = f"an object of {', '.join(keys)[:200]}" if keys else "no JSON object"
        raise Unusable(f"no format recognised: {what}")
    return found


def _keys(scanner: Scanner) -> list[str]:
    """Keys of the first object, as many as can be read."""
    keys = []
    try:
        for key in scanner.members():
            keys.append(key)
            if key == "simulations":  # the rest of the file need not be passed over
                break
            scanner.skip()
    except Broken:  # the format's reader says where
        pass
    return keys


def _of_keys(keys: list[str]) -> FileFormat | None:
    return next((name for name, wanted in _OF_OBJECTS if wanted <= set(keys)), None)


def _of_array(scanner: Scanner) -> FileFormat:
    for element in scanner.array():
        try:
            record = records.parse(element.raw or b"null")
        except RecursionError:
            break
        if isinstance(record, dict) and "traj" in record:
            return "tau_bench"
        if fault := of_list([record]):
            raise Unusable(fault)
        break
    raise Unusable("no format recognised: a list, but not of objects with traj")


def _of_lines(source: Source, limit: int) -> FileFormat | None:
    """A chat log whose first lines are broken."""
    with source.open() as file:
        for element in lines(file, limit):
            try:
                record = records.parse(element.raw or b"null")
            except (Unusable, RecursionError):
                record = None
            if isinstance(record, dict) and "messages" in record:
                return "chat"
            if element.index >= _LINES:
                break
    return None
