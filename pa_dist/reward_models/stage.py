"""The stage of each reward model: checked before anything starts, and begun once the pair has scored."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from pa_dist import cluster
from pa_dist.config import Config
from pa_dist.reward_models.pipeline import check, judge, pinned
from pa_dist.reward_models.target import target
from pa_dist.run import RunFolder


def check_all(config: Config, names: Sequence[str]) -> None:
    """Find out whether reward models can be used as the config says, on the cluster of now.

    Raises:
      PaDistError: naming the key and the reason.
    """
    models = {name: config.reward_models[name] for name in names}
    for name, model in models.items():
        check(name, model)
    cluster.connect(config.ray, config.score, models.values())
    for name, model in models.items():
        if config.ray.check_resources:
            cluster.check({name: cluster.share_out_one(model)}, "reward_models")
        else:
            cluster.check_named({name: model}, "reward_models")


def ask(config: Config, name: str, settings: dict[str, Any], folder: RunFolder, say: Callable[[str], None]) -> None:
    """Have a reward model judge what it has not judged yet.

    Args:
      settings: what decides its scores, for the manifest.

    Raises:
      PaDistError: what is done stays done.
    """
    began = time.perf_counter()
    into = target(name)
    stages = folder.manifest["stages"]
    if into.stage not in stages:
        for table_name, prefix in ((into.table, ""), ("rejects", into.rejects), (into.checkpoint, "")):
            folder.clear(table_name, prefix)
    # As of the pair: a run goes on with the weights it began with.
    model = pinned(config.reward_models[name], stages.get(into.stage, {}).get("commit"))
    folder.start(into.stage, settings, commit=model.revision)
    facts = judge(name, model, config.render.actions, folder)
    folder.finish(into.stage, **facts, seconds=round(time.perf_counter() - began, 1))
    folder.filesystem.delete_dir_contents(folder.path(into.checkpoint), missing_dir_ok=True)
    earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
    say(
        f"{into.stage}: {facts['rows']} trajectories judged, {facts['rejects']} rejected{earlier}, "
        f"{facts['tokens_per_second']:,.0f} tokens a second and actor"
    )
    if facts["shown_in_part"]:
        say(
            f"{into.stage}: {facts['shown_in_part']} of them shown in part: longer than max_length {model.max_length:,}"
        )
    if facts["judges_steps"]:
        steps = facts["steps"]
        say(
            f"{into.stage}: of {sum(steps.values())} steps {steps['logprob']} read from log-probs, {steps['verdict']} "
            f"from verdicts, {steps['never_judged']} never judged"
        )
