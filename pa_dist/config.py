"""One typed config tree: a YAML file, any key of it overridden by `key.path=value`.

`load` is the only way in. Whatever is wrong ends in a `ConfigError` of one line that names the key, with the nearest
valid name where a key is unknown.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pa_dist.errors import ConfigError
from pa_dist.pairs import DEMO, PAIRS

FileFormat = Literal["tau2", "tau_bench", "who_and_when", "agentdojo", "inspect_log", "chat", "parquet"]
Format = Literal[FileFormat, "auto"]
Scenario = Literal["auto", "uq", "best_of_n", "fa"]
MergeMethod = Literal["linear", "ties", "dare_linear", "dare_ties", "emr"]
Positive = Annotated[int, Field(gt=0, lt=2**31)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Trajectories(_Section):
    """Which files to read, and how."""

    format: Format
    """auto recognises each file by what it holds."""
    paths: Annotated[list[str], Field(min_length=1)]
    """Files, folders, globs or URIs."""
    messages_column: str | None = None
    """The column of Parquet files that holds the messages; null looks for the usual names."""
    limit: Positive | None = None
    """Keep this many trajectories, the first ones in table order (benchmark, domain, task, trial)."""
    benchmark: str | None = None
    domain: str | None = None
    behavior: str | None = None
    """These three replace what the format reads from the file."""


class Pair(_Section):
    """Policy and reference: folders, or names on the Hugging Face Hub."""

    policy: str
    reference: str
    policy_revision: str | None = None
    reference_revision: str | None = None
    trust_remote_code: bool = False


class Render(_Section):
    """How a trajectory becomes text."""

    style: Literal["plain", "chat"] = "plain"
    """plain: the paper's; chat: the model's own chat template, an action being what the model would have generated."""
    actions: Literal["auto", "assistant", "non_blank"] = "auto"
    """Which messages are actions: the assistant's, or every non-blank one (Who & When); auto goes by the benchmark. A
    chat template knows the assistant's only."""
    template_from: Literal["own", "policy"] = "own"
    """Chat: whether the reference reads its own template or the policy's; base models often have none."""
    template_options: dict[str, Any] = {}
    """Chat: variables that templates read, such as `enable_thinking: false`; one that would write today's date wants
    it here, mostly as `date_string`, or two days give two results."""
    end_of_turn: bool = False
    """Chat: whether the token that ends the turn belongs to the action. It is generated, but the aggregation `last`
    would read nothing else, and a base model may never have been trained to end a turn."""

    @model_validator(mode="after")
    def _chat_knows_the_assistant(self) -> "Render":
        if self.style == "chat" and self.actions == "non_blank":
            raise ValueError(
                "actions: 'non_blank' needs style: plain; a chat template knows the assistant's actions only"
            )
        return self


class Replicas(_Section):
    """One model's actor pool. `num_gpus: null` shares out what the cluster has."""

    replicas: Positive = 1
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 1
    labels: dict[str, str] = {}
    """Labels of the nodes that may hold these actors, such as `ray.io/accelerator-type: H100` or one of your own."""


class Vllm(_Section):
    """The engine `vllm`, which the extra of that name installs."""

    tensor_parallel_size: Positive = 1
    """GPUs of one actor; `num_gpus: null` takes as many."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory for weights and keys, on a CPU of the machine's; null takes 0.9 of the actor's share of a
    GPU, and 0.2 of a machine."""
    max_num_batched_tokens: Positive = 2048
    """Tokens of one pass. vLLM holds [tokens, vocabulary] float32 for them more than once, beside that share."""


