"""The stages of a run in order; what costs is skipped when it finished with the same settings."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pa_dist import cluster, schema
from pa_dist.config import Config, Evaluate, Ray, Replicas, ThinkPRM, Trajectories
from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.ingest.left_behind import in_words
from pa_dist.ingest.sources import expand, look_up
from pa_dist.ingest.stage import Counts, ingest
from pa_dist.lease import held
from pa_dist.merge import sweep
from pa_dist.reduce.methods import RewardMethod
from pa_dist.reduce.stage import Summary, evaluate
from pa_dist.reward_models.target import asked as judges
from pa_dist.reward_models.target import target
from pa_dist.run import CHECKPOINT, REPORT, RunFolder, without_secrets
from pa_dist.score import truncation, vllm
from pa_dist.score.positions import limited
from pa_dist.score.settle import LOGPROBS, Settled, Target, settle_again

VERSIONS = ("pa-dist", "torch", "transformers", "tokenizers", "ray", "pyarrow", "numpy")
# Of these, the ones that decide numbers: a folder scored with others, wholly or in part, is refused.
SCORING_VERSIONS = VERSIONS[:4]
# Of an ingest that kept nothing; there may be millions.
_REASONS_READ = 100_000

Say = Callable[[str], None]


def run(config: Config, say: Say, *, fresh: bool = False) -> Summary:
    """Ingest, score, ask the reward models, evaluate. What finished with these settings is skipped, but for the last.

    With `merge` set, the run is scored as without, and then each merged reference.

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
    ingested = folder.is_done("ingest", ingest_settings(config.trajectories))
    asked = [folder, *sweep.asked(folder, config.merge)]
    known = limited(config, folder.manifest["stages"].get("score", {}).get("positions", {}))
    # Alphas of one folder are one sweep: also those that this config does not ask for have to be of its settings.
    settings = {part: score_settings(known, part.alpha) for part in (*asked, *sweep.begun(folder))}
    scored = {part: part.is_done("score", its) for part, its in settings.items()}
    folder.remember(config=without_secrets(config.model_dump(mode="json")), versions=_versions(VERSIONS))
    left = [part for part in asked if not scored[part]]
    facts: dict[str, Any] = {}
    if left or not ingested:
        cluster.look_for(config.ray)
    if left:
        config, facts = _checked(config, folder, folder.logged(say))
        # As they are with the tokens that the models can read.
        settings = {part: score_settings(config, part.alpha) for part in asked}
    if left or not ingested:
        cluster.connect(config.ray, config.score, config.reward_models.values())
        if config.ray.check_resources:
            cluster.check(cluster.share_out(config.score))
        else:
            cluster.check_named({"policy": config.score.policy, "reference": config.score.reference})
    ingest_files(config.trajectories, folder, say, config.ray)
    for part in asked:
        if scored[part]:
            part.logged(say)("score: done before")
        else:
            if part.alpha is not None:
                _settle_late(folder, LOGPROBS)  # which the policy's columns are read from
            _score(config, part, settings[part], facts, part.logged(say))
        _refuse_nothing(part)


def _checked(config: Config, folder: RunFolder, say: Say) -> tuple[Config, dict[str, Any]]:
    """The config, with both models checked, pinned to the commits that the run began with and cut to what they read.

    Returns:
      It, and facts for the manifest: what is loaded, and the tokens that each model reads at most.
    """
    # Slow to import, and not needed where nothing is left to score.
    from pa_dist.score.actors import tokenizer
    from pa_dist.score.check import check, check_lengths, check_pair, check_templates, pinned

    found = check(config.pair, config.score)
    check_templates(config)
    said = [*check_pair(config, found), *check_lengths(config, found)]
    # A name on the Hub may come to mean other weights: a run goes on with those it began with.
    pair = pinned(config.pair, folder.manifest["stages"].get("score", {}).get("commits", {}))
    if config.merge is not None:
        from pa_dist.merge.check import check_merge

        check_merge(pair, config.merge, (tokenizer(pair, "policy"), tokenizer(pair, "reference")))
    for line in said:
        say(f"score: {line}")
    config = limited(config.model_copy(update={"pair": pair}), found.positions)
    return config, {"loaded": found.loaded, "positions": found.positions, "max_length": config.score.max_length}


