"""A merged reference in memory: a model loaded from the reference's checkpoint, rewritten in place, tensor by tensor.

Both checkpoints are read through `load_model`, in the dtype that their configs name, which leaves tensors of that dtype
as pages of the safetensors files. What is held is the model itself and some copies of the one tensor under way.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PreTrainedModel

from pa_dist import config
from pa_dist.errors import ConfigError
from pa_dist.merge.check import check_models
from pa_dist.merge.methods import merge, seed_of
from pa_dist.score.load import load_model


def rewrite(model: PreTrainedModel, pair: config.Pair, settings: config.Merge, alpha: float) -> None:
    """Make a model the merged reference of an alpha, whatever weights of this architecture it held before.

    Args:
      model: loaded from the pair's reference, of any dtype, on any devices.

    Raises:
      ConfigError: models that cannot be merged, as `check_models` has it, or one that is not on its devices wholly.
      OSError: no such model.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ConfigError("score.reference.num_gpus: these GPUs do not hold the reference; a part cannot be merged")
    policy, reference = (
        load_model(
            getattr(pair, name),
            revision=getattr(pair, f"{name}_revision"),
            dtype="auto",
            trust_remote_code=pair.trust_remote_code,
        )
        for name in ("policy", "reference")
    )
    check_models(policy, reference, settings)
    if _is_tied(model) and not (_is_tied(policy) and _is_tied(reference)):
        _untie(model)
    write(model.state_dict(), reference.state_dict(), policy.state_dict(), settings, alpha)


def write(
    targets: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    policy: Mapping[str, Tensor],
    settings: config.Merge,
    alpha: float,
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
                method=settings.method,
                alpha=alpha,
                density=settings.density,
                seed=seed_of(settings.seed, name),
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