class Score(_Section):
    """The forward passes."""

    engine: Literal["hf", "vllm"] = "hf"
    """hf: transformers, all columns, shared prefixes run once; vllm: log-probs and their top-k mean, other columns
    null, each sequence by itself; `batch_tokens` and `prefix_sharing` are not read."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: str | None = None
    """A torch device; null takes the actor's GPU where it has one, else the CPU."""
    attn_implementation: str | None = None
    """One of transformers' own instead of attention over the prefix tree; prefixes are then not shared."""
    max_length: Annotated[int, Field(ge=2)] = 16384
    top_k: Positive = 20
    batch_tokens: Positive = 16384
    """Tokens in a device's memory at once, of a pass and of keys and values that wait; halved when memory runs out."""
    prefix_sharing: Literal["auto", "off"] = "auto"
    """auto runs a prefix that trajectories of one block share once, where that saves enough and the model allows it."""
    rows_per_block: Positive = 16
    """Trajectories of one block: what an actor is given at a time, and what is written at a time."""
    vllm: Vllm = Vllm()
    policy: Replicas = Replicas()
    reference: Replicas = Replicas()

    @model_validator(mode="after")
    def _what_vllm_takes(self) -> "Score":
        if self.engine != "vllm":
            return self
        for key in ("device", "attn_implementation"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} is not for engine vllm, which chooses its own")
        for key in ("policy", "reference"):
            gpus, size = getattr(self, key).num_gpus, self.vllm.tensor_parallel_size
            if gpus and size > 1 and gpus != size:
                raise ValueError(f"{key}.num_gpus of {gpus:g} are not vllm.tensor_parallel_size of {size}")
        return self


class Merge(_Section):
    """Merged references, reference + alpha * (policy - reference), scored for each alpha; the policy is scored once."""

    method: MergeMethod
    """As mergekit defines them. Of one policy dare_ties equals dare_linear, and emr equals linear."""
    alphas: Annotated[list[float], Field(min_length=1)]
    """0 is the reference, which is scored without being asked for; 1, where nothing is left out, the policy."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The share of each tensor's difference that ties and dare keep."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what dare drops."""
    vocabulary: Literal["same", "common"] = "same"
    """same refuses models of vocabularies of different size; common merges the tokens that both have, by their ids, and
    leaves the reference's others as they are."""

    @field_validator("alphas")
    @classmethod
    def _each_once(cls, alphas: list[float]) -> list[float]:
        if len(set(alphas)) < len(alphas):
            raise ValueError("an alpha is there twice")
        return alphas


class Evaluate(_Section):
    """The readings of the log-prob columns."""

    preset: Literal["published", "paper"] = "published"
    """published: the methods as their papers define them; paper: as this paper's released code computes them."""
    beta: Annotated[float, Field(gt=0)] = 1.0
    scenarios: Annotated[list[Scenario], BeforeValidator(_as_list), Field(min_length=1)] = ["auto"]
    """auto takes what the labels allow; a scenario named is evaluated, if only to say why it cannot be."""
    success_threshold: float = 1.0
    """A trajectory succeeded when its reward is at least this."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples of each interval; 0 leaves intervals out."""
    seed: Annotated[int, Field(ge=0)] = 0
    within: list[Annotated[int, Field(ge=0, lt=2**31)]] = [1, 3, 5]
    """Distances of `step_accuracy_within`."""
    reward_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A step that a reward model finds correct with less probability is wrong: what `earliest_below` blames, and the
    zero of the other predictors of such models."""


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

    model: str
    """A folder, or a name on the Hugging Face Hub."""
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: str | None = None
    """A torch device; null takes the actor's GPU where it has one, else the CPU."""
    rows_per_block: Positive = 16
    """Trajectories of one block: what an actor is given at a time, and what is written at a time."""


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
    model: str = "THU-KEG/WildReward-8B"
    input: Literal["chat", "plain", "prompt"] = "prompt"
    read: Literal["logit", "ordinal", "probability"] = "ordinal"


class ThinkPRM(_RewardModel):
    """A model that criticises each step and closes with `Step N is \\boxed{correct}` or `\\boxed{incorrect}`.

    A step's score is P(correct): UQ, best-of-N and failure attribution.
    """

    kind: Literal["thinkprm"]
    model: str = "launch/ThinkPRM-7B"
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


