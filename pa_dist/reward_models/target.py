"""Where a reward model writes, known without loading what loads models."""

from collections.abc import Mapping
from typing import Any

from pa_dist import schema
from pa_dist.run import REWARDS, REWARDS_CHECKPOINT
from pa_dist.score.settle import Target

_STAGE = "reward "


def target(name: str) -> Target:
    """Of the reward model that has this name in the config."""
    return Target(
        stage=_STAGE + name,
        table=f"{REWARDS}/{name}",
        rejects=f"reward-{name}_-",  # no name ends so, so that no name's files begin like another's
        checkpoint=f"{REWARDS_CHECKPOINT}/{name}",
        schema=schema.REWARDS,
        encoding={"compression": "zstd"},
    )


def asked(stages: Mapping[str, Any]) -> list[str]:
    """The reward models among a manifest's stages, by name."""
    return [stage.removeprefix(_STAGE) for stage in stages if stage.startswith(_STAGE)]
