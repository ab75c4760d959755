"""Operations and bytes of a model, from its skeleton on the meta device: no weight is loaded.

Of a token that passes the decoder, each weight of a matrix is one multiplication and one addition: 2 operations for
each weight of the linear layers, and of a mixture's experts for those that are active. In the attention of a layer, a
query and a key make a score of `d` products, a score and a value `d'` more: 2 * heads * (d + d') operations for each
pair of a token and one before it or itself. The token at position p has p + 1 such pairs, or as many as the layer's
window is wide; what it has does not depend on which sequences share it. The head, 2 operations a weight, is run for
each distinct pair of a state and a token that it predicts.

Norms, activations, rotations, the router of a mixture and the recurrence of linear attention are not counted, as the
engine counts: together with how far a device stays behind its peak they are in the share of it that is assumed.
"""

from typing import Any, NamedTuple

from transformers import PreTrainedModel

from pa_dist.engine.forward import matrix_weights
from pa_dist.engine.head import CHUNK_ELEMENTS, CHUNK_ELEMENTS_OF_A_GPU

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Tensors of a token that are alive at once in a layer: of the hidden state's width, and of a part's own.
_HIDDEN, _ATTENTION, _MLP = 3, 6, 3


class Attention(NamedTuple):
    """The attention of one layer."""

    width: int
    """Of a query and a value, over all heads."""
    kept: int
    """Of a key and a value, over all heads that have their own."""
    window: int | None

    def flops(self, start: int, n: int) -> int:
        """Operations for `n` tokens that follow `start` others."""
        whole = min(n, max(0, (self.window or start + n) - start))  # of the first ones, which see all before them
        pairs = whole * start + whole * (whole + 1) // 2 + (n - whole) * (self.window or 0)
        return 2 * self.width * pairs


class Shape(NamedTuple):
    """What a model's cost follows from."""

    parameters: int
    matrix_weights: int
    """That a token passes, of experts the active ones."""
    head_weights: int
    vocabulary: int
    hidden: int
    intermediate: int
    attention: tuple[Attention, ...]

    def flops(self, start: int, n: int) -> int:
        """Operations for `n` tokens that follow `start` others of their sequence, without the head."""
        return 2 * self.matrix_weights * n + sum(layer.flops(start, n) for layer in self.attention)

    def kept_bytes(self, dtype: str) -> int:
        """Of one token's keys and values, in all layers."""
        return BYTES[dtype] * sum(layer.kept for layer in self.attention)

    def pass_bytes(self, dtype: str) -> int:
        """Of one token on its way through a layer."""
        widest = max((layer.width // 2 for layer in self.attention), default=0)
        return BYTES[dtype] * (_HIDDEN * self.hidden + max(_ATTENTION * widest, _MLP * self.intermediate))

    def head_bytes(self, dtype: str, device: str, tokens: int) -> int:
        """Of one chunk of the head's logits in float32: as they are, and on a GPU twice more. A CPU that computes in
        half precision has the head's weights in float32 meanwhile.

        Args:
          tokens: at most so many are read together.
        """
        rows = max(1, CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_OF_A_GPU) // self.vocabulary)
        # On a CPU they are reduced in blocks that its caches hold: next to nothing.
        logits = min(rows, tokens) * self.vocabulary * (4 if device == "cpu" else 12)
        return logits + (4 * self.vocabulary * self.hidden if device == "cpu" and dtype != "float32" else 0)


def shape(model: PreTrainedModel) -> Shape:
    """The shape of a model, on the meta device too."""
    decoder, config = getattr(model, model.base_model_prefix), model.config.get_text_config()
    head = model.get_output_embeddings()
    layers = [_attention(m, config) for m in decoder.modules() if hasattr(m, "layer_idx") and _head_widths(m)]
    # An architecture whose attention we do not know is taken for one of full heads.
    whole = 2 * config.hidden_size
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        matrix_weights=matrix_weights(decoder, config),
        head_weights=0 if head is None else head.weight.numel(),
        vocabulary=int(config.vocab_size),
        hidden=int(config.hidden_size),
        intermediate=_intermediate(config),
        attention=tuple(layers) or (Attention(whole, whole, None),) * int(config.num_hidden_layers),
    )


def _attention(module: Any, config: Any) -> Attention:
    heads, width = int(config.num_attention_heads), sum(_head_widths(module))
    groups = getattr(module, "num_key_value_groups", 1)
    return Attention(heads * width, heads // groups * width, getattr(module, "sliding_window", None))


def _head_widths(module: Any) -> tuple[int, ...]:
    """Of a head's queries and values; nothing where a module is no attention."""
    queries = getattr(module, "qk_head_dim", None) or getattr(module, "head_dim", None)
    return (int(queries), int(getattr(module, "v_head_dim", None) or queries)) if queries else ()


def _intermediate(config: Any) -> int:
    """Width of what an MLP makes of a token, that of all active experts together in a mixture."""
    active = getattr(config, "num_experts_per_tok", None) or getattr(config, "top_k_experts", None) or 0
    expert = getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None) or 0
    plain = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return max(int(plain), int(active) * int(expert))
