"""The whole job on one page: the stages in order, all checks before the first of them, and what is done left alone."""

from collections.abc import Sequence

from pa_dist.config import Config, Evaluate, Ray, Trajectories
from pa_dist.errors import ConfigError, PaDistError, RunFolderError
from pa_dist.ingest.labels.stage import LabelsStage
from pa_dist.ingest.stage import IngestStage
from pa_dist.models.fingerprint import versions
from pa_dist.reduce.evaluate import Summary
from pa_dist.reduce.stage import EvaluateStage
from pa_dist.reward_models.stage import RewardStage
from pa_dist.runtime import cluster
from pa_dist.runtime.targets import LOGPROBS, reference_target
from pa_dist.score.stage import ScoreStage
from pa_dist.stage import Say, Stage
from pa_dist.store.folder import RunFolder, without_secrets
from pa_dist.store.lease import held


def stages(config: Config) -> list[Stage]:
    """What a run is made of. `report` then shows it."""
    folder = RunFolder(config.output)
    judges = config.reward_models.items()
    further = [ScoreStage(folder, of, reference_target(name)) for name, of in config.more_scoring.items()]
    return [
        IngestStage(folder, config.trajectories),
        ScoreStage(folder, config.scoring, LOGPROBS, further),
        *further,
        *(RewardStage(folder, name, model, config.render.actions) for name, model in judges),
        EvaluateStage(folder, config.evaluate, LabelsStage(folder, config.evaluate.labels), config.reward_models),
    ]


def run(config: Config, say: Say, *, fresh: bool = False) -> Summary:
    """All stages. What finished with these settings is skipped, but for the last.

    Args:
      say: is told one line a stage.
      fresh: delete what an earlier run left in the output folder first.

    Raises:
      PaDistError: a config, cluster or run folder that cannot be used.
    """
    folder = RunFolder(config.output)
    with held(folder):
        ingest_and_score(config, say, fresh=fresh)
        return evaluate_folder(folder, config.evaluate, say, config.ray)


def ingest_and_score(config: Config, say: Say, *, fresh: bool = False) -> None:
    """The stages of `run` but for the last. Raises as it does."""
    folder = RunFolder(config.output)
    with held(folder):
        if fresh:
            folder.start_over()
        *before, last = stages(config)
        left = [stage for stage in before if not stage.is_done()]
        folder.remember(config=without_secrets(config.model_dump(mode="json")), versions=versions())
        if left:
            cluster.look_for(config.ray)
            check([*left, last], say)
            cluster.connect(config.ray, config.score, config.reward_models.values())
            for stage in left:
                stage.check_cluster(complete=config.ray.check_resources)
        for stage in before:
            if stage in left:
                stage.run(say)
            else:
                stage.say_done(say)


def check(left: Sequence[Stage], say: Say) -> None:
    """Have all stages find out whether they can run.

    Raises:
      PaDistError: what they found, all of it in one line.
    """
    faults = []
    for stage in left:
        try:
            stage.check(say)
        except PaDistError as error:
            faults.append(error)
    if len(faults) > 1:
        # Stages that share a model find the same wrong with it.
        raise ConfigError("; ".join(dict.fromkeys(part for fault in faults for part in str(fault).split("; "))))
    for fault in faults:
        raise fault


def ingest_files(trajectories: Trajectories, folder: RunFolder, say: Say, ray: Ray, *, fresh: bool = False) -> None:
    """The first stage alone.

    Raises:
      PaDistError: a path, cluster or run folder that cannot be used.
    """
    with held(folder):
        if fresh:
            folder.start_over()
        stage = IngestStage(folder, trajectories)
        if stage.is_done():
            stage.say_done(say)
        else:
            cluster.connect(ray)
            stage.run(say)


def evaluate_folder(folder: RunFolder, settings: Evaluate, say: Say, ray: Ray) -> Summary:
    """The last stage.

    Raises:
      RunFolderError: the folder holds no finished scores, or rows that scoring did not leave there.
    """
    if not folder.manifest["stages"].get("score", {}).get("done"):  # before a mistyped folder is made
        raise RunFolderError(f"{folder}: nothing scored here yet; `pa-dist score CONFIG` comes first")
    with held(folder):
        stage = EvaluateStage(folder, settings, LabelsStage(folder, settings.labels))
        stage.check(say)
        cluster.connect(ray)
        stage.run(say)
        assert stage.summary is not None
        return stage.summary
