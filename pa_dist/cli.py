"""The `pa-dist` command: parses, then imports what it calls, so that `--help` loads neither torch nor ray."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pa_dist import config as configs
from pa_dist.errors import ConfigError, EngineError, PaDistError, first_line
from pa_dist.interrupts import told
from pa_dist.pairs import PAIRS

DEBUG = "--debug"

app = typer.Typer(
    help="Score corpora of LLM-agent trajectories by progress advantage, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _path(value: str | None) -> str | None:
    return None if value is None else configs.given_path(value, "path")


def _paths(values: list[str]) -> list[str]:
    return [configs.given_path(value, "path") for value in values]


def _file(value: Path | None) -> Path | None:
    return None if value is None else Path(configs.given_path(value, "path"))


def _output(value: str) -> str:
    return configs.given_path(value, "--out", output=True)


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", callback=_file)]
Out = Annotated[str, typer.Argument(metavar="OUT", help="A run folder.", callback=_path)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Replaces keys of the file.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete what an earlier run left in the output folder first.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say the versions that numbers depend on, and end.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback that an error's line hides.")] = False,
) -> None:
    """Of every command."""
    if version:
        from pa_dist.models.fingerprint import versions

        typer.echo("\n".join(f"{name} {of}" for name, of in versions().items()))
        raise typer.Exit()


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="The run folder.", callback=_output)] = "runs/demo",
    fresh: Fresh = False,
) -> None:
    """The whole job on a small pair that ships with pa-dist: no network, about a minute on two cores."""
    from pa_dist.demo import command

    command.demo(out, say, fresh=fresh)


@app.command()
def run(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Ingest, score and evaluate; columns that are scored already are not scored again."""
    loaded = configs.load(config, overrides)

    from pa_dist import stages
    from pa_dist.report.command import report_at_end
    from pa_dist.report.terminal.metrics import show_metrics
    from pa_dist.store.folder import RunFolder

    stages.run(loaded, say, fresh=fresh)
    show_metrics(loaded.output)
    report_at_end(RunFolder(loaded.output), say)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    sample: Annotated[int, typer.Option(min=1, help="Trajectories to tokenise, about.")] = 200,
    device: Annotated[
        str | None, typer.Option(help="A GPU by name, such as H100, or `here` to measure this machine; else all named.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(min=0.001, max=1, help="Of the device's peak, what is reached; else as printed.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="OUT", help="A run folder whose actors were as fast as these will be.", callback=_path),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """What a run would take, from a sample and without weights: tokens, rejects, FLOPs, memory, disk, hours."""
    loaded = configs.load(config, overrides)
    if like is not None and (device is not None or share is not None):
        raise ConfigError("plan: --like takes the place of --device and --share")

    from pa_dist.plan import show
    from pa_dist.plan.plan import plan as planned

    found = planned(loaded, sample=sample, device=device, like=like, share=share)
    if json:
        typer.echo(show.as_json(found))
    else:
        show.show_plan(found)


@app.command()
def ingest(
    format: Annotated[
        str, typer.Argument(help="auto, tau2, tau_bench, who_and_when, agentdojo, inspect_log, chat or parquet.")
    ],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, globs or URIs.")],
    out: Annotated[str, typer.Option(help="The run folder.", callback=_output)],
    limit: Annotated[int | None, typer.Option(help="Keep this many, first in table order.")] = None,
    fresh: Fresh = False,
) -> None:
    """Read trajectory files into the tables `trajectories` and `rejects`."""
    section = {"format": format, "paths": paths, "limit": limit}
    loaded = configs.parse({"trajectories": section, "pair": "demo", "output": out})

    from pa_dist import stages
    from pa_dist.store.folder import RunFolder

    stages.ingest_files(loaded.trajectories, RunFolder(out), say, loaded.ray, fresh=fresh)


@app.command()
def score(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Ingest if need be, and write the log-prob columns."""
    loaded = configs.load(config, overrides)

    from pa_dist import stages

    stages.ingest_and_score(loaded, say, fresh=fresh)


@app.command()
def evaluate(
    out: Out,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the config's `evaluate` section.")
    ] = None,
) -> None:
    """Reduce the log-prob columns of a run folder to steps, scores and metrics."""
    from pa_dist import stages
    from pa_dist.report.command import report_at_end
    from pa_dist.report.terminal.metrics import show_metrics
    from pa_dist.store.folder import RunFolder

    folder = RunFolder(out)
    before = folder.manifest.get("config", {})
    settings = configs.evaluate_section(before.get("evaluate", {}), overrides)
    stages.evaluate_folder(folder, settings, say, configs.Ray(**before.get("ray", {})))
    show_metrics(out)
    report_at_end(folder, say)


@app.command()
def report(
    out: Out,
    trajectories: Annotated[
        int, typer.Option(min=1, help="Those that the viewer holds: of more, whole tasks.")
    ] = 10_000,
) -> None:
    """Write the page that shows a run: OUT/report/index.html."""
    from pa_dist.report import command
    from pa_dist.store.folder import RunFolder

    command.report(RunFolder(out), say, trajectories)


@app.command()
def show(
    out: Out,
    trajectory_id: Annotated[str, typer.Argument(metavar="TRAJECTORY_ID")],
    full: Annotated[bool, typer.Option("--full", help="Long messages whole.")] = False,
) -> None:
    """One trajectory in the terminal: its tokens coloured by advantage, its steps, where it may have failed."""
    from pa_dist.report.terminal import show as showing
    from pa_dist.store.folder import RunFolder

    showing.show(RunFolder(out), trajectory_id, full=full)


@app.command()
def top(
    out: Out,
    failures: Annotated[bool, typer.Option("--failures", help="Leave out what is known to have succeeded.")] = False,
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 20,
    reference: Annotated[str | None, typer.Option(help="Of several references, by its name; else the first.")] = None,
) -> None:
    """The trajectories and steps most worth a look: lowest scores, with their worst steps, and the largest drops."""
    from pa_dist.report.terminal import top as ranking
    from pa_dist.store.folder import RunFolder

    ranking.top(RunFolder(out), n, failures=failures, reference=reference)


@app.command()
def status(out: Out) -> None:
    """What is done of a run, what is left, and at which rate."""
    from pa_dist.status import status as lines
    from pa_dist.store.folder import RunFolder

    for line in lines(RunFolder(out)):
        typer.echo(line)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="OUT1", help="A run folder.", callback=_path)],
    second: Annotated[str, typer.Argument(metavar="OUT2", help="Another, over the same trajectories.", callback=_path)],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything here as JSON too.", callback=_file)
    ] = None,
) -> None:
    """Two evaluated runs side by side, paired by trajectory: what differs, and by how much."""
    import json

    from pa_dist.reduce.choice.two_runs import compare as compared
    from pa_dist.report.facts import names
    from pa_dist.report.terminal.compare import show_comparison
    from pa_dist.runtime.cluster import tasks_for
    from pa_dist.store.folder import RunFolder

    folder, other = RunFolder(first), RunFolder(second)
    found, named = compared(folder, other, tasks_for(folder)), names([folder, other])
    if json_file is not None:
        text = json.dumps({"names": named, **found.as_json()}, indent=1, ensure_ascii=False, allow_nan=False)
        json_file.write_text(f"{text}\n", encoding="utf-8")
    show_comparison(found, named)


@app.command()
def table(
    runs: Annotated[list[str], typer.Argument(metavar="OUT...", help="Run folders.", callback=_paths)],
    format: Annotated[str, typer.Option(help="text, latex, markdown or csv.")] = "text",
    scenario: Annotated[str | None, typer.Option(help="uq, prefix, best_of_n or fa; else all.")] = None,
    cell: Annotated[
        str, typer.Option(help="How each method's aggregation was chosen: headline, cross_fitted or hindsight.")
    ] = "headline",
) -> None:
    """The paper's table of one or several evaluated runs side by side: a line a method, with intervals and n."""
    from pa_dist.report.terminal.table import show_table
    from pa_dist.store.folder import RunFolder

    show_table(list(map(RunFolder, runs)), format=format, scenario=scenario, cell=cell)


@app.command()
def pairs() -> None:
    """List the policy/reference pairs known by name."""
    width = max(map(len, PAIRS))
    for name, pair in PAIRS.items():
        typer.echo(f"{name:{width}}  {pair.policy}  /  {pair.reference}  ({pair.family})")


@app.command()
def fetch(
    scenario: Annotated[str, typer.Argument(help="uq, tts, fa or all.")],
    out: Annotated[Path, typer.Option(help="Where the files go.", callback=_file)] = Path("data"),
    repo_id: Annotated[
        str | None, typer.Option(help="A dataset repository; else PA_DATA_REPO, else the published.")
    ] = None,
) -> None:
    """Download the published trajectories."""
    from pa_dist import fetch as fetching

    if scenario not in fetching.PATTERNS:
        raise ConfigError(f"fetch: unknown scenario {scenario!r}; one of {', '.join(fetching.PATTERNS)}")
    say(f"fetch: done, {fetching.fetch(scenario, out, repo_id, say)}")


def say(line: str) -> None:
    """Tell a line on standard error: results alone go to standard output."""
    typer.echo(line, err=True)


def main(*first: str) -> None:
    """Entry point of `pa-dist`, and of the scripts that are one of its commands."""
    given = [*first, *sys.argv[1:]]
    # Where typer takes it, wherever it was given.
    guarded(lambda: app([DEBUG, *(a for a in given if a != DEBUG)] if DEBUG in given else given))


def guarded(call: Callable[[], Any]) -> None:
    """Run a command; an error made on purpose, or Ctrl-C, is one line and its own exit status, not a traceback."""
    with told():
        try:
            call()
        except (PaDistError, EngineError, OSError) as error:
            from pa_dist.terminal import visible

            if DEBUG in sys.argv:
                traceback.print_exc()
            text = first_line(error) if isinstance(error, OSError) else str(error)
            typer.echo(f"pa-dist: {visible(text)}", err=True)  # it may quote a file
            sys.exit(getattr(error, "exit_code", 1))
