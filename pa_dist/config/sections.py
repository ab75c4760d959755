"""The sections of a config, a docstring a key; those of reward models are in `reward_models.py`."""

import os
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pa_dist.config.paths import AnyPath
from pa_dist.config.yaml_text import typed

FileFormat = Literal[
    "tau2", "tau_bench", "who_and_when", "agentdojo", "agentprocessbench", "inspect_log", "chat", "parquet"
]
Format = Literal[FileFormat, "auto"]
Scenario = Literal["auto", "uq", "prefix", "best_of_n", "fa"]
MergeMethod = Literal["linear", "ties", "dare_linear", "dare_ties", "emr"]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
# A name is a folder's, a method's after its @, and part of a column's: no `__` in it.
ReferenceName = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=60)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | os.PathLike) else value


class Section(BaseModel):
    """A part of the config: no key that it does not know, and nothing of it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_the_fields_take_it(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        found = dict(data)
        for key in data.keys() & cls.model_fields.keys():
            try:
                found[key] = typed(data[key], cls.model_fields[key].annotation)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        return found


class Trajectories(Section):
    """Which files to read, and how."""

    format: Format
    """auto recognises each file by what it holds."""
    paths: Annotated[list[AnyPath], Field(min_length=1), BeforeValidator(_as_list)]
    """Files, folders, globs or URIs."""
    messages_column: str | None = None
    """The column of Parquet files that holds the messages; null looks for the usual names."""
    max_record_mib: Annotated[int, Field(gt=0, le=1024)] = 64
    """A larger record (a conversation, of some formats a file) is rejected unread; memory is a multiple of it."""
    limit: Positive | None = None
    """Keep this many trajectories, the first ones in table order (benchmark, domain, task, trial)."""
    benchmark: str | None = None
    domain: str | None = None
    behavior: str | None = None
    """These three replace what the format reads from the file."""


def _as_model(given: Any) -> Any:
    return given if isinstance(given, dict | Reference) else {"model": given}


class Reference(Section):
    """One of several references."""

    model: AnyPath
    revision: str | None = None
    adapter: AnyPath | None = None
    adapter_revision: str | None = None

    @model_validator(mode="after")
    def _revision_of_something(self) -> "Reference":
        if self.adapter_revision and not self.adapter:
            raise ValueError("adapter_revision: there is no adapter")
        return self


class Pair(Section):
    """Policy and reference: folders, or names on the Hugging Face Hub.

    `{model: BASE, adapter: DIR}` in the place of a name is a base with an adapter on it, and may have `revision` and
    `adapter_revision`.
    """

    policy: AnyPath
    reference: AnyPath
    references: dict[ReferenceName, Annotated[Reference, BeforeValidator(_as_model)]] | None = None
    """Several by name, in the place of `reference`, which then is the first of them; the policy is scored once."""
    policy_revision: str | None = None
    reference_revision: str | None = None
    policy_adapter: AnyPath | None = None
    reference_adapter: AnyPath | None = None
    policy_adapter_revision: str | None = None
    reference_adapter_revision: str | None = None
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_adapters(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        flat = dict(data)
        if (several := data.get("references")) is not None:
            if not (isinstance(several, dict) and several):
                raise ValueError("references: a mapping of names to models, such as {base: DIR, dpo: DIR}")
            first = flat["reference"] = next(iter(several.values()))
            # A config that was written as it was read has both.
            if data.get("reference") not in (None, first.get("model") if isinstance(first, dict) else first):
                raise ValueError("references: name these, or one `reference`, and not both")
        for side in ("policy", "reference"):
            given = flat.get(side)
            if not isinstance(given, dict):
                continue
            if unknown := given.keys() - {"model", "revision", "adapter", "adapter_revision"}:
                raise ValueError(f"{side}.{min(unknown)}: unknown key; model, adapter, revision, adapter_revision")
            if "model" not in given:
                raise ValueError(f"{side}.model: missing")
            flat |= {side if key == "model" else f"{side}_{key}": value for key, value in given.items()}
        return flat

    @model_validator(mode="after")
    def _revisions_of_something(self) -> "Pair":
        for side in ("policy", "reference"):
            if getattr(self, f"{side}_adapter_revision") and not getattr(self, f"{side}_adapter"):
                raise ValueError(f"{side}_adapter_revision: there is no {side}_adapter")
        return self

    def against(self, name: str) -> "Pair":
        """The policy with one of several references."""
        given = (self.references or {})[name].model_dump()
        flat = {"reference" if key == "model" else f"reference_{key}": value for key, value in given.items()}
        return self.model_copy(update={"references": None, **flat})

    @property
    def parts(self) -> list[str]:
        """The keys of what it is loaded from: its models, and adapters where it has some."""
        adapters = ["policy_adapter", "reference_adapter"]
        return ["policy", "reference", *(key for key in adapters if getattr(self, key) is not None)]

    @property
    def pools(self) -> list[str]:
        """The models that have actors of their own: of one base the policy's do both."""
        return ["policy"] if self.one_base else ["policy", "reference"]

    @property
    def one_base(self) -> bool:
        """Whether policy and reference are one set of weights, and adapters make the difference."""
        same = (self.policy, self.policy_revision) == (self.reference, self.reference_revision)
        return same and (self.policy_adapter is not None or self.reference_adapter is not None)


