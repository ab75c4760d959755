"""Scoring by vLLM, where it is installed: beside the other ways in one process, and beside HF in the pipeline."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pa_dist import schema
from pa_dist.config import Config
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.vllm import VLLMEngine, installed
from pa_dist.errors import ConfigError
from pa_dist.ragged import column
from pa_dist.stages import ingest_and_score
from pa_dist.store.folder import RunFolder

# Of the memory, vLLM reserves so much at once; our own model stands beside it.
MEMORY_SHARE = 0.5


def vllm_scorer(
    name: str, dtype: str, max_length: int
) -> Callable[[Sequence[TokenSequence]], list[NDArray[np.float32]]] | None:
    """A function that gives the log-probs of each sequence's scored tokens; None without vLLM.

    Args:
      name: folder or Hub name of a model.
      max_length: no sequence is longer.
    """
    if installed() is None:
        return None
    engine = VLLMEngine(name, max_length=max_length, gpu_memory_utilization=MEMORY_SHARE, dtype=dtype)
    return lambda sequences: [columns.logprob for columns in engine.score(sequences) if columns is not None]


def differences(config: Config, place: str) -> dict[str, float | None]:
    """Run the pipeline by HF and by vLLM: the largest difference of each column, None where vLLM left it null.

    Args:
      config: of a run whose engine and output do not matter.
      place: a folder for both runs.

    Raises:
      ConfigError: no vLLM.
    """
    if installed() is None:
        raise ConfigError("engines: vllm is not installed; `pip install 'pa-dist[vllm]'` installs it")
    tables = []
    for engine in ("hf", "vllm"):
        output = f"{place}/{engine}"
        score = config.score.model_copy(update={"engine": engine})
        ingest_and_score(config.model_copy(update={"score": score, "output": output}), print)
        ray.shutdown()
        tables.append(RunFolder(output).dataset("logprobs", schema.LOGPROBS).to_table().sort_by("trajectory_id"))
    for name in ("trajectory_id", "token_ids"):
        if tables[0][name].to_pylist() != tables[1][name].to_pylist():
            raise RuntimeError(f"the two runs differ in {name}")
    names = [f"{model}_{column}" for model in schema.MODELS for column in schema.TOKEN_COLUMNS]
    return {name: _largest(*(column(table, name) for table in tables)) for name in names}


def _largest(one: pa.Array, other: pa.Array) -> float | None:
    a, b = (lists.flatten().flatten().to_numpy(zero_copy_only=False) for lists in (one, other))
    return float(np.abs(a - b).max()) if len(b) else None
