"""Peak memory of a piece of work, in a process of its own."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_above(prepare: Callable[..., Any], work: Callable[[Any], object], *arguments: Any) -> int:
    """Bytes that `work(prepare(*arguments))` needs at its peak beyond what the process holds after `prepare`.

    Args:
      prepare, work: functions of a module; they run in a fresh process.
    """
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, prepare, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that was measured ended with {process.exitcode}")
    return int(queue.get())


def _measure(
    queue: Any, prepare: Callable[..., Any], work: Callable[[Any], object], arguments: tuple[Any, ...]
) -> None:
    prepared = prepare(*arguments)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work(prepared)
        queue.put(torch.cuda.max_memory_allocated() - before)
        return
    # The high-water mark starts anew: loading may have held more, and a child's rusage begins with its parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work(prepared)
    queue.put(_status("VmHWM") - before)


def _status(name: str) -> int:
    """Bytes, of a line of the kernel's account of this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