_KINDS: dict[str, type[BaseModel]] = {"classifier": Classifier, "wildreward": WildReward, "thinkprm": ThinkPRM}
RewardModel = Annotated[Classifier | WildReward | ThinkPRM, Field(discriminator="kind")]
# A name is a folder's, a method's and part of a column's, METHOD__TOKENAGG__STEPAGG: no `__` in it.
RewardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+([_-][A-Za-z0-9]+)*$", max_length=60)]


class Ray(_Section):
    """How to reach Ray."""

    address: str | None = None
    """null: the cluster of RAY_ADDRESS if that is set, else an embedded one for this command."""
    check_resources: bool = True
    """Refuse actors that the nodes of now could not hold; switch off where an autoscaler will add nodes."""


class Config(_Section):
    """A whole run."""

    name: str | None = None
    trajectories: Trajectories
    pair: Pair
    render: Render = Render()
    score: Score = Score()
    merge: Merge | None = None
    """null: the reference alone."""
    reward_models: dict[RewardName, RewardModel] = {}
    """Reward models by the name that their scores go by, such as `wildreward: {kind: wildreward}`."""
    evaluate: Evaluate = Evaluate()
    ray: Ray = Ray()
    output: str

    @model_validator(mode="before")
    @classmethod
    def _name_of_a_pair(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("pair"), str):
            return data
        name, known = data["pair"], {**PAIRS, "demo": DEMO}
        if name not in known:
            raise ValueError(f"pair: unknown pair {name!r}{_nearest(name, known)}; `pa-dist pairs` lists them")
        return {**data, "pair": {"policy": known[name].policy, "reference": known[name].reference}}

    @model_validator(mode="after")
    def _merged_in_place(self) -> "Config":
        if self.merge is not None and self.score.engine != "hf":
            raise ValueError("merge: needs score.engine hf, whose weights are rewritten in place")
        return self


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a config file and apply `key.path=value` overrides.

    Args:
      path: a YAML file.
      overrides: `key.path=value` strings; values are read as YAML (`limit=40` is a number, `paths=[a, b]` a list).

    Raises:
      ConfigError: unreadable file, unknown key, or a value out of bounds.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    tree = _yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    for override in overrides or []:
        _apply(tree, override)
    return parse(tree)


def parse(tree: dict[str, Any]) -> Config:
    """Validate a config given as a plain dict. Raises `ConfigError`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def evaluate_section(before: dict[str, Any], overrides: list[str] | None = None) -> Evaluate:
    """The `evaluate` section a run folder was made with, with `key=value` overrides. Raises `ConfigError`."""
    tree: dict[str, Any] = dict(before)
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Evaluate.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error, Evaluate)) from None


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override is key.path=value")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {parent} has no keys below it")
        node = child
    node[leaf] = _yaml(value, key)


def _one_line(error: ValidationError, model: type[BaseModel] = Config) -> str:
    """The first problem, as `key.path: what is wrong`."""
    first = error.errors()[0]
    fields, path = _fields_at(model, list(first["loc"][:-1])), list(first["loc"])
    if path[0:1] == ["reward_models"]:
        del path[2:3]  # the kind, which pydantic puts between a name and its keys
    key = ".".join(str(part) for part in path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(str(path[-1]), fields)}{more}"
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    if first["type"].startswith("union_tag"):
        return f"{key}.kind: one of {', '.join(_KINDS)}{more}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if not key:
        return message + more
    given = first["input"]
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    nearest = ""
    if first["type"] == "literal_error" and isinstance(given, str):
        nearest = _nearest(given, re.findall(r"'([^']*)'", first["ctx"]["expected"]))
    return f"{key}: {message}{shown}{nearest}{more}"


def _fields_at(model: type[BaseModel], path: list[Any]) -> list[str]:
    """Names of the keys a section takes."""
    if path[0:1] == ["reward_models"] and len(path) == 3:
        return list(_KINDS[path[2]].model_fields)
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
