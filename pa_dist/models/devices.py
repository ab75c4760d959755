"""What a model needs of an environment to be on a device, or spread over several."""

from collections.abc import Mapping
from importlib.util import find_spec

from pa_dist.config import RewardModel, Score
from pa_dist.errors import ConfigError


def check_accelerate(gpus: Mapping[str, float | None], device: str, settings: Score | RewardModel) -> None:
    """Refuse a model on several GPUs where what spreads it over them is not installed.

    Args:
      gpus: how many each pool's actors get, by key.
      device: the key of the device.

    Raises:
      ConfigError: naming the key, and what to install.
    """
    if getattr(settings, "engine", "hf") != "hf" or find_spec("accelerate") is not None:
        return
    several = [key for key, n in gpus.items() if n is not None and n > 1]
    several += [device] if settings.device == "auto" else []
    if several:
        raise ConfigError(
            f"{several[0]}: a model on several GPUs needs accelerate; `pip install 'pa-dist[multi-gpu]'` installs it"
        )


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
