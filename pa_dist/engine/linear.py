"""Linear-attention layers over a prefix tree: a pass is one row of tokens to them too, whatever segments it holds.

Of a gated delta net's layer only two functions look at other tokens: a short convolution, and the delta rule, which
carries a state from token to token. transformers' layer hands on to them what the model is called with, the pass
among it; then each segment goes on from what the one above it left, and all else of the layer is its own. The rule
takes the segments in waves, parents before what follows them, and those that none goes on from in the last one: a
wave is one call where the kernel takes lengths, and otherwise batches of segments about as long as each other.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.activations import ACT2FN

from pa_dist.engine.prefix_tree import Segment

Way = Literal["lengths", "batches", "rows"]
"""How segments run in linear-attention layers: in one call that takes their lengths; in padded batches; or as the model
does it with a cache, in a pass of siblings that have rows of their own."""
CONVOLUTION, RULE = "causal_conv1d_fn", "torch_chunk_gated_delta_rule"
"""Names that transformers' layers call them by, whatever kernel is behind."""
# Pads of a batch, as a share of what it would run without.
PADS = 0.25
# Segments of one call: each has a state, of 2 MiB in a layer of qwen3.5 9B.
MOST_SEGMENTS = 256
# Tokens that transformers' own rule takes at a time: it pads to a multiple of them.
CHUNK = 64
LEAST_CHUNK = 8
Ints = NDArray[np.int64]
Places = Tensor | slice
"""Numbers of tokens; a slice where they follow each other, for a view in place of a copy."""


def ways(decoder: nn.Module, device: torch.device) -> list[Way]:
    """Ways that linear-attention layers of a decoder may run on a tree, the best first; the last one needs nothing."""
    if source(decoder) is None:
        return ["rows"]
    return ["lengths", "batches", "rows"] if device.type != "cpu" and find_spec("fla") else ["batches", "rows"]


def put_on_trees(decoder: nn.Module) -> None:
    """Have the layers of a decoder call functions that know trees."""
    module = source(decoder)
    for name in (CONVOLUTION, RULE):
        setattr(module, name, over_trees(getattr(module, name)))


def source(decoder: nn.Module) -> Any:
    """The module whose layers call both functions."""
    modules = (sys.modules[kind.__module__] for kind in type(decoder).__mro__)
    return next((m for m in modules if hasattr(m, CONVOLUTION) and hasattr(m, RULE)), None)


def over_trees(given: Callable[..., Any]) -> Callable[..., Any]:
    """One of the two functions, which on a tree does what is said above; without one it is what it was."""
    if hasattr(given, "_on_trees"):
        return given
    ours: Callable[..., Any] = Recurrence.convolve if given.__name__ == CONVOLUTION else Recurrence.apply_rule

    @wraps(given)
    def function(*args: Any, tree: Any = None, **kwargs: Any) -> Any:
        recurrence = getattr(tree, "recurrence", None)
        return given(*args, **kwargs) if recurrence is None else ours(recurrence, given, *args, **kwargs)

    function._on_trees = True  # type: ignore[attr-defined]
    return function


def convolve_on_cpu(
    row: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: Any
) -> Tensor:
    """As transformers' own causal_conv1d_fn, which is many times slower there where a token's channels are neighbours.

    Args:
      row: [n, channels, tokens]; weight: [channels, kernel].
    """
    tokens, taps = row.transpose(1, 2).float(), weight.t().float()
    tokens = nn.functional.pad(tokens, (0, 0, len(taps) - 1, 0))
    out = tokens[:, : row.shape[2]] * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        out.addcmul_(tokens[:, i : i + row.shape[2]], tap)
    if bias is not None:
        out += bias
    if activation is not None:
        out = ACT2FN[activation](out)
    return out.to(row.dtype).transpose(1, 2)


class State(NamedTuple):
    """What a segment leaves in a layer for those that go on from it."""

    columns: Tensor
    """[channels, kernel - 1] of the convolution's input, at the segment's end."""
    rule: Tensor
    """[1, heads, d of key, d of value] of the rule, in float32."""


@dataclass(eq=False)
class Group:
    """Segments of one call.

    Attributes:
      leave: whether some are gone on from.
      tokens: [n] places of their tokens in the pass's row.
      width: of the batch's rows, or None for a call that takes lengths.
      taken: [rows * width] which of the row's tokens stands where in the batch, a segment's last one in place of pads.
      given: [n] where the tokens stand in the batch; None where there are no pads.
      real: [rows, width, 1]: 1, and 0 for pads.
      ends: of the segments, when they follow each other, from 0 on; on the device, and not.
    """

    segments: Sequence[Segment]
    leave: bool
    tokens: Places
    taken: Places
    width: int | None = None
    given: Tensor | None = None
    real: Tensor | None = None
    ends: tuple[Tensor, Tensor] | None = None


