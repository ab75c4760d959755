"""The scoring of a config's trajectories alone: neither checked, nor skipped where it was done before."""

import time
from typing import Any

import ray

from pa_dist.config import Config
from pa_dist.runtime import cluster
from pa_dist.runtime.pools import share_out
from pa_dist.score.pipeline import score
from pa_dist.stages import ingest_files
from pa_dist.store.folder import RunFolder


def scored(config: Config, *, commit: bool = True) -> tuple[float, dict[str, Any]]:
    """Ingest and score on a cluster that ends with it.

    Args:
      config: its output is an empty folder, and its models may be the same one twice.
      commit: as `score` has it.

    Returns:
      Seconds of scoring, loading included, and its facts.
    """
    folder = RunFolder(config.output)
    cluster.connect(config.ray, config.score)
    ingest_files(config.trajectories, folder, print, config.ray)
    began = time.perf_counter()
    facts = score(config.scoring, folder, share_out(config.score), commit=commit)
    seconds = time.perf_counter() - began
    ray.shutdown()
    return seconds, facts
