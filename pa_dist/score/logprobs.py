"""From hidden states to token columns, without a [sequence, vocabulary] tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

from pa_dist.score.engine import TokenColumns

# Logits of one chunk, in float32 elements: large enough for full matrix products, small enough for a CPU's memory.
CHUNK_ELEMENTS = {"cpu": 2**24}
CHUNK_ELEMENTS_OF_A_GPU = 2**28


def token_columns(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], vocabulary: int, top_k: int
) -> TokenColumns:
    """Reduce hidden states to the four columns, a chunk of positions at a time.

    Args:
      hidden: [n, d] final hidden states at the positions that predict the targets.
      targets: [n] token ids.
      head: maps [m, d] hidden states to [m, vocabulary] logits, softcap and scale included.
      vocabulary: the number of logits, to bound a chunk's memory by.
      top_k: how many of the most likely tokens `topk_logprob_mean` averages; all of them if there are fewer.

    Returns:
      float32 columns of length n.
    """
    rows = max(1, CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS_OF_A_GPU) // vocabulary)
    chunks = [
        reduce_logits(head(h), t, top_k)
        for h, t in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    columns = torch.cat(chunks, dim=1) if chunks else hidden.new_empty((4, 0), dtype=torch.float32)
    return TokenColumns(*columns.cpu().numpy())


def reduce_logits(logits: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """[m, vocabulary] logits and [m] targets to [4, m]: the columns of `TokenColumns`, computed in float32."""
    logits = logits.float()
    log_z = logits.logsumexp(dim=-1)
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - log_z
    topk_mean = logits.topk(min(top_k, logits.shape[1]), dim=-1, sorted=False).values.mean(dim=-1) - log_z
    logprobs = logits - log_z.unsqueeze(1)
    self_certainty = -logprobs.mean(dim=-1) - torch.log(torch.tensor(float(logits.shape[1])))
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return torch.stack([chosen, topk_mean, entropy, self_certainty])
