"""What a model needs of its actors' devices."""

from collections.abc import Mapping
from typing import Any

from pa_dist.engine.quantised import settings_of
from pa_dist.errors import ConfigError

# What of attention is cut between heads, where a plan cuts it so.
_HEADS = ("num_attention_heads", "num_key_value_heads", "num_global_key_value_heads")


def check_spread(key: str, config: Any, size: int, *, adapter: bool) -> None:
    """Refuse a model that transformers does not spread over so many processes.

    Args:
      key: of its actor pool.
      config: its own.
      size: how many; of one there is nothing to refuse.
      adapter: whether it is given one.

    Raises:
      ConfigError: naming the key and the reason.
    """
    text = config.get_text_config()
    plan: Mapping[str, str] = getattr(text, "base_model_tp_plan", None) or {}
    by_heads = any("attn" in name and style == "colwise" for name, style in plan.items())
    heads = {name: n for name in _HEADS if by_heads and (n := getattr(text, name, None)) is not None}
    if adapter:
        why = "an adapter is put on a whole model"
    elif settings_of(config) is not None:
        why = "quantised weights are not spread"
    elif not plan:
        why = f"transformers has no plan by which a model of the kind {text.model_type} is spread"
    elif uneven := [f"{name} is {n}" for name, n in heads.items() if n % size]:
        why = f"each process takes as many heads, and {uneven[0]}"
    else:
        return
    if size > 1:
        raise ConfigError(f"{key}.tensor_parallel_size of {size}: {why}")


def check_gpus(wanting: Mapping[str, str | None], gpus: Mapping[str, float], key: str) -> None:
    """Refuse models that a GPU has to hold in actors without one.

    Args:
      wanting: of each model, why it needs one, as `quantised.check_quantised` found out.
      gpus: of each model, how many an actor has.
      key: that the models' own are below.

    Raises:
      ConfigError: naming the key and the reason.
    """
    for model, why in wanting.items():
        if why is not None and not gpus[model]:
            raise ConfigError(f"{key}.{model}.num_gpus: its actors have no GPU, and {why}")