class Recurrence:
    """The segments of one pass, as its linear-attention layers see them.

    Layers take their turns: a layer begins with the convolution, and the next call of the rule is its own.
    """

    def __init__(
        self,
        places: dict[Segment, slice],
        tokens: int,
        memory: dict[Segment, list[State]],
        store: Sequence[Segment],
        device: torch.device,
        way: Way,
    ) -> None:
        """Lay out a pass.

        Args:
          places: where each segment's tokens stand in the row, parents before what follows them.
          tokens: of the row, pads included.
          memory: of each layer, of every segment that one in the pass goes on from and that ran before.
          store: segments whose states are to be added to `memory`, which has a place for them.
        """
        self._places, self._tokens, self._device = places, tokens, device
        self._memory, self._store = memory, store
        self._groups = [self._group(*wave, by_lengths=way == "lengths") for wave in self._waves(way)]
        self._before = list(dict.fromkeys(s.parent for s in places if s.parent and s.parent not in places))
        self._seams: _Seams | None = None
        self._columns: dict[Segment, Tensor] = {}
        self._layer = -1

    def _waves(self, way: Way) -> Iterator[tuple[list[Segment], bool]]:
        depth: dict[Segment | None, int] = {}
        for segment in self._places:
            depth[segment] = depth.get(segment.parent, -1) + 1
        gone_on_from = {segment.parent for segment in self._places}.union(self._store)
        waves: dict[int, list[Segment]] = {}
        for segment in self._places:
            waves.setdefault(depth[segment] if segment in gone_on_from else len(depth), []).append(segment)
        for number, wave in sorted(waves.items()):
            for part in [wave] if way == "lengths" else buckets(wave):
                for first in range(0, len(part), MOST_SEGMENTS):
                    yield part[first : first + MOST_SEGMENTS], number < len(depth)

    def _group(self, segments: Sequence[Segment], leave: bool, *, by_lengths: bool) -> Group:
        lengths = np.array([len(segment.ids) for segment in segments])
        places = np.concatenate([np.arange(p.start, p.stop) for p in map(self._places.__getitem__, segments)])
        tokens = self._slice(places)
        group = Group(segments, leave, tokens, tokens)
        if by_lengths:
            ends = torch.from_numpy(np.cumsum([0, *lengths]))
            group.ends = (ends.to(self._device), ends)
            return group
        group.width = width = int(lengths.max())
        if (lengths == width).all():
            return group
        starts = np.cumsum(lengths) - lengths
        at = np.minimum(np.arange(width), lengths[:, None] - 1)
        real = np.arange(width) < lengths[:, None]
        group.taken = self._index(places[(starts[:, None] + at).reshape(-1)])
        group.given = self._index(np.flatnonzero(real))
        group.real = torch.from_numpy(real.astype(np.float32)).unsqueeze(-1).to(self._device)
        return group

    def _slice(self, places: Ints) -> Places:
        first, n = int(places[0]), len(places)
        return slice(first, first + n) if (places == np.arange(first, first + n)).all() else self._index(places)

    def _index(self, places: Ints) -> Tensor:
        return torch.from_numpy(places).to(self._device)

    def convolve(self, given: Callable[..., Any], row: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As causal_conv1d_fn. Args: row: [1, channels, tokens]. Returns the same shape.

        The row is convolved as if it were one sequence, and then the first tokens of each segment once more, behind
        what is really before them.
        """
        self._layer += 1
        if row.device.type == "cpu":
            given = convolve_on_cpu
        kernel = (args[0] if args else kwargs["weight"]).shape[-1]
        if self._seams is None:
            self._seams = _Seams(self._places, self._before, self._store, kernel - 1, self._device)
        seams = self._seams
        out: Tensor = given(row, *args, **kwargs)
        if not len(seams.needed):
            return out
        memory = [self._memory[segment][self._layer].columns for segment in self._before]
        known = torch.cat([row.new_zeros(row.shape[1], 1), *memory, row[0].index_select(1, seams.needed)], dim=1)
        if len(seams.redone):
            again = known.index_select(1, seams.behind).unflatten(1, (-1, 2 * kernel - 2)).transpose(0, 1)
            fresh = given(again.contiguous(), *args, **kwargs)[:, :, kernel - 1 :].transpose(0, 1).flatten(1)
            fresh = fresh if seams.real is None else fresh.index_select(1, seams.real)
            out.index_copy_(2, seams.redone, fresh.unsqueeze(0))
        if self._store:
            ends = known.index_select(1, seams.ends).split(kernel - 1, dim=1)
            self._columns = {s: columns.clone() for s, columns in zip(self._store, ends, strict=True)}
        return out

    def apply_rule(self, given: Callable[..., Any], *inputs: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """As torch_chunk_gated_delta_rule, of [1, tokens, heads, d] queries, keys and values; no state is returned."""
        inputs = (*inputs, kwargs.pop("g"), kwargs.pop("beta"))
        states: dict[Segment | None, Tensor] = {s: self._memory[s][self._layer].rule for s in self._before}
        found: Tensor | None = None
        for group in self._groups:
            query, key, value, g, beta = self._taken(group, inputs)
            kwargs |= {"initial_state": self._initial(group, states), "output_final_state": group.leave}
            if group.ends:
                kwargs |= {"cu_seqlens": group.ends[0], "cu_seqlens_cpu": group.ends[1]}
            else:
                kwargs["chunk_size"] = min(CHUNK, _room(group.width or 0))
            out, left = given(query, key, value, g=g, beta=beta, **kwargs)
            if left is not None:
                states |= zip(group.segments, left.split(1), strict=True)
            out = out.flatten(0, 1)
            out = out if group.given is None else out.index_select(0, group.given)
            if group.tokens == slice(0, self._tokens):
                found = out
                continue
            found = out.new_zeros(self._tokens, *out.shape[1:]) if found is None else found
            found[group.tokens] = out
        for segment in self._store:
            self._memory[segment].append(State(self._columns[segment], states[segment].clone()))
        assert found is not None, "a pass has segments"
        return found.unsqueeze(0), None

    def _taken(self, group: Group, inputs: Sequence[Tensor]) -> list[Tensor]:
        """[rows, width, ...] of each input; in pads nothing decays and nothing is learnt, so that states stay."""
        at = group.taken
        taken = [x[0][at] if isinstance(at, slice) else x[0].index_select(0, at) for x in inputs]
        taken = [x.unflatten(0, (-1, group.width or len(x))) for x in taken]
        if group.real is not None:
            taken[3:] = [x * group.real.to(x.dtype) for x in taken[3:]]
        return taken

    def _initial(self, group: Group, states: dict[Segment | None, Tensor]) -> Tensor | None:
        """[segments, ...] states that a group goes on from; None where all begin."""
        parents = list(dict.fromkeys(segment.parent for segment in group.segments))
        if parents == [None]:
            return None
        if len(parents) == 1:
            return states[parents[0]].expand(len(group.segments), -1, -1, -1)
        if None in parents:
            states = {**states, None: torch.zeros_like(next(iter(states.values())))}
        if len(parents) == len(group.segments):
            return torch.cat([states[parent] for parent in parents])
        which = np.array([parents.index(segment.parent) for segment in group.segments])
        return torch.cat([states[parent] for parent in parents]).index_select(0, self._index(which))


class _Seams:
    """Where the tokens before a segment's first ones are not the row's.

    Attributes:
      needed: places in the row of columns that are looked at. They are known by their number behind a column of zeros
        and those of `before`.
      behind: [seams * 2 * reach] numbers of the columns before each seam and of the first ones after it.
      redone: places of these in the row; `real` leaves out what is no token of the segment, or is None.
      ends: [store * reach] numbers of the last columns of segments.
    """

    def __init__(
        self,
        places: dict[Segment, slice],
        before: Sequence[Segment],
        store: Sequence[Segment],
        reach: int,
        device: torch.device,
    ) -> None:
        """`reach`: of the tokens before it, how many a token sees."""
        # Columns that are no tokens of the row have negative numbers until all are known.
        ending: dict[Segment | None, list[int]] = {None: [-1] * reach}
        for i, segment in enumerate(before):
            ending[segment] = [-2 - i * reach - j for j in range(reach)]
        behind, redone, real = [], [], []
        for segment, place in places.items():
            above, own = ending[segment.parent], list(range(place.start, place.stop))
            ending[segment] = (above + own[-reach:])[-reach:]
            if above != [at if at >= 0 else -1 for at in range(place.start - reach, place.start)]:
                first = own[:reach]
                behind += above + first + [-1] * (reach - len(first))
                redone += first
                real += [True] * len(first) + [False] * (reach - len(first))
        ends = [at for segment in store for at in ending[segment]]
        needed = sorted({at for at in behind + ends if at >= 0})
        others = 1 + len(before) * reach
        number = {at: others + i for i, at in enumerate(needed)} | {-1 - i: i for i in range(others)}

        def index(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        self.needed, self.redone = index(needed), index(redone)
        self.behind, self.ends = (index([number[at] for at in some]) for some in (behind, ends))
        self.real = None if all(real) else index(np.flatnonzero(real).tolist())


def buckets(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments that run side by side, the longest first, pads being at most `PADS` of what they take alone."""
    bucket: list[Segment] = []
    alone = 0
    for segment in sorted(segments, key=lambda s: -len(s.ids)):
        takes = _room(len(segment.ids))
        if bucket and _room(len(bucket[0].ids)) * (len(bucket) + 1) > (1 + PADS) * (alone + takes):
            yield bucket
            bucket, alone = [], 0
        bucket.append(segment)
        alone += takes
    if bucket:
        yield bucket


def _room(length: int) -> int:
    """Tokens that transformers' own rule takes for so many: chunks, one of which may be as small as the segment is."""
    if length >= CHUNK:
        return -(-length // CHUNK) * CHUNK
    return max(LEAST_CHUNK, 1 << (length - 1).bit_length())
