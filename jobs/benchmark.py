"""Benchmarks: scoring and reductions against the plain loops and the machine's limit; the viewer at scale."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pa_dist.cli import guarded

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Model = Annotated[str, typer.Option(help="folder or Hub name of a causal language model")]
Data = Annotated[Path, typer.Option(help="folder with tau2/ and tau_bench/")]
DATA = Path(os.environ.get("PA_DIST_DATA", "../shared/data"))


@app.command()
def score(
    model: Model,
    data: Data = DATA,
    dtype: Annotated[list[str], typer.Option(help="float32, bfloat16 or both")] = ["float32", "bfloat16"],  # noqa: B006
    device: Annotated[str, typer.Option()] = "cpu",
    tokens: Annotated[int, typer.Option(help="tokens of each corpus")] = 12_000,
    max_length: Annotated[int, typer.Option(help="longer trajectories are left out")] = 3072,
    repeats: Annotated[int, typer.Option()] = 3,
    memory_length: Annotated[int, typer.Option(help="tokens of the sequence for peak memory; 0 skips it")] = 8192,
) -> None:
    """Score three corpora by the plain loop, by it with fewer logits, and as this package does, in one process.

    Where vLLM is installed, by it as well.
    """
    from benchmarks import scoring
    from benchmarks.corpora import corpora
    from benchmarks.vllm_loop import vllm_scorer

    from pa_dist.engine.load import load_model
    from pa_dist.engine.tokens import load_tokenizer

    scoring.describe(device)
    sets = corpora(data, load_tokenizer(model), tokens, max_length)
    for name in dtype:
        vllm = vllm_scorer(model, name, max_length)
        others = {} if vllm is None else {"vLLM": vllm}
        loaded = load_model(model, dtype=name, device=device)
        for corpus, sequences in sets.items():
            print(f"{name}, {corpus}:")
            scoring.report(scoring.compare(loaded, sequences, repeats, others))
        del loaded, vllm, others
        if memory_length:
            scoring.report_memory(scoring.peak_memory(model, name, device, memory_length), name, memory_length)


@app.command()
def pipeline(
    model: Model,
    data: Data = DATA,
    dtype: Annotated[str, typer.Option()] = "float32",
    limit: Annotated[int, typer.Option(help="trajectories")] = 12,
) -> None:
    """The Ray pipeline against engines without Ray, and two actors against one."""
    from benchmarks.pipeline import compare

    with tempfile.TemporaryDirectory() as place:
        s = compare(model, dtype, data.resolve(), place, limit)
    print(f"{os.cpu_count()} cores; seconds: {s}")
    print(f"pipeline / two engines without Ray: {s['two'] / s['pipeline']:.2f}")
    print(f"two actors / one engine: {2 * s['one'] / s['pipeline']:.2f}; without Ray {2 * s['one'] / s['two']:.2f}")


@app.command()
def checkpoint(
    trajectories: Annotated[int, typer.Option()] = 10_000,
    rows_per_block: Annotated[int, typer.Option(help="as `score.rows_per_block`")] = 16,
    repeats: Annotated[int, typer.Option()] = 2,
) -> None:
    """Scoring with every block committed against scoring without, on the demo's small pair: the least work a block."""
    from benchmarks.checkpoint import compare

    with tempfile.TemporaryDirectory() as place:
        seconds = compare(Path(place), trajectories, rows_per_block, repeats)
    more = [(a - b) / (trajectories / rows_per_block) for a, b in zip(*seconds.values(), strict=True)]
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"{os.cpu_count()} cores; {trajectories:,} trajectories, {rows_per_block} a block; seconds: {seconds}")
    print(f"with / without: {min(ratios):.3f} to {max(ratios):.3f}; a block {min(more):.4f} to {max(more):.4f} s more")


