"""What a reader of a plan must know to trust its figures, or not to."""

from collections.abc import Mapping, Sequence

from pa_dist import schema
from pa_dist.config import Config, ScoreSections, ThinkPRM
from pa_dist.engine.kernels import lost_kernels_in_words, missing_kernels
from pa_dist.models.loaded import text_config
from pa_dist.plan.devices import Speed
from pa_dist.plan.records import ModelPlan
from pa_dist.plan.sample import Corpus


def assumptions(
    config: Config,
    corpus: Corpus,
    block: int,
    counted: int,
    exact: bool,
    models: Mapping[str, ModelPlan],
    found: Sequence[Speed],
    scored: Mapping[str, tuple[ScoreSections, str]],
) -> list[str]:
    """A line each, beginning with what it is about. `block`: trajectories of one; `scored`: as `Scoring.models`."""
    score = config.score
    if exact:
        lines = [f"sample: all {counted:,} trajectories were read and tokenised"]
    else:
        lines = [
            f"sample: {counted:,} of {len(corpus.table):,} trajectories that were read, in blocks spread evenly over "
            "the sorted table, times the size of all texts that were read; ± is one standard error, of differences "
            "between the blocks"
        ]
    if not corpus.whole:
        lines.append(
            f"files: {corpus.read_files:,} of {corpus.files:,} were read, {corpus.read_bytes / corpus.bytes:.1%} of "
            "the bytes; the others are taken to be like them, and ± does not know of them"
        )
    for name, model in models.items():
        if model.apart:
            lines.append(f"sharing: the {name} runs each sequence by itself: {model.apart}")
    if not all(model.apart for model in models.values()):
        lines.append(
            f"sharing: within blocks of {block:,} trajectories and of what a block leaves to the next; a "
            "model that fails its trial when it is loaded shares nothing"
        )
    if config.pair.one_base:
        lines.append(
            "adapters: an actor holds the base once and does one model after the other; the memory of each is given "
            "with it"
        )
    gpus = any(speed.kind != "cpu" for speed in found) and score.engine == "hf"
    for name in models if gpus else ():
        sections, side = scored[name]
        if lacking := missing_kernels(text_config(sections.pair, side)):
            lines.append(f"kernels: unless the GPU machine has them, the {name}'s {lost_kernels_in_words(lacking)}")
    lines.append("rejects: those that reading and tokenising find; not what a model or a device may refuse")
    lines.append(
        "logprobs: written with numbers drawn at random, the same where prefixes are shared; true ones compress a "
        "little differently"
    )
    if score.engine == "vllm":
        lines.append(
            "memory: vLLM's weights, the keys of one longest sequence, and its logits of one pass; it takes more of a "
            "GPU for itself, score.vllm.gpu_memory_utilization"
        )
    else:
        lines.append(
            "memory: weights, keys and values of the tokens that wait at most, a pass on its way through a layer, a "
            "chunk of logits, of the sample: a longer trajectory takes more; without the process itself and what "
            "allocators lose. Too little halves batch_tokens"
        )
    lines += dict.fromkeys(speed.assumed for speed in found)
    where = (
        "on this machine, whose cores, GPUs and memory they share" if found[0].machine else "on devices of their own"
    )
    when = "in turn" if config.pair.one_base else "at the same time"
    lines.append(
        f"hours: forward passes alone, policy and reference {when} {where}; without starting, loading, tokenising, "
        "writing and evaluating"
    )
    if config.merge is not None:
        lines.append(
            f"merge: the reference is scored {models['reference'].passes - 1} times more, after the pair; rewriting "
            "its weights is not counted"
        )
    if len(models) > len(schema.MODELS):
        lines.append("references: the further ones are scored one after the other, after the pair")
    if any(isinstance(model, ThinkPRM) for model in config.reward_models.values()):
        lines.append(
            "reward models: of those that generate, every critique is taken to be as long as it may be; what decoding "
            "takes is bound by memory, not by operations, and no hours are given"
        )
    return lines
