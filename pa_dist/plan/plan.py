"""What a run would take, found out from a sample and from the models' configs: no weights, no Ray, no run folder."""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence

from pa_dist import schema
from pa_dist.config import Config, Replicas, ThinkPRM
from pa_dist.engine import vllm
from pa_dist.errors import ConfigError, first_line
from pa_dist.models.positions import limited
from pa_dist.plan.assumptions import assumptions
from pa_dist.plan.devices import Speed, speeds
from pa_dist.plan.estimate import Estimate, Figures, total
from pa_dist.plan.flops import BYTES
from pa_dist.plan.measure import Judging, Scoring
from pa_dist.plan.records import DevicePlan, Expected, ModelPlan, Plan, RewardPlan
from pa_dist.plan.sample import READ_BYTES, SIZE, Block, Corpus, blocks, read_corpus
from pa_dist.runtime.blocks import fitting
from pa_dist.runtime.pools import Actors, Node, filled, wide
from pa_dist.store.folder import RunFolder

SAMPLE = 200
HOUR = 3600.0


def plan(
    config: Config,
    *,
    sample: int = SAMPLE,
    device: str | None = None,
    like: str | None = None,
    share: float | None = None,
    read_bytes: int = READ_BYTES,
) -> Plan:
    """Plan a run.

    Args:
      sample: trajectories to tokenise, about.
      device, like, share: as `speeds` takes them.
      read_bytes: of files to read; of a larger corpus a part is.

    Raises:
      PaDistError: a config, a device or a folder that cannot be used.
    """
    found = speeds(config, device, like, share)
    config = _checked(config)
    scoring = _scoring(config, found[0].kind)
    judging = {name: Judging(name, config) for name in config.reward_models}
    with tempfile.TemporaryDirectory(prefix="pa-dist-plan-") as place:
        corpus = read_corpus(config.trajectories, RunFolder(place), config.score.max_length, read_bytes)
    size = _rows_of_blocks(config, corpus, found[0])
    runs = blocks(corpus.table, size, sample)
    measured = [scoring.run(run) for run in runs]
    figures = [run for run, _ in measured]

    def all_of(name: str) -> Estimate:
        return _total(figures, name, corpus)

    models = {model: _model(config, model, scoring, figures, corpus) for model in scoring.models}
    rewards = {name: _reward(judge, runs, corpus) for name, judge in judging.items()}
    counted = int(sum(run["rows"] for run in figures))
    exact = corpus.whole and counted == len(corpus.table)
    return Plan(
        name=config.name,
        files=corpus.files,
        read_files=corpus.read_files,
        bytes=corpus.bytes,
        read_bytes=corpus.read_bytes,
        sampled=counted,
        exact=exact,
        records=corpus.read,
        trajectories=corpus.rows,
        scored=all_of("scored"),
        steps=all_of("steps"),
        truncated=all_of("truncated"),
        truncated_steps=all_of("truncated_steps"),
        action_tokens=all_of("action_tokens"),
        logprobs_bytes=all_of("logprobs_bytes"),
        rejects=_rejects(corpus, [reasons for _, reasons in measured], counted),
        models=models,
        reward_models=rewards,
        devices=[_device(config, speed, models, rewards) for speed in found],
        assumptions=assumptions(config, corpus, size, counted, exact, models, found, scoring.models),
    )


def _checked(config: Config) -> Config:
    """The config, cut to the tokens that its models read, where what is to be planned is there.

    vLLM need not be: it is where the run will be.
    """
    from pa_dist.reward_models import pipeline as judges
    from pa_dist.score.check import check_lengths, check_models, check_pair, check_templates

    here = vllm.installed() is not None
    # Of what vLLM takes as it is, such as several GPUs, transformers on a CPU asks nothing.
    other = {"engine": "hf", "device": "cpu"}
    by_vllm = config.score.engine == "vllm" and not here
    score = config.score.model_copy(update=other) if by_vllm else config.score
    lengths: dict[str, int | None] = {}
    for sections in (config.scoring, *(of for of in config.more_scoring.values() if of.merge is None)):
        try:
            found = check_models(sections.pair, score)
            check_templates(sections)
            check_pair(sections, found)
            check_lengths(sections, found)
        except ConfigError as error:
            raise ConfigError(sections.called(str(error))) from None
        lengths |= {f"{model} of {sections.reference}": n for model, n in found.positions.items()}
    for name, model in config.reward_models.items():
        elsewhere = isinstance(model, ThinkPRM) and not here
        judges.check_reward_model(name, model.model_copy(update=other) if elsewhere else model)
    return config.model_copy(update={"score": limited(config.scoring, lengths).score})


