"""Norms in one kernel: transformers writes a root mean square out in eight."""

from inspect import signature

import torch
from torch import Tensor, nn

from pa_dist.engine.modules import become

_LITTLE = 1e-5


def fuse_norms(model: nn.Module) -> int:
    """Let a model's norms that are a plain root mean square with weights run as torch's own; how many.

    A norm is told by what it gives, not by its name: some add one to their weights, some have none.
    """
    alike: dict[tuple[type[nn.Module], float], bool] = {}
    count = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not isinstance(eps, float) or not isinstance(getattr(module, "weight", None), nn.Parameter):
            continue
        key = (type(module), eps)
        if key not in alike:
            alike[key] = _is_plain(type(module), eps)
        if alike[key]:
            become(module, type("Fused" + type(module).__name__, (_Fused, type(module)), {}))
            count += 1
    return count


class _Fused(nn.Module):
    weight: nn.Parameter

    def forward(self, hidden_states: Tensor) -> Tensor:
        eps: float = getattr(self, "variance_epsilon", None) or self.eps  # type: ignore[assignment]
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, eps)


def _is_plain(kind: type[nn.Module], eps: float) -> bool:
    """Whether a kind of norm gives what torch's does, of numbers that are drawn."""
    if len(signature(kind.forward).parameters) != 2:
        return False  # it may be given a gate
    try:
        norm = kind(16, eps=eps).float()
        generator = torch.Generator().manual_seed(0)
        weight, x = torch.randn(16, generator=generator), torch.randn(5, 16, generator=generator)
        norm.load_state_dict({"weight": weight})
        with torch.no_grad():
            return torch.allclose(norm(x), nn.functional.rms_norm(x, (16,), weight, eps), atol=_LITTLE, rtol=_LITTLE)
    except Exception:  # it is made, or called, otherwise
        return False
