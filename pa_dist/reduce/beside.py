"""What a run has beside its policy and first reference: further references and reward models that are done."""

from collections.abc import Mapping
from typing import Any

from pa_dist.reduce.block.methods import Method, RewardMethod, methods_against
from pa_dist.runtime.targets import Target, judged_by, reference_target, referred_to, reward_target


def finished(stages: Mapping[str, Any]) -> list[Target]:
    """Their tables; `stages`: of the manifest."""
    every = [*map(reference_target, referred_to(stages)), *map(reward_target, judged_by(stages))]
    return [target for target in every if stages[target.stage]["done"]]


def methods_beside(stages: Mapping[str, Any], preset: str) -> list[Method | RewardMethod]:
    """Their methods, in the order of reports."""
    done = {target.stage for target in finished(stages)}
    references = [name for name in referred_to(stages) if reference_target(name).stage in done]
    judges = [name for name in judged_by(stages) if reward_target(name).stage in done]
    return [
        *(method for name in references for method in methods_against(preset, name)),
        *(RewardMethod(name, stages[reward_target(name).stage]["judges_steps"]) for name in judges),
    ]
