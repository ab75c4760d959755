"""From hidden states to token columns, without a [sequence, vocabulary] tensor."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pa_dist.engine.protocol import TokenColumns

# Logits of one matrix product, in elements: enough rows for its speed; on a CPU small enough for memory to be reused
# (what is larger than 32 MiB glibc fetches anew from the system each time, at several times the cost of the product).
CHUNK_ELEMENTS = {"cpu": 6 * 2**20}
# Reduced they are there three times over, in float32: within half a GiB.
CHUNK_ELEMENTS_OF_A_GPU = 2**25
# Logits that are reduced together: on a CPU what its caches hold.
BLOCK_ELEMENTS = {"cpu": 2**20}

# Heads mask tokens, such as padding, by logits of -inf, of the least number of some dtype, or of -1e4, from which the
# normaliser may take some. No token that a model weighs has so small a log-probability.
MASKED = -5e3


def token_columns(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    vocabulary: int,
    top_k: int,
    *,
    only_logprob: bool = False,
) -> TokenColumns:
    """Reduce hidden states to the four columns, a chunk of positions at a time.

    Args:
      hidden: [n, d] final hidden states at the positions that predict the targets.
      targets: [n] token ids.
      head: maps [m, d] hidden states to [m, vocabulary] logits, softcap and scale included.
      vocabulary: the number of logits, to bound a chunk's memory by.
      top_k: how many of the most likely tokens `topk_logprob_mean` averages; all of them if there are fewer.
      only_logprob: leave the other three out, which take two more passes over the vocabulary, and a top-k.

    Returns:
      float32 columns of length n.
    """
    device = hidden.device.type
    rows = max(1, CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_OF_A_GPU) // vocabulary)
    block = max(1, BLOCK_ELEMENTS.get(device, rows * vocabulary) // vocabulary)
    chunks = [
        chosen_logprobs(logits, target).unsqueeze(0) if only_logprob else reduce_logits(logits, target, top_k)
        for h, t in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        for logits, target in zip(torch.split(head(h), block), torch.split(t, block), strict=True)
    ]
    n_columns = 1 if only_logprob else 4
    columns = torch.cat(chunks, dim=1) if chunks else hidden.new_empty((n_columns, 0), dtype=torch.float32)
    return TokenColumns(*columns.cpu().numpy(), *[None] * (4 - n_columns))


def chosen_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """[m, vocabulary] logits and [m] targets to [m] log-probabilities, as `reduce_logits` has them."""
    logits = logits.float()
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(dim=-1)
    return chosen.masked_fill(chosen <= MASKED, -torch.inf)


def reduce_logits(logits: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """[m, vocabulary] logits and [m] targets to [4, m]: the columns of `TokenColumns`, computed in float32.

    Where a head masks tokens, the others are what there is: the top-k mean is of them, 0 log 0 is 0, and
    self-certainty, a mean over all of -log p, is NaN. A masked token's own log-probability is -inf.
    """
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    if len(logprobs) and not bool(logprobs.amin() > MASKED):
        return _reduce_masked(logprobs, targets, top_k)
    chosen = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
    topk_mean = logprobs.topk(min(top_k, logprobs.shape[1]), dim=-1, sorted=False).values.mean(dim=-1)
    self_certainty = -logprobs.mean(dim=-1) - math.log(logprobs.shape[1])
    entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs)
    return torch.stack([chosen, topk_mean, entropy, self_certainty])


def masks(logits: Tensor) -> bool:
    """Whether some of the tokens are masked in [m, vocabulary] logits."""
    return bool((torch.log_softmax(logits, dim=-1, dtype=torch.float32) <= MASKED).any())


def _reduce_masked(logprobs: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """As `reduce_logits`, of log-probs some of which are masked or not numbers."""
    masked = logprobs <= MASKED  # false of what is not a number, which then spoils what is read of it
    logprobs = logprobs.masked_fill(masked, -torch.inf)
    chosen = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
    top = logprobs.topk(min(top_k, logprobs.shape[1]), dim=-1, sorted=False).values
    live = top != -torch.inf
    topk_mean = top.masked_fill(~live, 0).sum(dim=-1) / live.sum(dim=-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(masked, 0)).sum(dim=-1)
    self_certainty = -logprobs.mean(dim=-1) - math.log(logprobs.shape[1])
    undefined = masked.any(dim=-1)
    return torch.stack([chosen, topk_mean, entropy, self_certainty.masked_fill(undefined, torch.nan)])