class Render(Section):
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


class Growing(Section):
    """How many actors, at least and at most, on a cluster that grows."""

    min: Positive = 1
    max: Positive

    @model_validator(mode="after")
    def _in_order(self) -> "Growing":
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is more than max: {self.max}")
        return self


def _number(given: Any) -> Any:
    """YAML's scalars come as they stand."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def _counts(given: Any) -> bool:
    return type(given) is int and given > 0


def _auto_or_count(given: Any) -> Any:
    if (given := _number(given)) == "auto" or _counts(given):
        return given
    raise ValueError("auto, or a whole number above 0")


AutoOrCount = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_count)]


def _as_replicas(given: Any) -> Any:
    """What `replicas` takes: pydantic would tell of each member of the union what it lacks."""
    if isinstance(given, Growing) or (given := _number(given)) == "auto" or _counts(given):
        return given
    try:
        return Growing.model_validate(given)
    except ValidationError as error:
        if isinstance(given, dict) and error.errors()[0]["type"] == "value_error":
            raise ValueError(str(error.errors()[0]["ctx"]["error"])) from None
        raise ValueError("auto, a whole number above 0, or {min: 1, max: 8}") from None


class Replicas(Section):
    """One model's actor pool. `num_gpus: null` shares out what the cluster has."""

    replicas: Annotated[int | Growing | Literal["auto"], BeforeValidator(_as_replicas)] = "auto"
    """auto: as many as the cluster's GPUs have room for, policy and reference by their sizes where both are folders;
    one where there is no GPU. `{min: 1, max: 8}` grows with a cluster that autoscales."""
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 1
    labels: dict[str, str] = {}
    """Labels of the nodes that may hold these actors, such as `ray.io/accelerator-type: H100` or one of your own."""


class SpreadReplicas(Replicas):
    """One model's actor pool, where an actor may hold the model in several processes."""

    tensor_parallel_size: Positive | None = None
    """GPUs that one actor of engine hf spreads the model over, a process each, by transformers' own plan; `num_gpus:
    null` takes as many. null: as many as `num_gpus` says, or one. With `device: cpu`, processes that share out an
    actor's threads."""


# Arguments of vLLM's engine that are no options here, and what decides them.
DECIDED_FOR_VLLM = {
    **dict.fromkeys(("model", "revision", "code_revision", "trust_remote_code"), "pair"),
    "dtype": "score.dtype",
    "max_model_len": "score.max_length",
    "max_logprobs": "score.top_k",
    **{
        name: f"score.vllm.{name}"
        for name in ("tensor_parallel_size", "gpu_memory_utilization", "max_num_batched_tokens")
    },
    **dict.fromkeys(("tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init", "load_format")),
    **dict.fromkeys(("seed", "logprobs_mode", "logits_processors", "speculative_config", "enable_lora")),
    **dict.fromkeys(("runner", "convert", "distributed_executor_backend", "disable_log_stats")),
    **dict.fromkeys(("enable_chunked_prefill", "enable_prefix_caching", "enforce_eager")),
    "hf_token": "the environment's HF_TOKEN",
}


