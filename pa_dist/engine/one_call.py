"""Attention over a prefix tree in one call a layer, whatever the number of segments: FlexAttention, the tree its mask.

Segments are numbered in the order of the tree, so that those below one are a range of numbers: a query sees a key where
its segment's number lies in the range of the key's, and the key stands no later. Blocks of the mask are known from the
segments, without a look at each pair of tokens.
"""

from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from pa_dist.engine.prefix_tree import Segment

BLOCK = 128
# A pass has two blocks at least: a size of one is compiled for by itself.
LEAST_TOKENS = BLOCK + 1
# One for each window and dtype, with keys from before and without. Beyond the limit nothing is compiled, in silence.
_MOST_KERNELS = 64
Ints = NDArray[np.int64]


class TreeMask:
    """What each token of a pass sees.

    Attributes:
      before: the segments above the pass's that ran earlier; their keys stand before the pass's, in this order.
    """

    def __init__(self, places: dict[Segment, slice], tokens: int, device: torch.device) -> None:
        """Number the tree.

        Args:
          places: where each segment's tokens stand among the pass's.
          tokens: of the pass, pads between the segments included.
        """
        self._places, self._tokens, self._device = places, tokens, device
        self.before = [s for s in dict.fromkeys(a for s in places for a in s.ancestors()) if s not in places]
        starts = np.cumsum([0, *(len(segment.ids) for segment in self.before)]).tolist()
        self._memory: int = starts[-1]
        self._at = {s: slice(a, a + len(s.ids)) for s, a in zip(self.before, starts, strict=False)}
        self._at |= {s: slice(self._memory + p.start, self._memory + p.stop) for s, p in places.items()}
        self._keys = [torch.from_numpy(x).to(device) for x in self._numbered()]
        self._masks: dict[int | None, BlockMask] = {}

    def _numbered(self) -> NDArray[np.int32]:
        """[3, keys]: of each key its segment's number, the end of the range of those below, and its position."""
        keys = np.zeros((3, self._memory + self._tokens), np.int32)
        # A pad sees itself, which is better than nothing: of nothing there is no mean.
        keys[0] = np.arange(keys.shape[1]) + 2 * len(self._at)
        keys[1] = keys[0] + 1
        for segment, (first, end) in _ranges(self._at).items():
            at = self._at[segment]
            keys[0, at], keys[1, at], keys[2, at] = first, end, np.arange(segment.start, segment.end)
        return keys

    def pairs(self, window: int | None) -> int:
        """Of queries and the keys that they see."""
        most = np.inf if window is None else window
        return sum(int(np.minimum(np.arange(s.start, s.end) + 1, most).sum()) for s in self._places)

    def of(self, window: int | None) -> BlockMask:
        """The mask of a layer; `window` is how many tokens before it, with itself, a query sees."""
        if window not in self._masks:
            self._masks[window] = self._block_mask(window)
        return self._masks[window]

    def _block_mask(self, window: int | None) -> BlockMask:
        some, full = self._blocks(np.inf if window is None else window)
        number, end, position = self._keys
        # Queries have tensors of their own: a number that changes with each pass would have the kernel compiled anew.
        asked, at = (x[self._memory :].clone() for x in (number, position))

        def sees(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = (number[key] <= asked[query]) & (asked[query] < end[key]) & (position[key] <= at[query])
            return seen if window is None else seen & (at[query] - position[key] < window)

        (n, which), (n_full, which_full) = (_listed(blocks, self._device) for blocks in (some & ~full, full))
        return BlockMask.from_kv_blocks(
            n,
            which,
            n_full,
            which_full,
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(self._tokens, self._memory + self._tokens),
            compute_q_blocks=False,
        )

    def _blocks(self, window: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[blocks of queries, blocks of keys]: whether there is a pair that sees, and whether all do."""
        rows, first_query, last_query, columns, first_key, last_key = self._pieces
        shape = -(-self._tokens // BLOCK), -(-(self._memory + self._tokens) // BLOCK)
        near, far = last_query - first_key, first_query - last_key
        some = np.zeros(shape, np.bool_)
        diagonal = np.arange(self._tokens)
        some[diagonal // BLOCK, (self._memory + diagonal) // BLOCK] = True
        seen = (near >= 0) & (far < window)
        some[rows[seen], columns[seen]] = True
        n = (last_query - first_query + 1) * (last_key - first_key + 1) * ((far >= 0) & (near < window))
        pairs = np.bincount(rows * shape[1] + columns, n, minlength=shape[0] * shape[1])
        return some, pairs.reshape(shape) == BLOCK * BLOCK

    @cached_property
    def _pieces(self) -> Ints:
        """[6, pairs] of pieces of segments, cut at the blocks, of which one is above the other or the same: of each the
        block and the positions of its first and last token, the queries' first."""
        cuts = {segment: _cut(at, segment.start) for segment, at in self._at.items()}
        above: dict[Segment | None, Ints] = {None: np.empty((3, 0), np.int64)}
        for segment in sorted(cuts, key=lambda s: s.start):  # a parent before what follows it
            above[segment] = np.concatenate([cuts[segment], above[segment.parent]], axis=1)
        found = [np.empty((6, 0), np.int64)]
        for segment, place in self._places.items():
            queries, keys = _cut(place, segment.start), above[segment]
            n = (queries.shape[1], keys.shape[1])
            found.append(np.concatenate([np.repeat(queries, n[1], axis=1), np.tile(keys, n[0])]))
        return np.concatenate(found, axis=1)


def attend_once(
    query: Tensor,
    keys: Iterable[Tensor],
    values: Iterable[Tensor],
    mask: BlockMask,
    scale: float,
) -> Tensor:
    """[tokens, heads, d of value] of [heads, tokens, d] queries.

    Args:
      keys, values: [key heads, n, d] of the segments before, in the mask's order, and of the pass.
    """
    k, v = (torch.cat([*parts], dim=1).unsqueeze(0) for parts in (keys, values))
    grouped = len(query) != k.shape[1]
    found: Tensor = _kernel(query.device.type)(
        query.unsqueeze(0), k, v, block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return found.squeeze(0).transpose(0, 1)


@cache
def _kernel(device: str) -> Callable[..., Any]:
    """On a GPU one kernel; on a CPU plain products, slow and exact; on the meta device the shape alone."""
    if device == "meta":
        return lambda q, k, v, **_: q.new_empty(*q.shape[:3], v.shape[3])
    if device == "cpu":
        return flex_attention
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _MOST_KERNELS)
    settings.fail_on_recompile_limit_hit = True
    return torch.compile(flex_attention, dynamic=True)


def _ranges(segments: Iterable[Segment]) -> dict[Segment, tuple[int, int]]:
    """Of segments and all above them: a number, and the end of the range of numbers at and below it."""
    below: dict[Segment | None, list[Segment]] = {}
    for segment in segments:
        below.setdefault(segment.parent, []).append(segment)
    first: dict[Segment, int] = {}
    found: dict[Segment, tuple[int, int]] = {}
    pending = [(segment, False) for segment in below.get(None, [])]
    while pending:
        segment, done = pending.pop()
        if done:
            found[segment] = (first[segment], len(first))
            continue
        first[segment] = len(first)
        pending.append((segment, True))
        pending += [(child, False) for child in below.get(segment, [])]
    return found


def _cut(at: slice, position: int) -> Ints:
    """[3, blocks]: those that a segment's tokens lie in, and the positions of its first and last token in each."""
    blocks = np.arange(at.start // BLOCK, (at.stop - 1) // BLOCK + 1)
    first = np.maximum(blocks * BLOCK, at.start) - at.start + position
    last = np.minimum((blocks + 1) * BLOCK, at.stop) - 1 - at.start + position
    return np.stack([blocks, first, last])


def _listed(blocks: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks of keys there are for each block of queries, and which, those first."""
    counts, which = blocks.sum(axis=1, dtype=np.int32), np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return tuple(torch.from_numpy(x)[None, None].to(device) for x in (counts, which))  # type: ignore[return-value]