@app.command()
def engines(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; its output is not touched")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")] = None,
) -> None:
    """A config scored by vLLM and by HF, each in a Ray pipeline of its own: the largest difference of each column."""
    from benchmarks.vllm_loop import differences

    from pa_dist.config import load

    with tempfile.TemporaryDirectory() as place:
        found = differences(load(config, overrides), place)
    for name, difference in found.items():
        print(f"{name:30} {'null' if difference is None else f'{difference:.1e}'}")
    print(f"{'largest':30} {max(d for d in found.values() if d is not None):.1e}")


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML file; its output is not touched")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")] = None,
    sample: Annotated[int, typer.Option(help="as of `pa-dist plan`")] = 200,
    device: Annotated[str, typer.Option(help="as of `pa-dist plan`")] = "here",
    like: Annotated[str | None, typer.Option(help="as of `pa-dist plan`")] = None,
    memory: Annotated[bool, typer.Option(help="measure the peak of the first block too")] = False,
) -> None:
    """A config planned and then scored: what was planned, what was used, and their ratio."""
    from benchmarks import planning

    from pa_dist.config import load
    from pa_dist.plan.plan import plan as planned

    loaded = load(config, overrides)
    with tempfile.TemporaryDirectory() as place:
        loaded = loaded.model_copy(update={"output": place})
        planning.report(*planning.compare(loaded, sample, device, like))
        if memory:
            first = loaded.trajectories.model_copy(update={"limit": planning.block(loaded)})
            block = planned(loaded.model_copy(update={"trajectories": first}), device=device, like=like)
            planning.report(planning.planned_memory(block), planning.memory(loaded))


@app.command("reduce")
def reduce_(
    trajectories: Annotated[list[int], typer.Option(help="sizes")] = [10_000, 100_000, 1_000_000],  # noqa: B006
    loop: Annotated[int, typer.Option(help="trajectories of the plain loop")] = 200,
    repeats: Annotated[int, typer.Option(help="repeats of the plain loop")] = 5,
    labelled: Annotated[float, typer.Option(help="share of trajectories with a mistake_step")] = 0.0,
) -> None:
    """Time per trajectory of the block reduction against a plain loop."""
    from benchmarks import reducing

    reducing.compare(trajectories, loop, repeats, labelled)


@app.command()
def evaluate(
    trajectories: Annotated[list[int], typer.Option(help="sizes")] = [10_000, 100_000],  # noqa: B006
    labelled: Annotated[float, typer.Option(help="share of trajectories with a mistake_step")] = 0.5,
    step_labels: Annotated[float, typer.Option(help="share of trajectories with a label for each step")] = 0.0,
    domains: Annotated[int, typer.Option(help="that tasks are spread over")] = 1,
    place: Annotated[Path | None, typer.Option(help="where corpora are written: 25 GB for a million")] = None,
) -> None:
    """What evaluating takes with default settings and every scenario: seconds, core-seconds, memory of each process."""
    from benchmarks import evaluating

    evaluating.measure(trajectories, (labelled, step_labels), domains, None if place is None else str(place))


@app.command()
def ids(
    trajectories: Annotated[list[int], typer.Option(help="sizes")] = [100_000, 1_000_000],  # noqa: B006
    place: Annotated[Path | None, typer.Option(help="where tables are written")] = None,
) -> None:
    """What one process takes to put all ids in order, to settle a scored table, and to index whose rows are where."""
    from benchmarks import identities

    identities.measure(trajectories, None if place is None else str(place))


@app.command()
def coverage(
    repeats: Annotated[int, typer.Option(help="simulated corpora of each kind")] = 400,
    clusters: Annotated[list[int], typer.Option(help="sizes, in tasks")] = [20, 50, 200, 1000],  # noqa: B006
    trials: Annotated[int, typer.Option(help="trajectories of a task")] = 2,
    resamples: Annotated[int, typer.Option(help="of a bootstrap that stands beside; it takes long")] = 0,
) -> None:
    """How often 95% intervals hold the truth, in simulation; beside them a bootstrap's percentiles."""
    from benchmarks import covering

    covering.measure(repeats, clusters, trials, resamples)


@app.command()
def viewer(
    trajectories: Annotated[int, typer.Option()] = 10_000,
    model: Annotated[str | None, typer.Option(help="whose tokenizer; the demo's, unless told")] = None,
    data: Data = DATA,
    repeats: Annotated[int, typer.Option(help="times that the page is opened")] = 5,
) -> None:
    """A report's weight, and how long Chromium takes to show its list and to open, filter and sort trajectories."""
    from benchmarks.viewing import measure

    from pa_dist.pairs import SHIPPED

    with tempfile.TemporaryDirectory() as place:
        measure(model or str(SHIPPED / "policy"), data.resolve(), place, trajectories, repeats)


if __name__ == "__main__":
    guarded(app)
