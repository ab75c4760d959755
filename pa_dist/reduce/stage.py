"""The last stage: the columns to steps, scores and metrics."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pa_dist import schema, truncation
from pa_dist.config import Evaluate
from pa_dist.errors import RunFolderError
from pa_dist.reduce.beside import finished, methods_beside
from pa_dist.reduce.block.rewards import check_names
from pa_dist.reduce.evaluate import Summary, evaluate
from pa_dist.runtime.settle import settle_late
from pa_dist.runtime.targets import LOGPROBS
from pa_dist.runtime.tasks import mapper
from pa_dist.stage import Say, Stage
from pa_dist.store.folder import FILES, REPORT, RunFolder, without_secrets


class EvaluateStage(Stage):
    """Every method, aggregation and metric, from what the models left.

    It is a cheap reading of the columns, so it is never done: other settings replace its tables without asking.

    Attributes:
      summary: of the run of it in this process.
    """

    name = "evaluate"
    reads: Mapping[str, Sequence[str]] = {"logprobs": schema.LOGPROBS.names}
    writes = ("steps", "scores", "prefixes", "selections", "attributions", *FILES)

    def __init__(self, folder: RunFolder, section: Evaluate, labels: Stage, reward_models: Iterable[str] = ()) -> None:
        """`labels`: joins those that came later; `reward_models`: names of those that are to be judged first."""
        super().__init__(folder)
        self.section, self.labels, self.reward_models = section, labels, tuple(reward_models)
        self.summary: Summary | None = None

    def settings(self) -> dict[str, Any]:
        """The section."""
        return {"evaluate": without_secrets(self.section.model_dump(mode="json"))}

    def is_done(self) -> bool:
        """Never."""
        return False

    def check(self, say: Say) -> None:
        """Refuse reward models by the names of methods, and labels that cannot be joined."""
        check_names(self.reward_models)
        self.labels.check(say)

    def run(self, say: Say) -> None:
        """Write all tables anew."""
        say, began, folder = self.folder.logged(say), time.perf_counter(), self.folder
        stages = folder.manifest["stages"]
        if not stages.get("score", {}).get("done"):
            raise RunFolderError(f"{folder}: nothing scored here yet; `pa-dist score CONFIG` comes first")
        tasks = mapper(self.name)
        for into in (LOGPROBS, *finished(stages)):
            settle_late(folder, into, tasks)
        more = methods_beside(stages, self.section.preset)
        folder.filesystem.delete_dir_contents(folder.path(REPORT), missing_dir_ok=True)  # which shows the one before
        folder.start(self.name, self.settings())
        self.labels.run(say)
        self.summary = found = evaluate(self.section, folder, tasks, more)
        seconds = round(time.perf_counter() - began, 1)
        folder.finish(self.name, **asdict(found), seconds=seconds)
        metrics = [f"{found.metrics} metrics of {', '.join(found.scenarios)}"] if found.scenarios else []
        told = ": ".join([*metrics, *([found.note] if found.note else [])])
        cut = truncation.in_short(stages["score"])
        steps = f"{found.scored_steps} of {found.steps} steps with an advantage{cut}"
        say(f"evaluate: {found.trajectories} trajectories, {steps}, {told} ({seconds} s)")
        for name, apart in [(None, found.apart), *found.apart_of.items()]:
            if not apart:
                continue
            models = "models" if name is None else f"policy and the reference {name}"
            say(
                f"evaluate: the {models} read {apart} of {found.trajectories} trajectories as different tokens: of "
                "their advantages only the sums over a step's tokens are defined, the others are null"
            )
