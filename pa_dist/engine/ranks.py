"""One model spread over several processes of one machine, its ranks: tensor parallelism.

Each rank holds a share of every matrix, by the plan that transformers has of the model's kind, on a device of its own.
All are asked for the same and run the same passes, each over its share, adding up in between; so each has the whole
answer, and the first one gives it. A rank that fails leaves the others waiting for it: then all are ended.
"""

import os
import pickle
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from typing import Any, NamedTuple

import torch

from pa_dist.engine.errors import EngineError, EngineGone, first_line
from pa_dist.engine.hf import BATCH_TOKENS, LEAST_TOKENS, HFEngine, out_of_memory
from pa_dist.engine.precision import Guarded, TooWide
from pa_dist.engine.protocol import TokenColumns, TokenSequence, Work

Build = Callable[[str | None], HFEngine | Guarded]
"""Makes a rank's engine, in the rank: it is pickled. Given the name of a dtype, or None for the one that is set."""
# How far apart ranks may be when they have loaded: their first sum waits for all.
PATIENCE = timedelta(hours=2)
# Seconds for the others to fail as one rank did; those that do not then wait for it.
GRACE = 10.0


class _Answer(NamedTuple):
    """What a rank says when it is done, or failed.

    Attributes:
      full: it ran out of memory.
      overflowed: how many sequences have left the range of float16.
    """

    found: Any = None
    work: Work = Work()
    fault: Exception | None = None
    full: bool = False
    overflowed: int = 0


class _Full(Exception):
    """A rank ran out of memory."""

    def __init__(self, answer: _Answer) -> None:
        self.answer = answer


