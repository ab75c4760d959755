"""Actors that hold a model, and how a block's work is done in them: by whom, how often tried, and counted where."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from pa_dist.engine.protocol import Work
from pa_dist.errors import EngineError, PaDistError, fault
from pa_dist.runtime.attempts import attempt, device_is_gone, reason
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.store.folder import RunFolder


class ModelActor:
    """Ray actor: one model on one device, which works on a block at a time.

    Attributes:
      proven: whether the engine has done work before the block under way.
    """

    def __init__(self, model: str, folder: RunFolder, target: Target, tally: Any, load: Callable[[], Any]) -> None:
        """`load`: makes the engine, on the device that Ray gave this actor."""
        self.model, self.folder, self.target, self.tally = model, folder, target, tally
        self.ledger, self.counters = LedgerOf(tally, model), _Counters(model)
        self.proven = False
        self._process, self._rows, self._idle = uuid.uuid4().hex, 0, 0.0
        self._idle_since: float | None = None
        self._faulty = False
        try:
            self.engine = load()
        except BaseException as raised:  # whatever a library finds wrong with a checkpoint, a device or an option
            # Raised at the first block: an actor that cannot be made Ray makes again and again.
            self._faulty = True
            self._tell(fault(raised))
        else:
            self._join()

    def rest(self) -> None:
        """From now on it has nothing to do, until its next block."""
        self._idle_since = time.perf_counter()

    def _tell(self, error: Exception) -> None:
        ray.get(self.tally.fail.remote(str(error) if isinstance(error, PaDistError | EngineError) else reason(error)))

    def _join(self) -> None:
        context = ray.get_runtime_context()
        self._told = self._facts()
        place = {
            "node": context.get_node_id(),
            "pid": os.getpid(),
            "gpu_ids": [str(gpu) for gpu in ray.get_gpu_ids()],
            **self._told,
        }
        self.tally.join.remote(self.model, context.get_actor_id(), place)

    def _facts(self) -> dict[str, Any]:
        """What the manifest says of the engine."""
        return {}

    def _work(self, batch: pa.Table) -> tuple[pa.Table, pa.Table]:
        """A block's results, and the rows without any as a table of `rejects`."""
        raise NotImplementedError

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._faulty:
            raise PaDistError(f"{self.model}: its actor has no engine")
        began, before = time.perf_counter(), replace(self.engine.work)
        self._idle += 0.0 if self._idle_since is None else began - self._idle_since
        self.proven = before.tokens > 0
        try:
            done, rejects = self._work(batch)
        except BaseException as raised:
            error = fault(raised)
            if not device_is_gone(error):
                self._tell(error)
                raise error from None  # Ray carries no other than exceptions
            # Ray starts another process, and the ledger, in which these rows have not ended, finds out whether one of
            # them is the reason.
            os._exit(1)
        write_rejects(self.folder, rejects, self.target)
        work = self.engine.work - before
        self._rows += len(batch)
        if self._facts() != self._told:  # such as a dtype that it had to leave
            self._join()
        self.tally.tell.remote(self.model, self._process, self._rows, self._idle, replace(self.engine.work))
        self.counters.add(len(batch), len(rejects), work)
        self.rest()
        return done


class LedgerOf:
    """The tally's, for one kind of work. It waits: what ended just before a process died must not seem to have not."""

    def __init__(self, tally: Any, name: str) -> None:
        self._tally, self._name = tally, name

    def begin(self, keys: Sequence[Hashable]) -> int:
        """As `Ledger` has it."""
        before: int = ray.get(self._tally.begin.remote(self._named(keys)))
        return before

    def end(self, keys: Sequence[Hashable]) -> None:
        """As `Ledger` has it."""
        ray.get(self._tally.end.remote(self._named(keys)))

    def _named(self, keys: Sequence[Hashable]) -> list[Hashable]:
        return [(self._name, key) for key in keys]


class _Counters:
    """One model's counters for the Ray dashboard and Prometheus; their rates are tokens and trajectories per second."""

    def __init__(self, model: str) -> None:
        named = {
            "trajectories": "Trajectories scored",
            "rejects": "Trajectories that could not be scored",
            "tokens": "Tokens of scored trajectories",
            "distinct_tokens": "Tokens that went through the model",
            "busy_seconds": "Seconds of scoring",
        }
        self._counters = {
            name: Counter(f"pa_dist_score_{name}", description=text, tag_keys=("model",))
            for name, text in named.items()
        }
        for counter in self._counters.values():
            counter.set_default_tags({"model": model})

    def add(self, n_rows: int, n_rejects: int, work: Work) -> None:
        amounts = {
            "trajectories": n_rows - n_rejects,
            "rejects": n_rejects,
            "tokens": work.tokens,
            "distinct_tokens": work.distinct_tokens,
            "busy_seconds": work.seconds,
        }
        for name, amount in amounts.items():
            if amount > 0:  # a counter refuses to be told of nothing
                self._counters[name].inc(amount)


def row_by_row(
    work: Callable[[Sequence[pa.Table]], Sequence[tuple[pa.Table, pa.Table]]], batch: pa.Table, tally: Any
) -> tuple[list[pa.Table], list[pa.Table], dict[str, str]]:
    """Prepare a block's rows for a model, so that one which kills its process is lost alone.

    Args:
      work: gives each of some tables of one row what it makes of it, and its rejects.

    Returns:
      What was made, the rejects, and why rows were lost, by trajectory.
    """
    ids, alone = batch["trajectory_id"].to_pylist(), [batch.slice(index, 1) for index in range(len(batch))]
    found = attempt(work, ids, alone, LedgerOf(tally, "tokenizer"))
    done = [tables for tables in found if isinstance(tables, tuple)]
    lost = {row_id: reason(why) for row_id, why in zip(ids, found, strict=True) if not isinstance(why, tuple)}
    return [made for made, _ in done], [rejected for _, rejected in done], lost


def write_rejects(folder: RunFolder, rejects: pa.Table, target: Target = LOGPROBS) -> None:
    """Write a block's rejects from wherever it runs, and that these rows are done.

    The names come from the ids, so that a retry replaces its own.
    """
    if not len(rejects):
        return
    ids = rejects["place"]
    name = target.rejects + hashlib.blake2b("\n".join(ids.to_pylist()).encode(), digest_size=12).hexdigest()
    folder.write("rejects", name, rejects)
    folder.write(target.checkpoint, name, pa.table({"trajectory_id": ids}))
