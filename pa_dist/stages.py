"""The stages of a run in order; what costs is skipped when it finished with the same settings."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pa_dist import cluster, schema
from pa_dist.config import Config, Evaluate, Ray, Replicas, Trajectories
from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.ingest.sources import expand
from pa_dist.ingest.stage import ingest
from pa_dist.lease import held
from pa_dist.reduce.methods import RewardMethod
from pa_dist.reduce.stage import Summary, evaluate
from pa_dist.reward_models.target import asked, target
from pa_dist.run import CHECKPOINT, RunFolder, without_secrets
from pa_dist.score.settle import LOGPROBS, Settled, Target, settle_again

VERSIONS = ("pa-dist", "torch", "transformers", "tokenizers", "ray", "pyarrow", "numpy")
# Of these, the ones that decide numbers: a folder scored with others, wholly or in part, is refused.
SCORING_VERSIONS = VERSIONS[:4]

Say = Callable[[str], None]


def run(config: Config, say: Say, *, fresh: bool = False) -> Summary:
    """Ingest, score, ask the reward models, evaluate. What finished with these settings is skipped, but for the last.

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
        settings = {name: reward_settings(config, name) for name in config.reward_models}
        left = [name for name in settings if not folder.is_done(target(name).stage, settings[name])]
        if left:
            # Slow to import, and not needed where nothing is left to judge.
            from pa_dist.reward_models.stage import ask, check_all

            check_all(config, left)
        _ingest_and_score(config, folder, say)
        for name in settings:
            if name in left:
                ask(config, name, settings[name], folder, folder.logged(say))
            else:
                folder.logged(say)(f"{target(name).stage}: done before")


def _ingest_and_score(config: Config, folder: RunFolder, say: Say) -> None:
    pending = ingest_settings(config.trajectories), score_settings(config)
    done = [folder.is_done(stage, settings) for stage, settings in zip(("ingest", "score"), pending, strict=True)]
    folder.remember(config=without_secrets(config.model_dump(mode="json")), versions=_versions(VERSIONS))
    if not done[1]:
        # Slow to import, and not needed where nothing is left to score.
        from pa_dist.score.pipeline import check, pinned, score

        check(config.pair, config.score)
    if not all(done):
        cluster.connect(config.ray, config.score, config.reward_models.values())
        if config.ray.check_resources:
            cluster.check(cluster.share_out(config.score))
        else:
            cluster.check_named({"policy": config.score.policy, "reference": config.score.reference})
    ingest_files(config.trajectories, folder, say, config.ray)
    say = folder.logged(say)
    if done[1]:
        say("score: done before")
        _refuse_nothing(folder)
        return

    began = time.perf_counter()
    if "score" not in folder.manifest["stages"]:
        for table_name, prefix in (("logprobs", ""), ("rejects", "score-"), (CHECKPOINT, "")):
            folder.clear(table_name, prefix)
    # A name on the Hub may come to mean other weights: a run goes on with those it began with.
    before = folder.manifest["stages"].get("score", {}).get("commits", {})
    pair = pinned(config.pair, before)
    folder.start("score", pending[1], commits={m: getattr(pair, f"{m}_revision") for m in schema.MODELS})
    facts = score(config.model_copy(update={"pair": pair}), folder)
    folder.finish("score", **facts, seconds=_since(began))
    folder.filesystem.delete_dir_contents(folder.path(CHECKPOINT), missing_dir_ok=True)
    earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
    say(f"score: {facts['rows']} trajectories scored, {facts['rejects']} rejected{earlier} ({_since(began)} s)")
    _refuse_nothing(folder)
    for model, done in facts["models"].items():
        if not done["rows"]:
            continue
        if reasons := {place["prefixes_apart"] for place in done["actors"]} - {None, "as asked"}:
            say(f"score: the {model}'s prefixes were not shared: {min(reasons)}")
        say(
            f"score: {model}: {done['tokens']:,} tokens at {done['tokens_per_second']:,.0f} a second and actor, "
            f"{done['share_saved']:.0%} of them shared, {done['share_of_matrix_rate'] or 0:.0%} of the matrix rate"
        )


def _refuse_nothing(folder: RunFolder) -> None:
    """Raise `PaDistError` where no trajectory was scored: nobody asks for that, and a script should notice."""
    record = folder.manifest["stages"]["score"]
    if record["rows"] == 0 and record["rejects"]:
        reasons = folder.dataset("rejects").to_table(columns=["reason"], filter=pc.field("stage") == "score")["reason"]
        ((reason, n),) = Counter(reasons.to_pylist()).most_common(1)
        raise PaDistError(f"score: no trajectory could be scored; of {len(reasons)} rejects, {n}: {reason}")


def ingest_files(trajectories: Trajectories, folder: RunFolder, say: Say, ray: Ray, *, fresh: bool = False) -> None:
    """The first stage alone.

    Raises:
      PaDistError: a path, cluster or run folder that cannot be used.
    """
    with held(folder):
        if fresh:
            folder.start_over()
        _ingest_files(trajectories, folder, say, ray)


