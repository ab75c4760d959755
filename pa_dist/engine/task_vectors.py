"""Merging one tensor of a policy into its reference: ref + alpha * tau, with tau = theta - ref, in float32 on the CPU.

    linear                   tau as it is
    ties                     tau trimmed to its largest elements
    dare_linear, dare_ties   tau with elements dropped at random, and what is left made larger
    emr                      as linear

These are mergekit's definitions for a base and one model of `weight: 1`, alpha being its `lambda` (its ties divides by
the weights, so that a weight would cancel out). With a single task vector no sign is ever outvoted: ties is trim, then
add; dare_ties is dare_linear; and emr elects, masks and rescales nothing but tau itself.
"""

import hashlib

import torch
from torch import Tensor

# Below so small a sum of magnitudes mergekit rescales nothing.
_LEAST_SUM = 1e-7


def merge(reference: Tensor, policy: Tensor, *, method: str, alpha: float, density: float, seed: int) -> Tensor:
    """A merged tensor, float32. Of `linear`, alpha 0 gives the reference's values exactly, and 1 the policy's.

    Args:
      reference: of any floating dtype, on the CPU.
      policy: of the same shape.
      density: the share of tau that ties and dare keep.
      seed: of what dare drops; `seed_of` makes one for each tensor.

    Source: METHOD.md, merged references; mergekit 0.1.5 (arXiv 2306.01708, 2311.03099, 2405.17461).
    """
    merged, tau = _copy(reference), _copy(policy)
    if method in ("linear", "emr"):
        return merged.mul_(1 - alpha).addcmul_(tau, torch.tensor(alpha))
    tau.sub_(merged)
    tau = trim(tau, density) if method == "ties" else drop(tau, density, seed)
    return merged.add_(tau.mul_(alpha))


def trim(tau: Tensor, density: float) -> Tensor:
    """Zero all but the `max(1, floor(density * n))` largest of n magnitudes, in place; of equal ones the first stay."""
    n = tau.numel()
    kept = max(1, int(density * n))
    if kept >= n:
        return tau
    sorted_around = tau.abs().flatten().numpy()
    sorted_around.partition(n - kept)
    least = sorted_around[n - kept].item()
    del sorted_around
    magnitudes = tau.abs()
    tau.masked_fill_(magnitudes < least, 0)
    # bfloat16 checkpoints differ in few distinct steps, so that many elements may share the least magnitude.
    surplus = int((magnitudes >= least).sum()) - kept
    equal = (magnitudes == least).flatten().nonzero().flatten()
    tau.view(-1)[equal[len(equal) - surplus :]] = 0
    return tau


def drop(tau: Tensor, density: float, seed: int) -> Tensor:
    """Keep each element with probability `density`, and scale to the sum of magnitudes there was, in place."""
    if density >= 1:
        return tau
    mask = torch.full(tau.shape, density)
    mask.bernoulli_(mask, generator=torch.Generator().manual_seed(seed))
    before = tau.abs().sum()
    after = tau.mul_(mask).abs().sum()
    return tau if min(before, after) < _LEAST_SUM else tau.mul_(before / after)


def seed_of(seed: int, name: str) -> int:
    """A tensor's own seed, so that what is dropped of it depends on no order and on no other tensor."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
