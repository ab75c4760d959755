"""One typed config tree: a YAML file, any key of it overridden by `key.path=value`.

`load` is the only way in. Whatever is wrong ends in a `ConfigError` of one line that names the key, with the nearest
valid name where a key is unknown.
"""

from pa_dist.config.reward_models import Classifier, RewardModel, ThinkPRM, WildReward
from pa_dist.config.sections import (
    Evaluate,
    FileFormat,
    Growing,
    Merge,
    Merged,
    MergeMethod,
    Pair,
    Ray,
    Render,
    Replicas,
    Score,
    Trajectories,
    Vllm,
)
from pa_dist.config.tree import Config, ScoreSections, evaluate_section, given_path, load, parse

__all__ = [
    "Classifier",
    "Config",
    "Evaluate",
    "FileFormat",
    "Growing",
    "Merge",
    "MergeMethod",
    "Merged",
    "Pair",
    "Ray",
    "Render",
    "Replicas",
    "RewardModel",
    "Score",
    "ScoreSections",
    "ThinkPRM",
    "Trajectories",
    "Vllm",
    "WildReward",
    "evaluate_section",
    "given_path",
    "load",
    "parse",
]
