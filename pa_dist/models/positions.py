"""How many tokens a model can read: the positions that its config states."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pa_dist.config import ScoreSections
from pa_dist.errors import ConfigError

# By what names configs state it. Models of attention biases or of a state often do not.
_STATED = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_target_positions",
)
# Ways to stretch rotary positions after training whose configs may state the positions from before.
_STRETCHED = ("linear", "dynamic", "yarn", "ntk")
_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|pos_emb\w*)\.weight$")
_RELATIVE = ("rope_parameters", "rotary_dim", "alibi", "attn_config")


def positions(text: Any) -> int | None:
    """The tokens that a model reads at most; None where its config states no limit.

    Args:
      text: the config of a model's language part.
    """
    named = (getattr(text, name, None) for name in _STATED)
    stated: int | None = next((n for n in named if type(n) is int and n > 0), None)
    rope = getattr(text, "rope_parameters", None)
    if stated is None or not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type")) not in _STRETCHED:
        return stated
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    trained = original if type(original) is int else stated
    # Where more is stated than was trained, the factor is in it already.
    return int(stated if stated > trained or not factor else max(stated, trained * factor))


def has_table(text: Any, tensors: Iterable[str] | None) -> bool:
    """Whether positions are rows of a table that ends: there is nothing beyond them.

    Args:
      tensors: names of the weights; None where they are not here yet, and the config has to tell.
    """
    if positions(text) is None:
        return False
    if tensors is not None:
        return any(_TABLE.search(name) for name in tensors)
    return not any(getattr(text, name, None) for name in _RELATIVE)


def limited(sections: ScoreSections, most: Mapping[str, int | None]) -> ScoreSections:
    """Sections whose `score.max_length` no model is too short for.

    Args:
      most: of each model, the tokens that it reads at most.
    """
    score = sections.score
    length = min([score.max_length, *(n for n in most.values() if n is not None)])
    if length == score.max_length:
        return sections
    return sections._replace(score=score.model_copy(update={"max_length": length}))


def shortened(asked: int, explicit: bool, most: Mapping[str, int | None], tables: Mapping[str, str]) -> list[str]:
    """What is to be said of a length that is more than a model reads.

    Args:
      asked: `score.max_length`.
      explicit: whether the config names it.
      most: of each model, the tokens that it reads at most.
      tables: the models for which more is impossible, each with what it is that takes no more.

    Raises:
      ConfigError: one of these is asked for more by name.
    """
    short = {model: n for model, n in most.items() if n is not None and n < asked}
    if not short:
        return []
    if explicit and (never := [model for model in short if model in tables]):
        model = never[0]
        raise ConfigError(
            f"score.max_length: {tables[model]} takes at most {short[model]} tokens of pair.{model}, got {asked}"
        )
    length = min(short.values())
    has = " and ".join(f"pair.{model} reads at most {n:,} tokens" for model, n in short.items())
    return [f"score.max_length is {length:,}, not {asked:,}: {has}; longer trajectories lose their beginning"]