def _scoring(config: Config, kind: str) -> Scoring:
    try:
        return Scoring(config, kind)
    except (OSError, ValueError, RuntimeError, ImportError) as error:  # of a model's own code
        raise ConfigError(f"pair: a model cannot be laid out without its weights: {first_line(error)}") from None


def _rows_of_blocks(config: Config, corpus: Corpus, speed: Speed) -> int:
    settings = config.score
    if settings.rows_per_block != "auto":
        return settings.rows_per_block
    pools = _pools({model: getattr(settings, model) for model in config.pair.pools}, speed, wide(settings))
    # On a device that is only named, one GPU an actor.
    pool = max(pools.values(), key=lambda pool: pool.replicas)
    pool = pool._replace(num_gpus=pool.num_gpus or float(speed.kind != "cpu"))
    each = corpus.size / max(corpus.rows, 1)
    return fitting(corpus.rows, each, pool, settings.batch_tokens, settings.max_length)


def _model(config: Config, model: str, scoring: Scoring, figures: Sequence[Figures], corpus: Corpus) -> ModelPlan:
    shape, engine = scoring.shapes[model], scoring.engines[model]
    plain = config.score.engine == "vllm"
    sections, side = scoring.models[model]
    merged = 0 if config.merge is None or model != "reference" else len(config.merge.references)
    return ModelPlan(
        model=getattr(sections.pair, side),
        parameters=shape.parameters,
        active=shape.matrix_weights + shape.head_weights,
        passes=1 + merged,
        tokens=_total(figures, f"{model} tokens", corpus),
        distinct_tokens=_total(figures, f"{model} distinct_tokens", corpus),
        flops=_total(figures, f"{model} flops", corpus),
        memory=scoring.memory(model),
        apart="vLLM reads no prefix again for prompt log-probs" if plain else engine.apart,
    )


def _reward(judge: Judging, runs: Sequence[Sequence[Block]], corpus: Corpus) -> RewardPlan:
    figures = [judge.run(run) for run in runs]
    names = ("tokens", "generated", "truncated", "rejects", "flops")
    return RewardPlan(
        model=judge.settings.model,
        parameters=judge.shape.parameters,
        weights_bytes=judge.shape.parameters * BYTES[judge.settings.dtype],
        **{name: _total(figures, name, corpus) for name in names},
    )


def _total(figures: Sequence[Figures], name: str, corpus: Corpus) -> Estimate:
    """Of what counts trajectories by their number, of what grows with their texts by the size of these."""
    if name in ("scored", "rejects", "truncated", "truncated_steps", "generated"):
        return total(figures, name, "rows", corpus.rows)
    return total(figures, name, SIZE, corpus.size)


def _rejects(corpus: Corpus, reasons: Sequence[Counter[str]], counted: int) -> list[Expected]:
    """The most frequent first."""
    more = corpus.rows / max(counted, 1)
    found = [Expected("ingest", why, n) for why, n in corpus.rejects.items()]
    found += [Expected("score", why, n * more) for why, n in sum(reasons, Counter()).items()]
    return sorted(found, key=lambda expected: -expected.count)


