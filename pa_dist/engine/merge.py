"""A merged reference in memory: a model loaded from the reference's checkpoint, rewritten tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from pa_dist.engine.errors import EngineError
from pa_dist.engine.task_vectors import merge, seed_of


@dataclass(frozen=True)
class Merging:
    """How a policy is merged into its reference, as `task_vectors.merge` takes it.

    Attributes:
      policy: a folder, or a name on the Hugging Face Hub.
      method: linear, ties, dare_linear, dare_ties or emr.
      common_vocabulary: of vocabularies of different size merge the tokens that both have, instead of refusing them.
    """

    policy: str
    alpha: float
    method: str = "linear"
    density: float = 0.2
    seed: int = 0
    common_vocabulary: bool = False
    policy_revision: str | None = None


def merge_into(model: PreTrainedModel, policy: PreTrainedModel, reference: PreTrainedModel, merging: Merging) -> None:
    """Make a model the merged reference, whatever weights of this architecture it held before.

    What is held is the model itself and some copies of the one tensor under way.

    Args:
      model: loaded from the reference's checkpoint, of any dtype, on any device.
      policy, reference: the checkpoints on the CPU, in the dtype that their configs name, which leaves tensors of that
        dtype as pages of the safetensors files.

    Raises:
      EngineError: models that cannot be merged, as `check_models` has it.
    """
    check_models(policy, reference, merging)
    if _is_tied(model) and not (_is_tied(policy) and _is_tied(reference)):
        _untie(model)
    write(model.state_dict(), reference.state_dict(), policy.state_dict(), merging)


def write(
    targets: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    policy: Mapping[str, Tensor],
    merging: Merging,
) -> None:
    """Write merged values into tensors, in place, each rounded to its dtype; a tensor of two names is written once.

    Rows that only one of the models has, and tensors that are not of floating point, stay the reference's.
    """
    written: set[tuple[str, int]] = set()
    for name, target in targets.items():
        place = str(target.device), target.data_ptr()
        if target.numel() == 0 or place in written:
            continue
        written.add(place)
        both = tuple(slice(min(sizes)) for sizes in zip(target.shape, policy[name].shape, strict=True))
        if not target.is_floating_point() or target[both].shape != target.shape:
            target.copy_(reference[name])
        if not target.is_floating_point():
            continue
        target[both].copy_(
            merge(
                reference[name][both],
                policy[name][both],
                method=merging.method,
                alpha=merging.alpha,
                density=merging.density,
                seed=seed_of(merging.seed, name),
            )
        )


def _is_tied(model: PreTrainedModel) -> bool:
    head: nn.Module = model.get_output_embeddings()
    return head.weight is model.get_input_embeddings().weight


def _untie(model: PreTrainedModel) -> None:
    """Give a model's head weights of its own, with the values that it shared."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.get_text_config().tie_word_embeddings = False


def check_models(policy: PreTrainedModel, reference: PreTrainedModel, merging: Merging) -> None:
    """Refuse models whose tensors do not correspond. Of models on the meta device too, which hold no weights.

    Raises:
      EngineError: other classes, quantised weights, a tensor that one of them lacks, or shapes that differ otherwise
        than declared.
    """
    if type(policy) is not type(reference):
        raise EngineError(f"merge: the policy is a {type(policy).__name__}, the reference a {type(reference).__name__}")
    for name, model in (("policy", policy), ("reference", reference)):
        if getattr(model.config, "quantization_config", None) is not None:
            raise EngineError(f"merge: pair.{name} is quantised; merging needs weights of floating point")
    theirs, ours = policy.state_dict(), reference.state_dict()
    if lone := sorted(theirs.keys() ^ ours.keys()):
        raise EngineError(f"merge: {len(lone)} tensors are in one of the two models only, {lone[0]!r} the first")
    for name in ours:
        shapes = tuple(ours[name].shape), tuple(theirs[name].shape)
        if shapes[0] == shapes[1]:
            continue
        what = f"merge: {name!r} is {list(shapes[0])} in the reference and {list(shapes[1])} in the policy"
        if not all(shape[:1] in _vocabularies(model) for shape, model in zip(shapes, (reference, policy), strict=True)):
            raise EngineError(what)
        if shapes[0][1:] != shapes[1][1:]:
            raise EngineError(what)
        if not merging.common_vocabulary:
            raise EngineError(f"{what}; merge.vocabulary=common merges the tokens that both have")


def _vocabularies(model: PreTrainedModel) -> set[tuple[int]]:
    """Lengths of the axes that count tokens."""
    text = model.config.get_text_config()
    return {(text.vocab_size,), (getattr(text, "vocab_size_per_layer_input", text.vocab_size),)}
