"""Sequence-classification reward models: a pass over what is shown, a score from the labels' logits."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from pa_dist.engine.hf import out_of_memory
from pa_dist.engine.load import load_checked
from pa_dist.engine.protocol import Work

Ids = Sequence[int]


def load_classifier(
    name: str, *, dtype: str, device: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A sequence-classification model ready to score.

    Args:
      name: a folder, or a name on the Hugging Face Hub.
      dtype: `float32` or `bfloat16`.
      device: a torch device.

    Raises:
      OSError: no such model.
      PaDistError: the checkpoint lacks weights, such as those of the head; transformers would make them up.
    """
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(name, **where)
    return load_checked(AutoModelForSequenceClassification, name, config, dtype=dtype, device=device, **where)


def reading(read: Literal["logit", "ordinal", "probability"], label: int | None) -> Callable[[Tensor], Tensor]:
    """How logits [n, labels] become scores [n]."""
    match read:
        case "logit":
            return lambda logits: logits.squeeze(1)
        case "ordinal":
            return lambda logits: 1 + logits.sigmoid().sum(dim=1)
        case "probability":
            return lambda logits: logits.softmax(dim=1)[:, label]


class ClassifierEngine:
    """Scores prompts with one model, those of similar length side by side.

    Attributes:
      batch_tokens: as given, or less where memory ran out.
      work: what was done so far.
    """

    def __init__(self, model: PreTrainedModel, read: Callable[[Tensor], Tensor], batch_tokens: int) -> None:
        self.model, self.batch_tokens = model, batch_tokens
        self.work = Work()
        self._read = read

    @torch.inference_mode()
    def score(self, prompts: Sequence[Ids]) -> list[float | None]:
        """Each prompt's score, in the order given; None where memory does not hold it."""
        began = time.perf_counter()
        scores: list[float | None] = [None] * len(prompts)
        pending = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        while pending:
            # The first is the longest, so this many rows are no wider than it.
            rows = max(1, self.batch_tokens // max(1, len(prompts[pending[0]])))
            batch = pending[:rows]
            try:
                found = self._pass([prompts[i] for i in batch])
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if len(batch) > 1:
                    self.batch_tokens = len(batch) * len(prompts[batch[0]]) // 2
                    continue
                found = [None]
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
            del pending[: len(batch)]
        tokens = sum(map(len, prompts))
        self.work += Work(tokens, tokens, 0, time.perf_counter() - began)
        return scores

    def _pass(self, prompts: Sequence[Ids]) -> Sequence[float | None]:
        config = self.model.config.get_text_config()
        declared = config.pad_token_id
        # A model pools at the last token that is no pad. Where no pad is declared, a token that no prompt holds serves.
        pad = _absent(prompts, config.vocab_size) if declared is None and len(prompts) > 1 else declared or 0
        ids = torch.full((len(prompts), max(map(len, prompts))), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
            mask[row, : len(prompt)] = 1
        config.pad_token_id = declared if len(prompts) == 1 else pad
        try:
            device = self.model.device
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        finally:
            config.pad_token_id = declared
        scores: list[float] = self._read(logits.float()).tolist()
        return scores


def _absent(prompts: Sequence[Ids], vocabulary: int) -> int:
    held = set(itertools.chain.from_iterable(prompts))
    return next(token for token in range(vocabulary) if token not in held)
