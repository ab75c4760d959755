"""Engines that generate critiques: greedy, with the log-probs of the most likely tokens at each position."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from pa_dist.config import ThinkPRM
from pa_dist.engine.errors import EngineGone
from pa_dist.engine.hf import out_of_memory
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import Work
from pa_dist.engine.vllm import use_its_threads, use_this_process
from pa_dist.reward_models.verdicts import Critique
from pa_dist.runtime.attempts import reason

# The most likely tokens of each position that verdicts are read from; vLLM gives no more unless told.
TOP = 20


class Generator(Protocol):
    """Continues prompts. Generators know neither Ray nor trajectories."""

    work: Work
    """So far; tokens of prompts and critiques."""

    def score(self, prompts: Sequence[Sequence[int]]) -> list[Critique | None]:
        """What follows each prompt, in the order given; None where memory does not hold one."""
        ...


class HFGenerator:
    """Transformers, one prompt at a time: for tests and small machines."""

    def __init__(self, model: PreTrainedModel, max_new_tokens: int) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.work = Work()
        ends = model.generation_config.eos_token_id if model.generation_config else None
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())

    @torch.inference_mode()
    def score(self, prompts: Sequence[Sequence[int]]) -> list[Critique | None]:
        """As `Generator` has it."""
        began = time.perf_counter()
        found = [self._one(prompt) for prompt in prompts]
        tokens = sum(map(len, prompts)) + sum(len(critique.token_ids) for critique in found if critique)
        self.work += Work(tokens, tokens, 0, time.perf_counter() - began)
        return found

    def _one(self, prompt: Sequence[int]) -> Critique | None:
        critique = Critique([], [], finished=False)
        ids, cache = torch.tensor([list(prompt)], device=self.model.device), None
        try:
            while len(critique.token_ids) < self.max_new_tokens:
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                logprobs = torch.log_softmax(out.logits[0, -1], dim=-1, dtype=torch.float32)
                values, tokens = (t.tolist() for t in logprobs.topk(min(TOP, len(logprobs))))
                critique.token_ids.append(tokens[0])
                critique.top.append(dict(zip(tokens, values, strict=True)))
                if tokens[0] in self._ends:
                    return critique._replace(finished=True)
                ids = torch.tensor([[tokens[0]]], device=self.model.device)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        return critique


class VLLMGenerator:
    """vLLM, all prompts of a block at once."""

    def __init__(self, settings: ThinkPRM, gpus: float) -> None:
        """`gpus`: that this process may use; a fraction is of one GPU's memory, none is the CPU."""
        use_this_process()
        from vllm import LLM, SamplingParams

        self.work = Work()
        self._engine: Any = LLM(
            model=settings.model,
            revision=settings.revision,
            tokenizer_revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            load_format="safetensors",
            dtype=settings.dtype,
            max_model_len=settings.max_length,
            tensor_parallel_size=max(1, int(gpus)),
            distributed_executor_backend="uni" if gpus <= 1 else "mp",
            gpu_memory_utilization=settings.gpu_memory * (min(gpus, 1.0) or 1.0),
            max_logprobs=TOP,
            seed=0,
            disable_log_stats=True,
        )
        self._sampling: Any = SamplingParams(
            temperature=0.0, max_tokens=settings.max_new_tokens, logprobs=TOP, detokenize=False
        )

    def score(self, prompts: Sequence[Sequence[int]]) -> list[Critique | None]:
        """As `Generator` has it. Raises `EngineGone` where vLLM raised."""
        use_its_threads()
        began = time.perf_counter()
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            outputs = [out.outputs[0] for out in self._engine.generate(inputs, self._sampling, use_tqdm=False)]
        except Exception as error:  # after it vLLM may hold requests that nobody waits for
            raise EngineGone(f"vLLM: {reason(error)}") from error
        tokens = sum(map(len, prompts)) + sum(len(out.token_ids) for out in outputs)
        self.work += Work(tokens, tokens, 0, time.perf_counter() - began)
        return [
            Critique(
                list(out.token_ids),
                [{token: entry.logprob for token, entry in position.items()} for position in out.logprobs],
                out.finish_reason == "stop",
            )
            for out in outputs
        ]


def load_generator(settings: ThinkPRM, device: str, gpus: float) -> Generator:
    """The engine that the settings name, on a torch device or so many GPUs."""
    if settings.engine == "vllm":
        return VLLMGenerator(settings, gpus)
    model = load_model(
        settings.model,
        revision=settings.revision,
        dtype=settings.dtype,
        device=device,
        trust_remote_code=settings.trust_remote_code,
    )
    return HFGenerator(model, settings.max_new_tokens)
