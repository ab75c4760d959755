"""What Ray gave the process of an actor."""

import platform

import ray

from pa_dist.errors import PaDistError


def own_device(named: str | None) -> str:
    """The device that Ray gave this actor, where none is named; of a CPU the threads as well.

    Raises:
      PaDistError: it was given a GPU, and torch can use none: a run on the CPU in its stead would only seem to hang.
    """
    import torch  # here and not above: tasks import this module as well

    cuda, gpus = torch.cuda.is_available(), ray.get_gpu_ids()
    if not cuda:
        assigned = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
    if named:
        return named
    if gpus and not cuda:
        raise PaDistError(
            f"a GPU was assigned on {platform.node()}, and torch {torch.__version__} there finds no CUDA; install a "
            "torch for this GPU, or say device=cpu, of a pair in `score`, of a reward model in its own section"
        )
    return "cuda" if gpus else "cpu"


def assigned_gpus() -> float:
    """GPUs of this actor; a fraction is of one."""
    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))
