"""What a plan said beside what the run then used."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from benchmarks.memory import peak_above
from pa_dist import schema
from pa_dist.config import Config
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.precision import dtype_on
from pa_dist.engine.protocol import TokenRow, score_rows
from pa_dist.plan.plan import plan
from pa_dist.plan.records import Plan
from pa_dist.score import rows
from pa_dist.score.check import shares_tokens
from pa_dist.score.scorer import Tokenize
from pa_dist.stages import ingest_and_score
from pa_dist.store.folder import RunFolder

Figures = dict[str, float]


def compare(config: Config, sample: int, device: str | None, like: str | None) -> tuple[Figures, Figures]:
    """Plan a run and do it.

    Args:
      config: its output must be an empty folder.
      device, like: of `plan`, one device.

    Returns:
      Figures that were planned and used, by name; of time the seconds of each model's actors, and of the stage.
    """
    before = plan(config, sample=sample, device=device, like=like)
    ingest_and_score(config, print)
    ray.shutdown()
    folder = RunFolder(config.output)
    return planned(before) | _planned_seconds(before), used(folder) | _used_seconds(folder)


def planned(found: Plan) -> Figures:
    """A plan's totals."""
    models = {
        f"{name} {figure}": getattr(model, figure).value
        for name, model in found.models.items()
        for figure in ("tokens", "distinct_tokens", "flops")
    }
    return {
        "trajectories": found.trajectories,
        "scored": found.scored.value,
        "rejects": sum(reject.count for reject in found.rejects),
        "steps": found.steps.value,
        "truncated_steps": found.truncated_steps.value,
        "action_tokens": found.action_tokens.value,
        "logprobs_bytes": found.logprobs_bytes.value,
        **models,
    }


def used(folder: RunFolder) -> Figures:
    """The same of a run, from its manifest and its tables."""
    stages = folder.manifest["stages"]
    logprobs = folder.dataset("logprobs", schema.LOGPROBS).to_table(columns=["truncated", "token_ids"])
    cut = pc.list_flatten(logprobs["truncated"])
    files = folder.filesystem.get_file_info(folder.parts("logprobs"))
    models = {
        f"{name} {figure}": model[figure]
        for name, model in stages["score"]["models"].items()
        for figure in ("tokens", "distinct_tokens", "flops")
    }
    return {
        "trajectories": stages["ingest"]["kept"],
        "scored": stages["score"]["rows"],
        "rejects": folder.count("rejects"),
        "steps": len(cut),
        "truncated_steps": pc.sum(cut).as_py() or 0,
        "action_tokens": len(pc.list_flatten(pc.list_flatten(logprobs["token_ids"]))),
        "logprobs_bytes": sum(file.size for file in files),
        **models,
    }


def _planned_seconds(found: Plan) -> Figures:
    (device,) = found.devices
    busy = {
        f"{name} seconds": getattr(model, device.unit).value / device.per_second[name]
        for name, model in found.models.items()
    }
    return {**busy, "seconds": device.hours * 3600}


def _used_seconds(folder: RunFolder) -> Figures:
    stage = folder.manifest["stages"]["score"]
    return {
        **{f"{name} seconds": model["seconds"] for name, model in stage["models"].items()},
        "seconds": stage["seconds"],
    }


def memory(config: Config) -> Figures:
    """Bytes beyond a loaded policy: what scoring a run's first block takes at its peak, in a process of its own."""
    return {"memory above the weights": peak_above(_prepare, _work, config)}


def block(config: Config) -> int:
    """Trajectories of the block whose memory is measured."""
    asked = config.score.rows_per_block
    return 16 if asked == "auto" else asked


def planned_memory(found: Plan) -> Figures:
    """The same of a plan."""
    parts = found.models["policy"].memory
    return {"memory above the weights": sum(parts.values()) - parts["weights"]}


def _prepare(config: Config) -> tuple[HFEngine, list[TokenRow]]:
    table: pa.Table = RunFolder(config.output).dataset("trajectories", schema.TRAJECTORIES).to_table()
    folder: Any = None
    tokenize = Tokenize(config.scoring, folder, shares_tokens(config.scoring), tally=None)
    ((tokens, _),) = tokenize.tokenize([table.slice(0, block(config))])
    engine = HFEngine(
        load_model(config.pair.policy, dtype=dtype_on("cpu", config.score.dtype)),
        top_k=config.score.top_k,
        batch_tokens=config.score.batch_tokens,
        share_prefixes=config.score.prefix_sharing == "auto",
    )
    return engine, rows.token_rows(tokens, "policy")


def _work(prepared: tuple[HFEngine, list[TokenRow]]) -> None:
    score_rows(*prepared)


def report(planned: Figures, used: Figures) -> None:
    """Print a line a figure: planned, used, and planned over used."""
    for name, amount in used.items():
        ratio = f"{planned[name] / amount:7.3f}" if amount else "      -"
        print(f"{name:28} {planned[name]:20,.1f} {amount:20,.1f} {ratio}", flush=True)
