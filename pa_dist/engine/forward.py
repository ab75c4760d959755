"""Forward passes of a transformers model over segments of a prefix tree."""

import copy
import ctypes
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from pa_dist.engine import attention
from pa_dist.engine.attention import KeysValues, Pass
from pa_dist.engine.errors import first_line
from pa_dist.engine.linear import Recurrence, State, Way, put_on_trees, ways
from pa_dist.engine.modules import held
from pa_dist.engine.one_call import LEAST_TOKENS, TreeMask
from pa_dist.engine.prefix_tree import Segment, prefix_tree, separate
from pa_dist.engine.quantised import is_packed
from pa_dist.engine.schedule import Schedule


@dataclass
class Memory:
    """What a segment that ran leaves for those below it."""

    layers: KeysValues = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    """Of layers that keep a state instead of keys and values."""
    cache: Cache | None = None
    """The same of models that keep it themselves."""


# Kinds of layers that run on a tree. Others would need what is neither keys that all later tokens see nor a state.
KNOWN_LAYERS = {"full_attention", "sliding_attention", "linear_attention"}


class Forward:
    """Runs a model's decoder: all but its head.

    Attributes:
      together: whether prefixes are shared; if not, segments must be whole sequences, and the model attends as it does.
      at_once: whether a layer of a tree attends in one call, and not in one for each segment.
      linear: how linear-attention layers run on a tree; None of a model without any.
      rows: whether segments of a pass stand in rows of their own, padded on the right; otherwise side by side in one.
      memory: of segments that ran, for those below them.
      flops: floating point operations so far, of linear layers and attention; of this rank alone, where a model is
        spread over several.
    """

    def __init__(
        self, model: PreTrainedModel, *, together: bool, at_once: bool = False, linear: Way | None = None
    ) -> None:
        """`linear`: how linear-attention layers run on a tree; None for the best way of the model's kind."""
        self.decoder = getattr(model, model.base_model_prefix)
        self.device = model.device
        self.config = model.config.get_text_config()
        self._ranks = ranks_of(model)
        self.linear = (linear or linear_ways(model)[0]) if has_linear_layers(self.config) else None
        self.together, self.at_once = together, at_once
        self.rows = self.linear == "rows" or not together
        if together and self.linear in ("lengths", "batches"):
            put_on_trees(self.decoder)
        self.memory: dict[Segment, Memory] = {}
        self.flops = 0
        self._weights = matrix_weights(self.decoder, self.config)

    def __call__(self, segments: Sequence[Segment], store: Iterable[Segment]) -> tuple[Tensor, dict[Segment, slice]]:
        """Run segments whose ancestors are among them or in memory.

        Args:
          store: those of the segments to be remembered.

        Returns:
          [tokens, d] final hidden states, pads included, and where each segment's are.
        """
        places, width = self._lay_out(segments)
        ids = np.zeros(width * (len(segments) if self.rows else 1), np.int64)
        positions = np.zeros_like(ids)
        for segment, place in places.items():
            ids[place] = segment.ids
            positions[place] = np.arange(segment.start, segment.end)
        inputs, at = (torch.from_numpy(x).view(-1, width).to(self.device) for x in (ids, positions))
        self.flops += 2 * self._weights * len(ids)
        if not self.together:
            # Pads stand on the right, where no token of a causal model sees them: no mask, and so no slower attention.
            self.flops += self._plain_attention(segments)
            return self.decoder(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1), places

        for segment in store:
            self.memory[segment] = Memory()
        mask = TreeMask(places, len(ids), self.device) if self.at_once else None
        tree = Pass(places, {s: m.layers for s, m in self.memory.items()}, set(store), mask)
        if self.linear in ("lengths", "batches"):
            states = {s: m.states for s, m in self.memory.items()}
            tree.recurrence = Recurrence(places, len(ids), states, list(store), self.device, self.linear)
        cache = self._cache(segments) if self.linear == "rows" else None
        with self._tree_attention():
            hidden = self.decoder(
                input_ids=inputs, position_ids=at, past_key_values=cache, use_cache=cache is not None, tree=tree
            ).last_hidden_state
        for segment in store:
            self.memory[segment].cache = cache
        self.flops += tree.attention_flops
        return hidden.flatten(0, 1), places

    def release(self, keep: Iterable[Segment]) -> None:
        """Forget all segments but these."""
        wanted = set(keep)
        self.memory = {segment: memory for segment, memory in self.memory.items() if segment in wanted}
        if self.memory and self.device.type == "cpu":
            _trim()

    def _lay_out(self, segments: Sequence[Segment]) -> tuple[dict[Segment, slice], int]:
        """Where each segment's tokens stand, and how wide a row is."""
        lengths = [len(segment.ids) for segment in segments]
        if self.rows:
            starts = [max(lengths) * row for row in range(len(segments))]
            width = max(lengths)
        else:
            starts = np.cumsum([0, *lengths[:-1]]).tolist()
            width = max(sum(lengths), LEAST_TOKENS if self.at_once else 0)
        return {s: slice(a, a + n) for s, a, n in zip(segments, starts, lengths, strict=True)}, width

    def _cache(self, segments: Sequence[Segment]) -> Cache:
        """The states that segments of one parent go on from, a row each."""
        parent = segments[0].parent
        if parent is None:
            cache = DynamicCache(config=self.config)
            cache.layers = [_NoKeys() if isinstance(x, DynamicLayer) else x for x in cache.layers]  # type: ignore[no-untyped-call]
            return cache
        above = copy.deepcopy(self.memory[parent].cache)
        assert above is not None, "a parent's states are kept until its last child ran"
        above.reorder_cache(cast(torch.LongTensor, torch.zeros(len(segments), dtype=torch.long)))
        return above

    @contextmanager
    def _tree_attention(self) -> Iterator[None]:
        """The model attends by the tree, and as before afterwards."""
        given = self.config._attn_implementation
        self.config._attn_implementation = attention.NAME
        try:
            yield
        finally:
            self.config._attn_implementation = given

    def _plain_attention(self, segments: Sequence[Segment]) -> int:
        """Operations of causal attention in all layers, their heads taken to be as wide together as a hidden state."""
        pairs = sum(len(segment.ids) * (len(segment.ids) + 1) // 2 for segment in segments)
        return 4 * pairs * int(self.config.hidden_size) * int(self.config.num_hidden_layers) // self._ranks


def _trim() -> None:
    """Give the system back what lies free between keys and values that stay: else each pass leaves holes of its own."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)


def matrix_weights(decoder: nn.Module, config: Any) -> int:
    """Weights of the matrices that a token passes here: linear layers, and of experts those that are active.

    Args:
      decoder: of a model, on the meta device too.
      config: of its language part.
    """
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    active = getattr(config, "num_experts_per_tok", None) or getattr(config, "top_k_experts", None)
    linear = sum(weights_of(m) for m in decoder.modules() if isinstance(m, nn.Linear) or _is_packed_matrix(m))
    if not (experts and active):
        return linear
    # transformers holds the experts of a layer as tensors of three axes, the first of which counts them.
    expert = sum(held(p).numel() for p in decoder.parameters() if p.dim() == 3 and len(p) == experts)
    return linear + expert * int(active) // int(experts)


def weights_of(layer: Any) -> int:
    """Weights of a linear layer's matrix that are here; of packed ones as many as they stand for."""
    weight = getattr(layer, "weight", None)
    if weight is not None and weight.is_floating_point() and weight.dim() == 2:
        return int(held(weight).numel())
    return int(layer.in_features) * int(layer.out_features)


def ranks_of(model: PreTrainedModel) -> int:
    """Processes that a model is spread over."""
    return int(model.tp_size or 1)


def _is_packed_matrix(module: nn.Module) -> bool:
    """Whether a layer of a quantiser's own class is a linear one; one of an adapter's holds it, and nothing packed."""
    return hasattr(module, "in_features") and hasattr(module, "out_features") and is_packed(module)


def reason_by_kind(model: PreTrainedModel) -> str | None:
    """Why the prefixes of a model of this kind cannot be shared, as far as its config says."""
    config = model.config.get_text_config()
    if config._attn_implementation not in (None, "eager", "sdpa"):
        return f"attn_implementation is {config._attn_implementation}"
    if unknown := set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS:
        return f"{type(model).__name__} has layers of the kind {min(unknown)}"
    return None


def has_linear_layers(config: Any) -> bool:
    """Whether a model has layers that keep a state, by the config of its language part."""
    return "linear_attention" in (getattr(config, "layer_types", None) or ())


def linear_ways(model: PreTrainedModel) -> list[Way]:
    """How linear-attention layers of a model of this kind may run on a tree, the best way first."""
    return ways(getattr(model, model.base_model_prefix), model.device)


def linear_way(model: PreTrainedModel) -> tuple[Way | None, str | None]:
    """The best way of a model's linear-attention layers that gives what a plain pass does, and why not a better one.

    None of a model without such layers.
    """
    if not has_linear_layers(model.config.get_text_config()):
        return None, None
    *better, least = linear_ways(model)
    reason = None
    for way in better:
        if (why := reason_to_stay_apart(model, linear=way)) is None:
            return way, reason
        reason = reason or why
    return least, reason


def reason_to_stay_apart(model: PreTrainedModel, *, at_once: bool = False, linear: Way | None = None) -> str | None:
    """Why a model's prefixes cannot be shared; None where they can, as tried on a few tokens.

    Args:
      at_once: whether its layers are to attend in one call.
      linear: as `Forward` takes it.
    """
    if reason := reason_by_kind(model):
        return reason
    name = type(model).__name__
    try:
        tree = _trial(model, together=True, at_once=at_once, linear=linear)
        plain = _trial(model, together=False)
    except Exception as error:
        if ranks_of(model) > 1 and isinstance(error, torch.OutOfMemoryError):
            raise  # other ranks may not have met it, and wait for this one
        # Whatever a model we do not know raises, it can still be scored plainly.
        return f"{name} does not run on a prefix tree: {type(error).__name__}: {first_line(error)}"
    difference = float((tree - plain).norm() / plain.norm())
    tolerance = 1e-3 if plain.dtype == torch.float32 else 0.1
    return None if difference < tolerance else f"{name} gives other numbers on a prefix tree ({difference:.2g} apart)"


@torch.inference_mode()
def _trial(model: PreTrainedModel, *, together: bool, at_once: bool = False, linear: Way | None = None) -> Tensor:
    """[tokens, d] hidden states of two short sequences with a common beginning."""
    forward = Forward(model, together=together, at_once=at_once, linear=linear)
    ids = np.random.default_rng(0).integers(0, forward.config.vocab_size, (2, 24)).astype(np.int32)
    ids[1, :16] = ids[0, :16]
    roots = (prefix_tree if together else separate)(list(ids))
    schedule = Schedule(roots, rows=forward.rows, cut=together)
    states: dict[tuple[int, int], Tensor] = {}
    # Passes that follow earlier ones, and one that holds a segment, those below it, and what ran before neither.
    budgets = itertools.chain((6, 6), itertools.repeat(64))
    while segments := schedule.take(next(budgets)):
        hidden, places = forward(segments, schedule.path().intersection(segments))
        states.update({(i, s.start): hidden[places[s]] for s in segments for i in s.sequences})
    return torch.cat([states[key] for key in sorted(states)])


class _NoKeys(DynamicLayer):
    """A cache layer that keeps nothing: the tree attention keeps keys and values itself."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        pass