class Vllm(Section):
    """The engine `vllm`, which the extra of that name installs."""

    tensor_parallel_size: Positive = 1
    """GPUs of one actor; `num_gpus: null` takes as many."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory for weights and keys, on a CPU of the machine's; null takes 0.9 of the actor's share of a
    GPU, and 0.2 of a machine."""
    max_num_batched_tokens: Positive = 2048
    """Tokens of one pass. vLLM holds [tokens, vocabulary] float32 for them more than once, beside that share."""
    options: dict[str, Any] = {}
    """Other arguments of vLLM's engine by their names, such as `enable_expert_parallel: true` or
    `limit_mm_per_prompt: {image: 0}`; a run is known by them."""

    @field_validator("options")
    @classmethod
    def _left_to_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(options.keys() & DECIDED_FOR_VLLM.keys()):
            key = DECIDED_FOR_VLLM[taken[0]]
            raise ValueError(f"{taken[0]} is " + (f"what {key} says" if key else "set by pa_dist itself"))
        return options


class Score(Section):
    """The forward passes."""

    engine: Literal["hf", "vllm"] = "hf"
    """hf: transformers, all columns, shared prefixes run once; vllm: log-probs and their top-k mean, other columns
    null, each sequence by itself; `batch_tokens` and `prefix_sharing` are not read."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """auto: float16 on a GPU, float32 on a CPU. What leaves the range of float16 is scored again in float32, and a
    model that does so often goes on in bfloat16; on a GPU vLLM and quantised models, which cannot, take bfloat16, or
    the float16 that weights were packed for. What auto means a run finds out when it begins. `evaluate.preset: paper`
    makes it bfloat16, as it was published."""
    noise_rows: Annotated[int, Field(ge=0)] = 4
    """In half precision, or with packed weights: trajectories that are scored once more in float32, to say how large
    the noise of the advantage is beside its spread; 0 leaves that out."""
    device: str | None = None
    """A torch device; null takes the actor's GPU where it has one, else the CPU."""
    attn_implementation: str | None = None
    """One of transformers' own instead of attention over the prefix tree; prefixes are then not shared."""
    max_length: Annotated[int, Field(ge=2)] = 16384
    top_k: Positive = 20
    batch_tokens: Positive = 16384
    """Tokens in a device's memory at once, of a pass and of keys and values that wait; halved when memory runs out."""
    columns: Literal["auto", "all"] = "auto"
    """Of the reference auto computes and keeps the log-prob alone, which is all that any method reads of it; all has
    the policy's four columns of both."""
    prefix_sharing: Literal["auto", "off"] = "auto"
    """auto runs a prefix that trajectories of one block share once, where that saves enough and the model allows it."""
    rows_per_block: AutoOrCount = "auto"
    """Trajectories of one block: what an actor is given at a time, and what is committed and written at a time. auto:
    as many as fill a GPU for some seconds, and so many that a table of any size has at most 10,000 files."""
    vllm: Vllm = Vllm()
    policy: SpreadReplicas = SpreadReplicas()
    reference: SpreadReplicas = SpreadReplicas()

    def width(self, model: str) -> int:
        """Processes that hold one replica of a model, on a GPU each where there are GPUs."""
        if self.engine == "vllm":
            return self.vllm.tensor_parallel_size
        pool: SpreadReplicas = getattr(self, model)
        return pool.tensor_parallel_size or (1 if self.device == "cpu" else max(1, int(pool.num_gpus or 0)))

    @model_validator(mode="after")
    def _a_gpu_for_each_process(self) -> "Score":
        for key in ("policy", "reference"):
            gpus, size = getattr(self, key).num_gpus, self.width(key)
            if gpus and size > 1 and gpus != size:
                whose = "vllm" if self.engine == "vllm" else key
                raise ValueError(f"{key}.num_gpus of {gpus:g} are not {whose}.tensor_parallel_size of {size}")
        return self

    @model_validator(mode="after")
    def _what_vllm_takes(self) -> "Score":
        if self.engine != "vllm":
            return self
        for key in ("device", "attn_implementation"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} is not for engine vllm, which chooses its own")
        for key in ("policy", "reference"):
            if getattr(self, key).tensor_parallel_size is not None:
                raise ValueError(f"{key}.tensor_parallel_size is for engine hf; vllm.tensor_parallel_size is vLLM's")
        return self