def _score(config: Config, folder: RunFolder, settings: dict[str, Any], found: dict[str, Any], say: Say) -> None:
    from pa_dist.score.actors import templates_of
    from pa_dist.score.pipeline import score
    from pa_dist.score.reasoning import left_out, said

    began = time.perf_counter()
    if "score" not in folder.manifest["stages"]:
        for table_name, prefix in (("logprobs", ""), ("rejects", "score-"), (CHECKPOINT, "")):
            folder.clear(table_name, prefix)
    folder.start("score", settings, commits={m: getattr(config.pair, f"{m}_revision") for m in schema.MODELS}, **found)
    facts = score(config, folder)
    cut = truncation.count(folder, _tasks("truncation"))
    unseen = {} if folder.alpha is not None else left_out(folder, templates_of(config), _tasks("reasoning"))
    folder.finish("score", **facts, truncated=cut, reasoning_left_out=unseen, seconds=_since(began))
    folder.filesystem.delete_dir_contents(folder.path(CHECKPOINT), missing_dir_ok=True)
    earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
    say(f"score: {facts['rows']} trajectories scored, {facts['rejects']} rejected{earlier} ({_since(began)} s)")
    for line in (truncation.said(folder.manifest["stages"]["score"]), said(config.render, unseen)):
        if line:
            say(f"score: {line}")
    for model, done in facts["models"].items():
        if not done["rows"]:
            continue
        if reasons := {place["prefixes_apart"] for place in done["actors"]} - {None, "as asked"}:
            say(f"score: the {model}'s prefixes were not shared: {min(reasons)}")
        rate = done["share_of_matrix_rate"]
        say(
            f"score: {model}: {done['tokens']:,} tokens at {done['tokens_per_second']:,.0f} a second and actor, "
            f"{done['share_saved']:.0%} of them shared{'' if rate is None else f', {rate:.0%} of the matrix rate'}"
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
        _refuse_none_kept(folder)
        say("ingest: done before")
        return
    began = time.perf_counter()
    cluster.connect(ray)
    folder.start("ingest", settings)
    sources, twice = look_up(trajectories.paths)
    counts = ingest(trajectories, folder, _tasks("ingest"), sources)
    folder.finish("ingest", **asdict(counts), seconds=_since(began))
    if counts.formats:
        say(f"ingest: recognised {', '.join(f'{n} files as {name}' for name, n in counts.formats.items())}")
    if twice:
        name, first = twice[0]
        say(f"ingest: read once, though links lead there too: {first} (also {name}){_others(len(twice) - 1)}")
    beyond = f", {counts.left_out_by_limit} beyond the limit" if counts.left_out_by_limit else ""
    say(
        f"ingest: {counts.kept} trajectories kept, {counts.rejected} rejected{beyond}, of {counts.read} in "
        f"{counts.sources} files ({_since(began)} s)"
    )
    for line in _said_of(counts):
        say(f"ingest: {line}")
    _refuse_none_kept(folder)


def _said_of(counts: Counts) -> Iterator[str]:
    """What a reader of the table should know of how it was made."""
    if counts.told_apart:
        labels = ", ".join(f"by {name} {n:,}" for name, n in counts.told_apart.items())
        yield f"ids that several trajectories share were told apart: {labels}"
    left = [
        f"{what}: {in_words(found)}"
        for what, found in (("of messages", counts.left_behind), ("of records, kept in extra only", counts.unread))
        if found
    ]
    if left:
        yield f"left behind {'; '.join(left)}"


def _refuse_none_kept(folder: RunFolder) -> None:
    """Raise `PaDistError` where ingest kept nothing, as `_refuse_nothing` does of scoring."""
    if folder.manifest["stages"]["ingest"]["kept"]:
        return
    table = folder.dataset("rejects").scanner(["reason"], filter=pc.field("stage") == "ingest").head(_REASONS_READ)
    reasons = Counter(table["reason"].to_pylist())
    told = "; ".join(f"{n}: {reason}" for reason, n in reasons.most_common(3)) or "no record was found"
    raise PaDistError(f"ingest: no trajectory could be kept; of {reasons.total()} rejects, {told}")


def evaluate_folder(folder: RunFolder, settings: Evaluate, say: Say, ray: Ray) -> Summary:
    """The last stage. It is a cheap reading of the columns, so other settings replace its tables without asking.

    Of a sweep every merged reference that is scored is evaluated as well, and `alphas.parquet` has all their metrics;
    of an alpha's part only that one, and the table takes its metrics if their settings are the run's.

    Raises:
      RunFolderError: the folder holds no finished scores, or rows that scoring did not leave there.
    """
    if not folder.manifest["stages"].get("score", {}).get("done"):  # before a mistyped folder is made
        raise RunFolderError(f"{folder}: nothing scored here yet; `pa-dist score CONFIG` comes first")
    with held(folder.whole):
        summary = _evaluate_folder(folder, settings, say, ray)
        if folder.alpha is None:
            for part in sweep.begun(folder):
                if part.manifest["stages"].get("score", {}).get("done"):
                    _evaluate_folder(part, settings, say, ray)
        _gather_alphas(folder.whole, folder.whole.logged(say))
        return summary


def _gather_alphas(run: RunFolder, say: Say) -> None:
    """Write the table of all alphas' metrics. It compares them, so those of other settings have no place in it."""
    evaluated = {
        part: record["settings"]
        for part in (run, *sweep.begun(run))
        if (record := part.manifest["stages"].get("evaluate", {})).get("done")
    }
    parts = [part for part in evaluated if part.alpha is not None]
    if not parts or run not in evaluated:
        return
    if others := [part.label.rstrip(": ") for part in parts if evaluated[part] != evaluated[run]]:
        say(f"alphas: alphas.parquet stays as it was: {', '.join(others)} evaluated with other settings than the run")
        return
    sweep.write_alphas(run, parts)
    say(f"alphas: the metrics of {len(parts) + 1} alphas are in alphas.parquet")


def _evaluate_folder(folder: RunFolder, settings: Evaluate, say: Say, ray: Ray) -> Summary:
    scored = folder.manifest["stages"]["score"]
    say = folder.logged(say)
    began = time.perf_counter()
    cluster.connect(ray)
    stages = folder.manifest["stages"]
    judged = [name for name in judges(stages) if stages[target(name).stage]["done"]]
    for into in (LOGPROBS, *map(target, judged)):
        _settle_late(folder, into)
    rewards = [RewardMethod(name, stages[target(name).stage]["judges_steps"]) for name in judged]
    folder.filesystem.delete_dir_contents(folder.path(REPORT), missing_dir_ok=True)  # which shows the one before
    folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
    summary = evaluate(settings, folder, _tasks("evaluate"), rewards)
    folder.finish("evaluate", **asdict(summary), seconds=_since(began))
    found = f"{summary.metrics} metrics of {', '.join(summary.scenarios) or 'no scenario'}"
    why = f": {summary.note}" if summary.note else ""
    steps = f"{summary.scored_steps} of {summary.steps} steps with an advantage{truncation.in_short(scored)}"
    say(f"evaluate: {summary.trajectories} trajectories, {steps}, {found}{why} ({_since(began)} s)")
    if summary.apart:
        say(
            f"evaluate: the models read {summary.apart} of {summary.trajectories} trajectories as different tokens: of "
            "their advantages only the sums over a step's tokens are defined, the others are null"
        )
    return summary


def _settle_late(folder: RunFolder, into: Target) -> None:
    """Raise `RunFolderError` where a table does not hold the trajectories that its stage left in it."""
    record = folder.manifest["stages"][into.stage]
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


def score_settings(config: Config, alpha: float | None = None) -> dict[str, Any]:
    """What decides the log-prob columns, of an alpha's where one is given; how many actors make them does not."""
    deciding = {"engine", "dtype", "max_length", "top_k", "attn_implementation"}
    settings: dict[str, Any] = {
        "pair": config.pair.model_dump(mode="json"),
        "weights": {model: _weights(getattr(config.pair, model)) for model in ("policy", "reference")},
        "render": config.render.model_dump(mode="json"),
        "score": config.score.model_dump(mode="json", include=deciding),
        "versions": _scoring_versions(config.score.engine),
    }
    if config.merge is not None and alpha is not None:
        settings["merge"] = {**config.merge.model_dump(mode="json", exclude={"alphas"}), "alpha": alpha}
    return settings


def reward_settings(config: Config, name: str) -> dict[str, Any]:
    """What decides a reward model's scores."""
    model = config.reward_models[name]
    not_deciding = {*Replicas.model_fields, "device", "rows_per_block", "batch_tokens", "gpu_memory"}
    return {
        "model": model.model_dump(mode="json", exclude=not_deciding),
        "weights": _weights(model.model),
        "actions": config.render.actions,
        "versions": _scoring_versions(model.engine if isinstance(model, ThinkPRM) else "hf"),
    }


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in names}


def _scoring_versions(engine: str) -> dict[str, str | None]:
    return _versions(SCORING_VERSIONS) | ({"vllm": vllm.installed()} if engine == "vllm" else {})


def _weights(name: str) -> str | None:
    """Digest of a model folder's files by name, size and time; null for a model on the Hub."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return _digest("\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files))


def _others(n: int) -> str:
    return f", and {n} more" if n else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tasks(label: str) -> Any:
    return partial(cluster.map_tasks, label=label)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)
