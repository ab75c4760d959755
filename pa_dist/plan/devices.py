"""How fast a device is taken to be: a named one, this machine's, or that of an earlier run."""

import difflib
import os
from dataclasses import dataclass
from typing import Any

import torch

from pa_dist import schema
from pa_dist.config import Config, Replicas
from pa_dist.engine.precision import dtype_on
from pa_dist.engine.rate import matrix_rate
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.store.folder import RunFolder

GIB = 2**30
# Dense matrix products a second, in half precision and in float32 (without TF32, which nothing here switches on), and
# memory. By their maker's data sheets, the SXM form where there are several; of memory what a process finds, in GiB.
DEVICES = {
    "L4": (121e12, 30.3e12, 22),
    "L40S": (362e12, 91.6e12, 44),
    "A100-40GB": (312e12, 19.5e12, 39),
    "A100": (312e12, 19.5e12, 79),
    "H100": (989e12, 67e12, 79),
    "H200": (989e12, 67e12, 139),
    "B200": (2250e12, 75e12, 178),
}
# What of a peak is reached: of a GPU's as its data sheet has it, and of a CPU's own rate as it was measured with a
# model of 135 million parameters (README, floor / ours).
SHARE = {
    "cuda": {"float16": 0.4, "bfloat16": 0.4, "float32": 0.6},
    "cpu": {"float16": 0.37, "bfloat16": 0.37, "float32": 0.76},
}
HERE = "here"


@dataclass(frozen=True)
class Speed:
    """What one replica of each model does in a second."""

    name: str
    kind: str
    """The type of a torch device."""
    memory: float | None
    """Bytes of one device, where they are known."""
    unit: str
    """What is done: `flops`, `distinct_tokens` or `tokens`."""
    per_second: dict[str, float]
    """Of each model."""
    assumed: str
    """How that was found, in words."""
    machine: float | None = None
    """GPUs, of a CPU cores, of the one machine that is planned for; None: there are as many as are asked for."""


def speeds(config: Config, device: str | None, like: str | None, share: float | None) -> list[Speed]:
    """The devices to plan for: of an earlier run, one that is named, this machine, or all that have a name.

    Args:
      share: of the peak or the measured rate that is reached; None takes `SHARE`.

    Raises:
      ConfigError: no such device. RunFolderError: nothing was scored in the folder `like`.
    """
    if like is not None:
        return [_like(RunFolder(like))]
    if device == HERE:
        return [_here(config, share)]
    if device is None:
        return [_named(name, config, share) for name in DEVICES]
    known = {name.lower(): name for name in DEVICES}
    if device.lower() not in known:
        close = difflib.get_close_matches(device.lower(), known, n=1)
        nearest = f"; did you mean {known[close[0]]}?" if close else ""
        raise ConfigError(f"--device: unknown device {device!r}{nearest}; one of {', '.join(DEVICES)}, {HERE}")
    return [_named(known[device.lower()], config, share)]


def _named(name: str, config: Config, share: float | None) -> Speed:
    half, float32, memory = DEVICES[name]
    dtype = dtype_on("cuda", config.score.dtype)
    peak, reached = float32 if dtype == "float32" else half, share or SHARE["cuda"][dtype]
    said = f"devices: {reached:.0%} of the dense peak in {dtype} that a data sheet names is reached (--share)"
    return Speed(name, "cuda", memory * GIB, "flops", dict.fromkeys(schema.MODELS, peak * reached), said)


def _here(config: Config, share: float | None) -> Speed:
    """Of this machine: on a CPU with the threads that an actor would have."""
    kind = "cuda" if torch.cuda.is_available() and config.score.device in (None, "cuda") else "cpu"
    dtype = dtype_on(kind, config.score.dtype)
    reached = share or SHARE[kind][dtype]
    rates = {model: _measured(kind, dtype, getattr(config.score, model)) for model in schema.MODELS}
    measured = " and ".join(f"{rate / 1e9:,.0f}" for rate in dict.fromkeys(rates.values()))
    said = (
        f"devices: {reached:.0%} (--share) of {measured} GFLOP/s, which a large matrix product in {dtype} reached here"
    )
    if kind == "cuda":
        memory, machine = float(torch.cuda.get_device_properties(0).total_memory), torch.cuda.device_count()
    else:
        memory, machine = _memory_of_the_machine(), os.cpu_count() or 1
    return Speed(HERE, kind, memory, "flops", {model: rate * reached for model, rate in rates.items()}, said, machine)


def _measured(kind: str, dtype: str, pool: Replicas) -> float:
    threads = torch.get_num_threads()
    try:
        if kind == "cpu":
            torch.set_num_threads(max(1, int(pool.num_cpus)))
        return matrix_rate(torch.device(kind), getattr(torch, dtype))
    finally:
        torch.set_num_threads(threads)


def _memory_of_the_machine() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _like(folder: RunFolder) -> Speed:
    """What an earlier run's actors did, by what its manifest says of them."""
    stage = folder.manifest["stages"].get("score", {})
    models: dict[str, dict[str, Any]] = stage.get("models", {})
    if not stage.get("done") or not all(models.get(m, {}).get("tokens") for m in schema.MODELS):
        raise RunFolderError(f"{folder}: --like takes a folder in which both models were scored, in one session")
    counted = all(models[model]["flops_per_second"] for model in schema.MODELS)
    unit = "flops" if counted else "tokens"
    rates = {model: float(models[model][f"{unit}_per_second"]) for model in schema.MODELS}
    device = str(models["policy"]["actors"][0]["device"]).partition(":")[0]
    if counted:
        what = " and ".join(f"{model} {rate / 1e9:,.1f} GFLOP/s" for model, rate in rates.items())
    else:
        what = " and ".join(f"{model} {rate:,.0f} tokens/s" for model, rate in rates.items())
    each = {model: rate / models[model]["actors"][0].get("tensor_parallel_size", 1) for model, rate in rates.items()}
    return Speed(f"as in {folder}", device, None, unit, each, f"devices: an actor does {what}, as that run's did")
