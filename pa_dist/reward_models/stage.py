"""The stage of one reward model, begun once the pair has scored."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from pa_dist.config import Replicas, RewardModel, ThinkPRM
from pa_dist.models.devices import check_gpus
from pa_dist.models.fingerprint import model_files, scoring_versions, weights_mark
from pa_dist.render.plain import ActionRule
from pa_dist.reward_models.rows import READS
from pa_dist.runtime import pools
from pa_dist.runtime.targets import reward_target
from pa_dist.stage import Say, Stage
from pa_dist.store.contents import read_beside
from pa_dist.store.folder import RunFolder

_NOT_DECIDING = {*Replicas.model_fields, "device", "rows_per_block", "batch_tokens", "gpu_memory"}


class RewardStage(Stage):
    """A reward model over every trajectory: its own table of `rewards`."""

    reads: Mapping[str, Sequence[str]] = {"trajectories": READS}

    def __init__(self, folder: RunFolder, name: str, model: RewardModel, actions: ActionRule) -> None:
        """`name`: of the reward model in the config."""
        super().__init__(folder)
        self.model_name, self.model, self.actions = name, model, actions
        self.target = reward_target(name)
        self.name = self.target.stage
        self.writes = (self.target.table, "rejects")
        self._wanting: str | None = None

    @cached_property
    def _weights(self) -> str | None:
        return weights_mark(self.folder, self.model.model)

    def settings(self) -> dict[str, Any]:
        """The reward model without what only decides where it runs."""
        return {
            "model": self.model.model_dump(mode="json", exclude=_NOT_DECIDING),
            "weights": self._weights,
            "actions": self.actions,
            "versions": scoring_versions(self.model.engine if isinstance(self.model, ThinkPRM) else "hf"),
        }

    def check(self, say: Say) -> None:
        # Slow to import, and not needed where nothing is left to judge.
        """Find out whether the model is there and can be used as its settings say."""
        from pa_dist.reward_models.pipeline import check_reward_model

        self._wanting = check_reward_model(self.model_name, self.model)

    def check_cluster(self, *, complete: bool) -> None:
        """As any stage."""
        if complete:
            actors = pools.share_out_one(self.model_name, self.model)
            gpus = 0.0 if self.model.device == "cpu" else actors[self.model_name].num_gpus
            check_gpus({self.model_name: self._wanting}, {self.model_name: gpus}, "reward_models")
            pools.check_actors(actors, "reward_models")
        else:
            pools.check_named({self.model_name: self.model}, "reward_models")

    def run(self, say: Say) -> None:
        """Judge what is not judged yet."""
        from pa_dist.reward_models.pipeline import judge, pinned_reward_model

        say, began, folder, into = self.folder.logged(say), time.perf_counter(), self.folder, self.target
        stages, settings = folder.manifest["stages"], self.settings()
        if into.stage not in stages:
            for table_name, prefix in ((into.table, ""), ("rejects", into.rejects), (into.checkpoint, "")):
                folder.clear(table_name, prefix)
        # As of the pair: a run goes on with the weights it began with.
        model = pinned_reward_model(self.model, stages.get(into.stage, {}).get("commit"))
        folder.start(into.stage, settings, commit=model.revision)
        named = {self._weights: partial(model_files, model.model)} if self._weights else {}
        with read_beside(folder, named):
            facts = judge(self.model_name, model, self.actions, folder)
        folder.finish(into.stage, **facts, seconds=round(time.perf_counter() - began, 1))
        folder.filesystem.delete_dir_contents(folder.path(into.checkpoint), missing_dir_ok=True)
        earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
        say(
            f"{into.stage}: {facts['rows']} trajectories judged, {facts['rejects']} rejected{earlier}, "
            f"{facts['tokens_per_second']:,.0f} tokens a second and actor"
        )
        if shown := facts["shown_in_part"]:
            say(f"{into.stage}: {shown} of them shown in part: longer than max_length {model.max_length:,}")
        if facts["judges_steps"]:
            steps = facts["steps"]
            say(
                f"{into.stage}: of {sum(steps.values())} steps {steps['logprob']} read from log-probs, "
                f"{steps['verdict']} from verdicts, {steps['never_judged']} never judged"
            )