def _device(
    config: Config, speed: Speed, models: Mapping[str, ModelPlan], rewards: Mapping[str, RewardPlan]
) -> DevicePlan:
    sizes = {name: float(models[name].parameters) for name in schema.MODELS}
    pools = _pools(
        {model: getattr(config.score, model) for model in config.pair.pools}, speed, wide(config.score), sizes
    )
    per_second = {name: speed.per_second.get(name, speed.per_second["reference"]) for name in models}
    seconds = {name: getattr(model, speed.unit).value / per_second[name] for name, model in models.items()}
    # One after the other, when the pair is done.
    further = [name for name in models if name not in schema.MODELS]
    later = (models["reference"].passes - 1) * seconds["reference"] + sum(map(seconds.__getitem__, further))
    width = _width(config, speed)
    width |= dict.fromkeys(further, width["reference"])
    if config.pair.one_base:  # whose actors do one model after the other
        seconds = {"policy": sum(seconds[name] for name in schema.MODELS)}
    alone = {name: seconds[name] / _side_by_side(pool, speed, width[name]) for name, pool in pools.items()}
    last = pools.get("reference", pools["policy"])
    hours = (
        max(alone.values()) * _crowd(pools, speed, width)
        + later / _side_by_side(last, speed, width["reference"]) * _crowd({"reference": last}, speed, width)
    ) / HOUR
    taken = sum(seconds[name] * _idle(pool, speed, width[name]) for name, pool in pools.items())
    taken += later * _idle(last, speed, width["reference"])
    needed = {name: sum(model.memory.values()) for name, model in models.items()}
    at_once = [list(schema.MODELS), *([name] for name in further)]
    return DevicePlan(
        device=speed.name,
        per_second=speed.per_second,
        unit=speed.unit,
        hours=hours,
        # The cores of one machine are one device, whoever works on them.
        device_hours=hours if _one_cpu(speed) else taken / HOUR,
        reward_hours=_reward_hours(config, speed, rewards),
        memory=speed.memory,
        fits={
            name: fits
            for names in at_once
            for name, fits in _fit(
                {name: needed[name] for name in names}, dict.fromkeys(names, last) | pools, speed, width
            ).items()
        },
    )


def _pools(
    pools: Mapping[str, Replicas],
    speed: Speed,
    width: Mapping[str, int] | None = None,
    costs: Mapping[str, float] | None = None,
) -> dict[str, Actors]:
    """The models' actors; on one machine as many as its GPUs would get, elsewhere as few as there can be."""
    here = speed.machine is not None and speed.kind != "cpu"
    nodes = [Node.of(speed.machine or 0, float(os.cpu_count() or 1))] if here else []
    return filled(pools, nodes, width, costs)


def _width(config: Config, speed: Speed) -> dict[str, int]:
    """Devices that a replica of each model is spread over: the cores of a CPU are one."""
    return dict.fromkeys(schema.MODELS, 1) if speed.kind == "cpu" else wide(config.score)


def _gpus(pool: Actors, speed: Speed, width: int) -> float:
    return (pool.num_gpus or float(width)) if speed.kind != "cpu" else 1.0


def _side_by_side(pool: Actors, speed: Speed, width: int) -> float:
    """Whole devices that work on a model at once."""
    return pool.replicas * min(1.0, _gpus(pool, speed, width)) * width


def _idle(pool: Actors, speed: Speed, width: int) -> float:
    """Devices that are held for each one that works."""
    return max(1.0, _gpus(pool, speed, width) / width)


def _one_cpu(speed: Speed) -> bool:
    return speed.kind == "cpu" and speed.machine is not None


def _crowd(pools: Mapping[str, Actors], speed: Speed, width: Mapping[str, int]) -> float:
    """How many times over actors that work at once take the machine's cores, or its GPUs."""
    if speed.machine is None:
        return 1.0
    # Threads beyond the cores made no product faster where its rate was measured.
    held = sum(
        p.replicas * (min(p.num_cpus, speed.machine) if _one_cpu(speed) else _gpus(p, speed, width[name]))
        for name, p in pools.items()
    )
    return max(1.0, held / speed.machine)


def _reward_hours(config: Config, speed: Speed, rewards: Mapping[str, RewardPlan]) -> float | None:
    if any(isinstance(model, ThinkPRM) for model in config.reward_models.values()):
        return None
    hours = 0.0
    for name, plan in rewards.items():
        work: Estimate = plan.flops if speed.unit == "flops" else plan.tokens
        pool = _pools({name: config.reward_models[name]}, speed)[name]
        crowd = _crowd({name: pool}, speed, {name: 1})
        hours += work.value / speed.per_second["policy"] / pool.replicas * crowd / HOUR
    return hours


def _fit(
    needed: Mapping[str, int], pools: Mapping[str, Actors], speed: Speed, width: Mapping[str, int]
) -> dict[str, bool | None]:
    """Whether a replica's memory is there, of each model; on one machine's CPU that of all replicas of both."""
    if speed.memory is None:
        return dict.fromkeys(needed)
    if not _one_cpu(speed):
        return {name: n <= speed.memory * _gpus(pools[name], speed, width[name]) for name, n in needed.items()}
    each = {name: n * pools[name].replicas for name, n in needed.items()}
    alone = {name: n <= speed.memory for name, n in each.items()}
    together = sum(each.values()) <= speed.memory
    return dict.fromkeys(alone, together) if all(alone.values()) else {**alone}
