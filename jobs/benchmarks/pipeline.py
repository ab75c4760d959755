"""The Ray pipeline beside the engines that it runs."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

from benchmarks.scored import scored
from pa_dist.config import Config
from pa_dist.store.folder import RunFolder


def compare(model: str, dtype: str, data: Path, place: str, limit: int) -> dict[str, float]:
    """Score tau-bench twice over, as policy and reference, with one thread for each of the two.

    Args:
      place: an empty folder for the runs.
      limit: trajectories.

    Returns:
      Seconds of the `pipeline`'s scoring stage, which scores the corpus with both, and `busy`, those that its actors
      computed on average; of `one` engine in a process of its own that scores it once, and of `two` side by side.
    """
    config = Config.model_validate(
        {
            "name": "benchmark",
            "trajectories": {"format": "tau_bench", "paths": [str(data / "tau_bench" / "*.json")], "limit": limit},
            "pair": {"policy": model, "reference": model},
            # Small blocks: both pools have work at once from early on, as they have in a long run.
            "score": {"dtype": dtype, "max_length": 2048, "rows_per_block": 2},
            "output": place,
        }
    )
    seconds, facts = scored(config)
    return {
        "pipeline": seconds,
        "busy": sum(entry["seconds"] for entry in facts["models"].values()) / len(facts["models"]),
        "one": _side_by_side(config, 1),
        "two": _side_by_side(config, 2),
    }


def _side_by_side(config: Config, processes: int) -> float:
    """Wall seconds of so many processes that each load the model and score the corpus."""
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    workers = [context.Process(target=_score, args=(config,)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a process that scores ended with {worker.exitcode}")
    return time.perf_counter() - began


def _score(config: Config) -> None:
    import torch

    from pa_dist.engine.hf import HFEngine
    from pa_dist.engine.load import load_model
    from pa_dist.engine.precision import dtype_on
    from pa_dist.engine.tokens import load_tokenizer
    from pa_dist.score import rows

    torch.set_num_threads(1)
    folder, settings = RunFolder(config.output), config.score
    size = int(settings.rows_per_block)  # `scored` was told how many
    engine = HFEngine(load_model(config.pair.policy, dtype=dtype_on("cpu", settings.dtype)))
    tokenizer: Any = load_tokenizer(config.pair.policy)
    for part in folder.parts("trajectories"):
        table = folder.read_table(part)
        for start in range(0, len(table), size):
            block = table.slice(start, size)
            tokens, _ = rows.tokenize_rows(block, [tokenizer], [1 << 31], config.render.actions, settings.max_length)
            engine.score(rows.sequences(tokens, "policy"))
