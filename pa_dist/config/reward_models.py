"""The sections of reward models."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from pa_dist.config.paths import AnyPath
from pa_dist.config.sections import AutoOrCount, Positive, Replicas


def _holds(*marks: str) -> AfterValidator:
    """A text holds these, each once and in this order."""

    def check(text: str) -> str:
        found = re.findall("|".join(map(re.escape, marks)), text)
        if found != list(marks):
            raise ValueError(f"a prompt holds {' and then '.join(marks)}, once each")
        return text

    return AfterValidator(check)


class _RewardModel(Replicas):
    """What all reward models have; the actor pool's keys stand beside the others."""

    model: AnyPath
    """A folder, or a name on the Hugging Face Hub."""
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: str | None = None
    """A torch device; null takes the actor's GPU where it has one, else the CPU."""
    rows_per_block: AutoOrCount = "auto"
    """As `score.rows_per_block`."""


class Classifier(_RewardModel):
    """Any sequence-classification model. It gives a trajectory one score: UQ and best-of-N."""

    kind: Literal["classifier"]
    input: Literal["chat", "plain", "prompt"] = "chat"
    """chat: the model's own chat template, the assistant's messages its turns and all between them the user's; plain:
    the paper's plain rendering; prompt: that rendering in the text `prompt`."""
    prompt: Annotated[str, _holds("{query}", "{response}")] | None = None
    """`{query}` is what came before the first action, `{response}` the whole trajectory; null asks, in words of ours,
    how satisfied the user is, from 1 to 5."""
    read: Literal["logit", "ordinal", "probability"] = "logit"
    """logit: the only label's; ordinal: 1 + the sum of the labels' sigmoids; probability: of `label`, by softmax."""
    label: Annotated[int, Field(ge=0)] | None = None
    """Which label `probability` is of."""
    max_length: Annotated[int, Field(ge=2)] = 4096
    cut: Literal["left", "right"] = "left"
    """Where a trajectory that is too long loses tokens: at its beginning, or at its end."""
    batch_tokens: Positive = 16384
    """Tokens of one pass, pads included; halved when memory runs out."""

    @model_validator(mode="after")
    def _label_of_a_probability(self) -> "Classifier":
        if (self.read == "probability") != (self.label is not None):
            raise ValueError("label: goes with read=probability, and with nothing else")
        return self


class WildReward(Classifier):
    """THU-KEG/WildReward-8B, read as published."""

    kind: Literal["wildreward"]  # type: ignore[assignment]
    model: AnyPath = "THU-KEG/WildReward-8B"
    input: Literal["chat", "plain", "prompt"] = "prompt"
    read: Literal["logit", "ordinal", "probability"] = "ordinal"


class ThinkPRM(_RewardModel):
    """A model that criticises each step and closes with `Step N is \\boxed{correct}` or `\\boxed{incorrect}`.

    A step's score is P(correct): UQ, best-of-N and failure attribution.
    """

    kind: Literal["thinkprm"]
    model: AnyPath = "launch/ThinkPRM-7B"
    engine: Literal["vllm", "hf"] = "vllm"
    """vllm: the extra of that name; hf: transformers, one critique at a time, for tests and small machines."""
    prompt: Annotated[str, _holds("{task}", "{steps}")] | None = None
    """What the model is asked, with the task and the numbered steps in it; null asks in words of ours."""
    max_length: Annotated[int, Field(ge=2)] = 16384
    """Tokens of prompt and critique together. What is too long loses its first steps."""
    max_new_tokens: Positive = 4096
    """Tokens of a critique."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of its part of a GPU's memory that vLLM takes; on a CPU, of the machine's."""

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> "ThinkPRM":
        if self.max_new_tokens >= self.max_length:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} leave no room for a prompt in max_length")
        return self


KINDS: dict[str, type[BaseModel]] = {"classifier": Classifier, "wildreward": WildReward, "thinkprm": ThinkPRM}
RewardModel = Annotated[Classifier | WildReward | ThinkPRM, Field(discriminator="kind")]
# A name is a folder's, a method's and part of a column's, METHOD__TOKENAGG__STEPAGG: no `__` in it.
RewardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=60)]
