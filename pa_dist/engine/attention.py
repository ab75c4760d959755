"""Attention over a prefix tree: every token sees its own segment up to itself, and all of the segments above.

A segment attends to itself causally and to each ancestor without a mask, all followers of an ancestor at once; the
parts are merged by their log-sum-exps. Nothing is padded, masked or copied for a branch, and segments that follow each
other run in one pass. (Hydragen, arXiv 2402.05099; cascade attention in FlashInfer.)
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from pa_dist.engine.linear import Recurrence
from pa_dist.engine.one_call import TreeMask, attend_once
from pa_dist.engine.prefix_tree import Segment

NAME = "pa_dist_tree"
KeysValues = dict[int, tuple[Tensor, Tensor]]
"""Of each layer, [key heads, tokens, d] keys and values."""
# Queries of one masked product in a layer with a sliding window: its mask is [block, block + window].
WINDOW_BLOCK = 1024


class Pass:
    """The segments of one forward pass, and what they follow."""

    def __init__(
        self,
        places: dict[Segment, slice],
        memory: dict[Segment, KeysValues],
        store: set[Segment],
        mask: TreeMask | None = None,
    ) -> None:
        """Lay out a pass.

        Args:
          places: where each segment's tokens stand when the pass's rows are put after each other, in order.
          memory: keys and values of segments that ran before, of every ancestor that is not in the pass.
          store: segments whose keys and values are to be added to `memory`.
          mask: of the tree, where a layer attends in one call.
        """
        self.mask = mask
        self.recurrence: Recurrence | None = None
        """Of linear-attention layers, where there are any that take a pass in one row."""
        self.places, self.memory, self.store = places, memory, store
        self.attention_flops = 0
        self.followers: dict[Segment, slice] = {}
        """Of each ancestor, the tokens that follow it: those of all segments below, side by side."""
        for segment, place in places.items():
            for above in segment.ancestors():
                first = self.followers.get(above, place).start
                self.followers[above] = slice(first, place.stop)

    def keys_values(self, segment: Segment, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of a segment in the pass or before it."""
        place = self.places.get(segment)
        return self.memory[segment][layer] if place is None else (keys[:, place], values[:, place])


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Pass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend, as transformers' attention interface asks.

    Args:
      query: [rows, heads, width, d]; key and value have as many heads or a divisor of it.
      tree: passed to the model's forward.

    Returns:
      [rows, width, heads, d of value], and no weights.

    Raises:
      ValueError: the model's attention is more than this.
    """
    if attention_mask is not None or any(
        others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")
    ):
        raise ValueError("attention with a mask, softcap, sinks or bias of its own")
    rows, heads, width, _ = query.shape
    q, k, v = (x.transpose(0, 1).flatten(1, 2) for x in (query, key, value))
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = scaling or query.shape[-1] ** -0.5
    if tree.mask is not None:
        out = _at_once(q, k, v, tree, tree.mask, layer, scale, sliding_window)
    elif sliding_window and any(segment.end > sliding_window for segment in tree.places):
        out = _windowed(q, k, v, tree, layer, scale, sliding_window)
    else:
        out = _full(q, k, v, tree, layer, scale)
    _remember(k, v, tree, layer)
    return out.view(rows, width, heads, v.shape[-1]), None


def _remember(k: Tensor, v: Tensor, tree: Pass, layer: int) -> None:
    """Copy what later passes need: a view would keep the keys of the whole pass."""
    lengths = [tree.places[segment].stop - tree.places[segment].start for segment in tree.store]
    if not lengths:
        return
    # One copy of all, cut into views.
    parts = (torch.cat([x[:, tree.places[s]] for s in tree.store], dim=1).split(lengths, dim=1) for x in (k, v))
    for segment, *both in zip(tree.store, *parts, strict=True):
        tree.memory.setdefault(segment, {})[layer] = (both[0], both[1])


def _at_once(
    q: Tensor, k: Tensor, v: Tensor, tree: Pass, mask: TreeMask, layer: int, scale: float, window: int | None
) -> Tensor:
    """[tokens, heads, d] by one call."""
    before = [tree.memory[segment][layer] for segment in mask.before]
    tree.attention_flops += _flops(q, v, mask.pairs(window))
    return attend_once(q, [*(x for x, _ in before), k], [*(x for _, x in before), v], mask.of(window), scale)


def _full(q: Tensor, k: Tensor, v: Tensor, tree: Pass, layer: int, scale: float) -> Tensor:
    """[tokens, heads, d] of queries that see all that comes before them."""
    # Parts are rounded, their sum is not.
    dtype = torch.float32 if tree.followers else q.dtype
    out = q.new_zeros(q.shape[1], q.shape[0], v.shape[-1], dtype=dtype)
    log_sums = q.new_zeros(q.shape[:2], dtype=torch.float32)
    for place in tree.places.values():
        part, log_sum = attend(q[:, place], k[:, place], v[:, place], scale, causal=True)
        out[place], log_sums[:, place] = part.transpose(0, 1), log_sum
        n = place.stop - place.start
        tree.attention_flops += _flops(q, v, n * (n + 1) // 2)
    for segment, place in tree.followers.items():
        keys, values = tree.keys_values(segment, layer, k, v)
        part, log_sum = attend(q[:, place], keys, values, scale, causal=False)
        # out * exp(old) + part * exp(new), over exp(old) + exp(new)
        weight = torch.sigmoid(log_sum - log_sums[:, place]).t().unsqueeze(-1)
        out[place] = torch.lerp(out[place], part.transpose(0, 1).to(dtype), weight)
        log_sums[:, place] = torch.logaddexp(log_sums[:, place], log_sum)
        tree.attention_flops += _flops(q, v, (place.stop - place.start) * keys.shape[1])
    return out.to(q.dtype)


def _windowed(q: Tensor, k: Tensor, v: Tensor, tree: Pass, layer: int, scale: float, window: int) -> Tensor:
    """[tokens, heads, d] of queries that see themselves and the window - 1 tokens before them."""
    out = q.new_zeros(q.shape[1], q.shape[0], v.shape[-1])
    for segment, place in tree.places.items():
        seen = [(k[:, place], v[:, place])]
        before = 0
        for above in segment.ancestors():
            if before >= window - 1:
                break
            seen.append(tree.keys_values(above, layer, k, v))
            before += len(above.ids)
        keys, values = (torch.cat(parts[::-1], dim=1) for parts in zip(*seen, strict=True))
        for first in range(0, len(segment.ids), WINDOW_BLOCK):
            last = min(first + WINDOW_BLOCK, len(segment.ids))
            low, high = max(0, before + first - window + 1), before + last
            queries = torch.arange(before + first, high, device=q.device).unsqueeze(1)
            distance = queries - torch.arange(low, high, device=q.device)
            block = slice(place.start + first, place.start + last)
            part = nn.functional.scaled_dot_product_attention(
                q[None, :, block],
                keys[None, :, low:high].repeat_interleave(len(q) // len(k), 1),
                values[None, :, low:high].repeat_interleave(len(q) // len(k), 1),
                attn_mask=(distance >= 0) & (distance < window),
                scale=scale,
            )
            out[block] = part.squeeze(0).transpose(0, 1)
            tree.attention_flops += _flops(q, v, (last - first) * min(window, high - low))
    return out


def _flops(q: Tensor, v: Tensor, pairs: int) -> int:
    return 2 * q.shape[0] * (q.shape[-1] + v.shape[-1]) * pairs


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp.

    Args:
      q: [heads, n, d]; k, v: [key heads, m, d]; key heads divide heads.
      causal: n equals m and a query sees the keys up to its own.

    Returns:
      [heads, n, d of v] and float32 [heads, n].
    """
    heads, n, _ = q.shape
    group = heads // len(k)
    if causal:
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    else:
        # Heads that share keys become more queries of one head: the keys need no copies.
        q = q.reshape(len(k), group * n, -1)
    out, log_sum = _kernel(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scale, causal)
    return out.reshape(heads, n, -1), log_sum.reshape(heads, n)


def _kernel(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """The fastest attention of the device that also gives its log-sum-exp."""
    ops = torch.ops.aten
    if q.device.type == "cpu":
        if half_is_emulated(q.dtype):
            out, log_sum = _kernel(q.float(), k.float(), v.float(), scale, causal)
            return out.to(q.dtype), log_sum
        out, log_sum = ops._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    elif q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256:
        out, log_sum = ops._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[:2]
    else:
        out, log_sum = ops._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)[:2]
        log_sum = log_sum[..., : q.shape[2]]  # padded to a multiple of 32
    return out, log_sum


@cache
def half_is_emulated(dtype: torch.dtype) -> bool:
    """Whether this CPU lacks instructions for a dtype, and its products take several times those in float32."""
    if dtype not in (torch.bfloat16, torch.float16) or not torch.backends.mkldnn.is_available():
        return False
    known = torch.ops.mkldnn
    has = known._is_mkldnn_bf16_supported if dtype == torch.bfloat16 else known._is_mkldnn_fp16_supported
    return not has()


AttentionInterface.register(NAME, tree_attention)
