"""Adapters of peft on a base model: one set of weights that is the policy and the reference in turn."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from pa_dist.engine.errors import EngineError
from pa_dist.engine.load import quiet
from pa_dist.engine.protocol import TokenColumns, TokenSequence, Work


class Adapted:
    """A base model and the adapters on it. Its weights stay as they are; what an adapter adds to a layer's output is
    computed beside it, as in training.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model in eval mode, whose layers are given adapters in place."""
        self.model = model
        self._peft: Any = None

    def add(self, name: str, label: str, *, revision: str | None = None) -> None:
        """Put an adapter on the model, beside those that it has.

        Args:
          name: a folder that peft wrote, or a name on the Hugging Face Hub.
          label: that `turn` knows it by.

        Raises:
          OSError: no such adapter. ImportError: peft is not installed. ValueError: it is for layers of other names.
          EngineError: it lacks weights, or has some for layers that the model does not have.
        """
        from peft import PeftConfig, PeftModel

        settings = PeftConfig.from_pretrained(name, revision=revision)
        settings.inference_mode = True
        with quiet(), warnings.catch_warnings(action="ignore"):
            if self._peft is None:
                self._peft = PeftModel(self.model, settings, adapter_name=label)
            else:
                self._peft.add_adapter(label, settings)
            report = self._peft.load_adapter(name, label, revision=revision, torch_device=str(self.model.device))
        self.model.eval()
        ours = [key for key in report.missing_keys if f".{label}." in f"{key}."]
        for fault, keys in (("lacks", ours), ("has more than the", report.unexpected_keys)):
            if keys:
                kind = type(self.model).__name__
                raise EngineError(f"{name}: the adapter {fault} weights of {kind}, {len(keys)} in all: {min(keys)}")

    def turn(self, label: str | None) -> None:
        """Let the model be the one with this adapter, or the base."""
        if label is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.base_model.set_adapter(label, inference_mode=True)


class Side:
    """An engine of a model that has adapters, which scores with one of them, or with none.

    Engines of one model take turns: each has prefixes of its own in memory, and the weights are there once.
    """

    def __init__(self, adapted: Adapted, label: str | None, make: Callable[[PreTrainedModel], Any]) -> None:
        """Make the engine.

        Args:
          label: of the adapter; None for the base as it is.
          make: an engine of the model.
        """
        self._adapted, self._label = adapted, label
        adapted.turn(label)
        self._engine = make(adapted.model)
        self.work: Work = self._engine.work
        self._dtype = adapted.model.dtype

    def facts(self) -> dict[str, Any]:
        """As of any engine."""
        self._adapted.turn(self._label)
        facts: dict[str, Any] = self._engine.facts()
        return facts

    def forget(self) -> None:
        """As of any engine."""
        self._engine.forget()

    def score(self, sequences: Sequence[TokenSequence]) -> list[TokenColumns | None]:
        """As of any engine. Raises as it does."""
        self._adapted.turn(self._label)
        if self._adapted.model.dtype != self._dtype:  # the other side left the range of float16
            self._engine.forget()
            self._dtype = self._adapted.model.dtype
        found: list[TokenColumns | None] = self._engine.score(sequences)
        return found
