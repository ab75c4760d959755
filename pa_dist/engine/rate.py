"""What a device can do: the rate of its matrix products."""

import time

import torch

from pa_dist.engine.attention import half_is_emulated

SIDE = {"cpu": 1024}
SIDE_ON_A_GPU = 8192


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 9) -> float:
    """Floating point operations per second of a large square matrix product, the best of some.

    Where a CPU's half precision is emulated, in float32: that is what multiplies.
    """
    if device.type == "cpu" and half_is_emulated(dtype):
        dtype = torch.float32
    side = SIDE.get(device.type, SIDE_ON_A_GPU)
    # Of ones a product is faster than of anything else: fewer bits change.
    a = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
