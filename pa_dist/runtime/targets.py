"""Where the stages write that go on after a kill; known without loading what loads models."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from pa_dist import schema
from pa_dist.store.folder import CHECKPOINT, REFERENCES, REFERENCES_CHECKPOINT, REWARDS, REWARDS_CHECKPOINT

_STAGE = "reward "
_REFERENCE = "reference "


class Target(NamedTuple):
    """Where a stage that goes on after a kill writes."""

    stage: str
    table: str
    rejects: str
    """What the names of its files of `rejects` begin with."""
    checkpoint: str
    schema: pa.Schema
    encoding: dict[str, Any]


LOGPROBS = Target("score", "logprobs", "score-", CHECKPOINT, schema.LOGPROBS, schema.LOGPROBS_ENCODING)


def reference_target(name: str) -> Target:
    """Of the further reference that has this name."""
    return Target(
        stage=_REFERENCE + name,
        table=f"{REFERENCES}/{name}",
        rejects=f"reference-{name}_-",  # as of reward models
        checkpoint=f"{REFERENCES_CHECKPOINT}/{name}",
        schema=schema.REFERENCE,
        encoding=schema.REFERENCE_ENCODING,
    )


def referred_to(stages: Mapping[str, Any]) -> list[str]:
    """The further references among a manifest's stages, by name."""
    return [stage.removeprefix(_REFERENCE) for stage in stages if stage.startswith(_REFERENCE)]


def reward_target(name: str) -> Target:
    """Of the reward model that has this name in the config."""
    return Target(
        stage=_STAGE + name,
        table=f"{REWARDS}/{name}",
        rejects=f"reward-{name}_-",  # no name ends so, so that no name's files begin like another's
        checkpoint=f"{REWARDS_CHECKPOINT}/{name}",
        schema=schema.REWARDS,
        encoding={"compression": "zstd"},
    )


def judged_by(stages: Mapping[str, Any]) -> list[str]:
    """The reward models among a manifest's stages, by name."""
    return [stage.removeprefix(_STAGE) for stage in stages if stage.startswith(_STAGE)]