class Ranks:
    """An engine whose model several processes hold.

    Attributes:
      size: how many.
      batch_tokens: as given, or less after memory ran out.
      work: what was done so far; operations are those of all ranks.
    """

    def __init__(self, build: Build, size: int, *, device: str = "cpu", batch_tokens: int = BATCH_TOKENS) -> None:
        """Start the ranks, and wait until all have loaded.

        Args:
          build: of each rank's engine.
          device: `cpu`, where ranks share out this process's threads, or `cuda`, where each has one of its GPUs.

        Raises:
          EngineError: there are fewer GPUs. EngineGone: a rank died, or failed alone.
          Exception: as `build`.
        """
        if device != "cpu" and torch.cuda.device_count() < size:
            raise EngineError(f"{size} ranks, a GPU each, and this process has {torch.cuda.device_count()}")
        self.size, self.batch_tokens, self.work = size, batch_tokens, Work()
        self._build, self._device = build, device
        self._dtype: str | None = None
        self._overflowed = 0
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._running = ExitStack()
        self._end = weakref.finalize(self, self._running.close)
        self._start()

    def facts(self) -> dict[str, Any]:
        """Of the first rank, the rate of matrix products of all together; `tensor_parallel_size` is how many."""
        found = [answer.found for answer in self._ask("facts")]
        facts = {**found[0], "tensor_parallel_size": self.size}
        facts["matrix_flops_per_second"] = sum(each["matrix_flops_per_second"] for each in found)
        if self._overflowed:
            facts["overflowed"] = facts.get("overflowed", 0) + self._overflowed
        return facts

    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """Columns of each sequence's scored tokens, in the order given; None where memory does not hold a sequence.

        Where a rank's memory ran out all are started again: with half the tokens at once; or, where it was in float32
        for what had left the range of float16, in bfloat16 from then on.

        Raises:
          EngineGone: a rank died, or failed alone.
          Exception: as the engines' `score`, where all ranks raise it.
        """
        given = self.batch_tokens
        while True:
            try:
                found: list[TokenColumns | None] = self._ask("score", sequences, self.batch_tokens)[0].found
                return found
            except _Full as full:
                self._overflowed += full.answer.overflowed
                if isinstance(full.answer.fault, TooWide):
                    self._dtype = "bfloat16"
                elif self.batch_tokens > LEAST_TOKENS:
                    self.batch_tokens = max(self.batch_tokens // 2, LEAST_TOKENS)
                else:
                    break
        found = [None] if len(sequences) == 1 else [columns for s in sequences for columns in self.score([s])]
        self.batch_tokens = given
        return found

    def close(self) -> None:
        """End the ranks; they are started again when there is more to do."""
        self._running.close()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        self._earlier = self.work
        context = get_context("spawn")
        threads = max(1, torch.get_num_threads() // self.size)
        place = self._running.enter_context(tempfile.TemporaryDirectory(prefix="pa-dist-ranks-"))
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            meeting = _Meeting(rank, self.size, self._device, threads, place)
            process = context.Process(target=_serve, args=(theirs, self._build, self._dtype, meeting), daemon=True)
            process.start()
            theirs.close()  # so that there is an end to what a rank says that died
            self._running.callback(_kill, process, ours)
            self._processes.append(process)
            self._pipes.append(ours)
        try:
            self._answers()
        except _Full as full:
            raise full.answer.fault or full from None
        except Exception:
            self.close()
            raise

    def _ask(self, *request: Any) -> list[_Answer]:
        """What all ranks answer. Raises `_Full`, with no rank left, and as `score`."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            with suppress(OSError):  # of one that died its answer tells
                pipe.send(request)
        answers = self._answers()
        self.work = self._earlier + replace(answers[0].work, flops=sum(answer.work.flops for answer in answers))
        return answers

    def _answers(self) -> list[_Answer]:
        try:
            answers = self._collected()
        except BaseException:
            self.close()
            raise
        faults = [answer.fault for answer in answers if answer.fault is not None]
        if faults:  # and all are
            raise faults[0]
        return answers

    def _collected(self) -> list[_Answer]:
        """An answer of each rank: all are done, or all failed alike. Raises `_Full` and `EngineGone`."""
        answers: dict[int, _Answer] = {}
        while len(answers) < self.size:
            silent = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = connection.wait(silent, GRACE if any(a.fault for a in answers.values()) else None)
            if not ready:
                break
            for pipe in ready:
                rank = self._pipes.index(pipe)
                answers[rank] = self._answer(rank)
                if answers[rank].full:
                    raise _Full(answers[rank])
        said = {rank: f"{type(a.fault).__name__}: {first_line(a.fault)}" for rank, a in answers.items() if a.fault}
        if said and (len(said) < self.size or len(set(said.values())) > 1):
            rank, what = min(said.items())
            raise EngineGone(f"rank {rank} of {self.size}: {what}")
        return [answers[rank] for rank in range(self.size)]

    def _answer(self, rank: int) -> _Answer:
        try:
            answer: _Answer = self._pipes[rank].recv()
        except (EOFError, OSError):
            self._processes[rank].join(GRACE)
            code = self._processes[rank].exitcode
            raise EngineGone(f"rank {rank} of {self.size} died, exit code {code}") from None
        if isinstance(answer.fault, EngineGone):
            raise answer.fault
        return answer


def _kill(process: Any, pipe: Any) -> None:
    process.kill()
    process.join()
    pipe.close()


class _Meeting(NamedTuple):
    """Where a rank meets the others."""

    rank: int
    size: int
    device: str
    threads: int
    place: str
    """A folder."""

    def join(self) -> None:
        """Be one of the ranks."""
        os.environ.update(RANK=str(self.rank), LOCAL_RANK=str(self.rank), WORLD_SIZE=str(self.size))
        of_the_device: dict[str, Any] = {"backend": "nccl", "device_id": torch.device("cuda", self.rank)}
        if self.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # transformers takes a GPU where it finds one
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            torch.set_num_threads(self.threads)
            of_the_device = {"backend": "gloo"}
        torch.distributed.init_process_group(
            init_method=f"file://{self.place}/met",
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
            **of_the_device,
        )


def _serve(pipe: Any, build: Build, dtype: str | None, meeting: _Meeting) -> None:
    """A rank: answers what it is asked until nobody is there who asks."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told, and ends this
    engine: HFEngine | Guarded | None = None
    try:
        meeting.join()
        engine = build(dtype)
        pipe.send(_Answer())
    except Exception as error:
        pipe.send(_failed(error, engine))
    with suppress(EOFError, ConnectionError):
        while True:
            request = pipe.recv()
            assert engine is not None, "what failed to load is asked for nothing"
            pipe.send(_answer(engine, meeting.rank, *request))


def _end_with_parent() -> None:
    """Wait, also while the rank waits for others, for the end of who started it."""
    parent = parent_process()
    assert parent is not None, "a rank was started"
    parent.join()
    os._exit(1)


def _answer(engine: HFEngine | Guarded, rank: int, name: str, *arguments: Any) -> _Answer:
    try:
        if name == "facts":
            return _Answer(engine.facts(), engine.work)
        sequences, batch_tokens = arguments
        (engine.engine if isinstance(engine, Guarded) else engine).limit(batch_tokens)
        found = engine.score(sequences)
        return _Answer(found if rank == 0 else None, engine.work)
    except Exception as error:
        return _failed(error, engine)


def _failed(error: Exception, engine: HFEngine | Guarded | None) -> _Answer:
    full = isinstance(error, TooWide) or (isinstance(error, RuntimeError) and out_of_memory(error))
    if isinstance(error, torch.AcceleratorError):
        error = EngineGone(f"{type(error).__name__}: {first_line(error)}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever it is made with
        error = EngineError(f"{type(error).__name__}: {first_line(error)}")
    return _Answer(fault=error, full=full, overflowed=getattr(engine, "overflowed", 0))