class Merged(NamedTuple):
    """One merged reference."""

    method: MergeMethod
    alpha: float
    density: float = 0.2
    seed: int = 0
    vocabulary: Literal["same", "common"] = "same"


class Merge(Section):
    """References merged with the policy, reference + alpha * (policy - reference): one by each method with each alpha,
    called `METHOD-ALPHA`, beside the pair's own (of several, made from the first)."""

    method: Annotated[list[MergeMethod], BeforeValidator(_as_list), Field(min_length=1)]
    """One, or a list. As mergekit defines them. Of one policy dare_ties equals dare_linear, and emr equals linear."""
    alphas: Annotated[list[float], Field(min_length=1)]
    """0 is the reference, which is scored without being asked for; 1, where nothing is left out, the policy."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The share of each tensor's difference that ties and dare keep."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of what dare drops."""
    vocabulary: Literal["same", "common"] = "same"
    """same refuses models of vocabularies of different size; common merges the tokens that both have, by their ids, and
    leaves the reference's others as they are."""

    @field_validator("method", "alphas")
    @classmethod
    def _each_once(cls, given: list[Any], info: ValidationInfo) -> list[Any]:
        if len(set(given)) < len(given):
            raise ValueError(f"{'an alpha' if info.field_name == 'alphas' else 'a method'} is there twice")
        return given

    @property
    def references(self) -> dict[str, Merged]:
        """By name, such as `ties-0.5`."""
        return {
            f"{method}-{repr(alpha).removesuffix('.0')}": Merged(
                method, alpha, self.density, self.seed, self.vocabulary
            )
            for method in self.method
            for alpha in self.alphas
            if alpha
        }


def _ascending(numbers: list[int]) -> list[int]:
    return sorted(set(numbers))


class Evaluate(Section):
    """The readings of the log-prob columns."""

    preset: Literal["published", "paper"] = "published"
    """published: the methods as their papers define them; paper: as this paper's released code computes them."""
    beta: Annotated[float, Field(gt=0)] = 1.0
    scenarios: Annotated[list[Scenario], BeforeValidator(_as_list), Field(min_length=1)] = ["auto"]
    """auto takes what the labels allow, and best_of_n wherever a task has two trials, which takes no label; a scenario
    named is evaluated, if only to say why it cannot be."""
    success_threshold: float = 1.0
    """A trajectory succeeded when its reward is at least this."""
    labels: AnyPath | None = None
    """A file of labels that came later (CSV, JSON lines, a JSON list or Parquet), which take the place of the run's own
    wherever it gives one."""
    answers: Literal["auto", "last_message", "none"] = "auto"
    """What votes among a task's trials count. auto: `final_answer` or `answer` of chat and Parquet records, where they
    have it; last_message: the text of the assistant's last message; none: there is no vote."""
    intervals: Literal["all", "headlines", "none"] = "all"
    """Which figures get a 95% interval: all, those of cells chosen beforehand and of cross-fitted ones, or none."""
    resamples: Annotated[int, Field(ge=10)] = 1000
    """Resamples of tasks in which the choice of a cell is repeated, for the intervals of cross-fitted figures."""
    seed: Annotated[int, Field(ge=0)] = 0
    within: list[Annotated[int, Field(ge=0, lt=2**31)]] = [1, 3, 5]
    """Distances of `step_accuracy_within`."""
    prefix_steps: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], AfterValidator(_ascending)] = [1, 2, 3, 5, 8]
    """Numbers of first steps after which scenario `prefix` reads a score, beside each quarter of the steps."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the successes that an alarm may flag at any of their steps; scenario `prefix` says what it catches."""
    lowest: list[Positive] = [1, 3, 5]
    """How many of a trajectory's lowest-scored steps `precision_at` and `recall_at` hold against the wrong ones."""
    reward_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A step that a reward model finds correct with less probability is wrong: what `earliest_below` blames, and the
    zero of the other predictors of such models."""


class Ray(Section):
    """How to reach Ray."""

    address: str | None = None
    """null: the cluster of RAY_ADDRESS if that is set, else an embedded one for this command."""
    check_resources: bool = True
    """Refuse actors that the nodes of now could not hold; switch off where an autoscaler will add nodes."""