def _ingest_files(trajectories: Trajectories, folder: RunFolder, say: Say, ray: Ray) -> None:
    say = folder.logged(say)
    settings = ingest_settings(trajectories)
    if folder.is_done("ingest", settings):
        kept, held_now = folder.manifest["stages"]["ingest"]["kept"], folder.count("trajectories")
        if kept != held_now:
            raise RunFolderError(
                f"{folder}: trajectories holds {held_now} rows and ingest left {kept}; --fresh starts over"
            )
        say("ingest: done before")
        return
    began = time.perf_counter()
    cluster.connect(ray)
    folder.start("ingest", settings)
    counts = ingest(trajectories, folder, _tasks("ingest"))
    folder.finish("ingest", **asdict(counts), seconds=_since(began))
    if counts.formats:
        say(f"ingest: recognised {', '.join(f'{n} files as {name}' for name, n in counts.formats.items())}")
    beyond = f", {counts.left_out_by_limit} beyond the limit" if counts.left_out_by_limit else ""
    say(
        f"ingest: {counts.kept} trajectories kept, {counts.rejected} rejected{beyond}, of {counts.read} in "
        f"{counts.sources} files ({_since(began)} s)"
    )


def evaluate_folder(folder: RunFolder, settings: Evaluate, say: Say, ray: Ray) -> Summary:
    """The last stage. It is a cheap reading of the columns, so other settings replace its tables without asking.

    Raises:
      RunFolderError: the folder holds no finished scores, or rows that scoring did not leave there.
    """
    with held(folder):
        return _evaluate_folder(folder, settings, say, ray)


def _evaluate_folder(folder: RunFolder, settings: Evaluate, say: Say, ray: Ray) -> Summary:
    scored = folder.manifest["stages"].get("score", {})
    if not scored.get("done"):
        raise RunFolderError(f"{folder}: nothing scored here yet; `pa-dist score CONFIG` comes first")
    say = folder.logged(say)
    began = time.perf_counter()
    cluster.connect(ray)
    stages = folder.manifest["stages"]
    judged = [name for name in asked(stages) if stages[target(name).stage]["done"]]
    for into in (LOGPROBS, *map(target, judged)):
        _settle_late(folder, into, stages[into.stage])
    rewards = [RewardMethod(name, stages[target(name).stage]["judges_steps"]) for name in judged]
    folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
    summary = evaluate(settings, folder, _tasks("evaluate"), rewards)
    folder.finish("evaluate", **asdict(summary), seconds=_since(began))
    found = f"{summary.metrics} metrics of {', '.join(summary.scenarios) or 'no scenario'}"
    why = f": {summary.note}" if summary.note else ""
    say(f"evaluate: {summary.trajectories} trajectories, {summary.steps} steps, {found}{why} ({_since(began)} s)")
    return summary


def _settle_late(folder: RunFolder, into: Target, record: dict[str, Any]) -> None:
    """Raise `RunFolderError` where a table does not hold the trajectories that its stage left in it."""
    left = Settled(record["rows"], record["rejects"])
    if (folder.count(into.table), folder.count("rejects", into.rejects)) == left[:2]:
        return
    # Perhaps a worker that outlived a killed run wrote what another one had written.
    (there,) = cluster.map_tasks(partial(settle_again, target=into), [folder])
    if sum(there) != sum(left):
        raise RunFolderError(
            f"{folder}: {into.table} and rejects hold {sum(there)} trajectories and scoring left {sum(left)}; "
            "--fresh starts over"
        )
    folder.finish(into.stage, rows=there.rows, rejects=there.rejects)


def ingest_settings(trajectories: Trajectories) -> dict[str, Any]:
    """What decides the `trajectories` table: the config's section, and the files with their sizes and times."""
    files = "\n".join(f"{source.name} {source.size} {source.modified}" for source in expand(trajectories.paths))
    return {"trajectories": without_secrets(trajectories.model_dump(mode="json")), "files": _digest(files)}


def score_settings(config: Config) -> dict[str, Any]:
    """What decides the log-prob columns; how many actors make them does not."""
    deciding = {"engine", "dtype", "max_length", "top_k", "attn_implementation"}
    return {
        "pair": config.pair.model_dump(mode="json"),
        "weights": {model: _weights(getattr(config.pair, model)) for model in ("policy", "reference")},
        "render": config.render.model_dump(mode="json"),
        "score": config.score.model_dump(mode="json", include=deciding),
        "versions": _versions(SCORING_VERSIONS),
    }


def reward_settings(config: Config, name: str) -> dict[str, Any]:
    """What decides a reward model's scores."""
    model = config.reward_models[name]
    not_deciding = {*Replicas.model_fields, "device", "rows_per_block", "batch_tokens", "gpu_memory"}
    return {
        "model": model.model_dump(mode="json", exclude=not_deciding),
        "weights": _weights(model.model),
        "actions": config.render.actions,
        "versions": _versions(SCORING_VERSIONS),
    }


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in names}


def _weights(name: str) -> str | None:
    """Digest of a model folder's files by name, size and time; null for a model on the Hub."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return _digest("\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tasks(label: str) -> Any:
    return partial(cluster.map_tasks, label=label)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)
