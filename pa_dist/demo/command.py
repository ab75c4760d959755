"""`pa-dist demo`: the whole job on the shipped pair and rollouts, and its advantages beside the exact ones."""

from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc

from pa_dist import config, stages
from pa_dist.demo.agreement import Agreement, agreement, exact_advantages, held_out_tasks, shipped_rollouts
from pa_dist.demo.rollouts import Row
from pa_dist.demo.world import BETA
from pa_dist.pairs import SHIPPED
from pa_dist.report.command import report_at_end
from pa_dist.report.terminal.metrics import show_metrics
from pa_dist.runtime.progress import Progress
from pa_dist.store.folder import RunFolder

Say = Callable[[str], None]

# What each of the three tables is about: scenario and domain.
SHOWN = {("uq", "greedy"), ("best_of_n", "sampled"), ("fa", "injected")}


def demo(out: str, say: Say, *, fresh: bool = False) -> None:
    """Run the demo into the run folder `out` and print its tables.

    Raises:
      RunFolderError: `out` holds another run.
    """
    stages.run(demo_config(out), say, fresh=fresh)
    show_metrics(out, only=SHOWN)
    for line in beaten(RunFolder(out)):
        print(line)
    found = measure_agreement(RunFolder(out))
    print(
        f"Per-step advantage against the exact A*: Pearson {found.pearson:.3f}, slope {found.slope:.3f}, "
        f"n = {found.n} steps of tasks not trained on"
    )
    report_at_end(RunFolder(out), say)
    print(f"Run folder: {out}")


def demo_config(out: str) -> config.Config:
    """The config of a run over the shipped rollouts with the shipped pair."""
    return config.parse(
        {
            "name": "demo",
            "trajectories": {"format": "chat", "paths": [str(SHIPPED / "rollouts.jsonl.gz")]},
            "pair": "demo",
            "score": {"dtype": "float32", "max_length": 512, "rows_per_block": 128},
            "evaluate": {"beta": BETA, "resamples": 400},
            "output": out,
        }
    )


def measure_agreement(folder: RunFolder) -> Agreement:
    """Measured against exact advantages of every scored step of the sampled rollouts in a run folder."""
    from pa_dist.engine.load import load_model
    from pa_dist.engine.tokens import load_tokenizer

    model, tokenizer = load_model(str(SHIPPED / "reference")), load_tokenizer(str(SHIPPED / "reference"))
    by_task: dict[str, list[Row]] = {task.task_id: [] for task in held_out_tasks()}
    for row in shipped_rollouts():
        if row["domain"] == "sampled":
            by_task[row["task_id"]].append(row)
    exact: dict[str, list[float]] = {}
    with Progress("exact values", len(by_task)) as progress:
        for task in held_out_tasks():
            exact |= exact_advantages([task], by_task[task.task_id], tokenizer, model, BETA)
            progress.advance()
    columns = ["trajectory_id", "step", "progress_advantage__sum"]
    steps = folder.dataset("steps").to_table(columns=columns, filter=pc.field("domain") == "sampled").to_pylist()
    # Messages alternate between desk and world, so the action at message 1 is the first, at 3 the second.
    pairs = [
        (exact[step["trajectory_id"]][step["step"] // 2], step["progress_advantage__sum"])
        for step in steps
        if step["progress_advantage__sum"] is not None
    ]
    known, measured = zip(*pairs, strict=True)
    return agreement(known, measured)


def beaten(folder: RunFolder) -> list[str]:
    """A line for each table in which another method did better than progress advantage: by AUROC, by success at the
    largest N, and by step accuracy of the sharpest drop."""
    table = folder.read_table(folder.path("metrics.parquet"))
    own_steps = ("deepconf_tail", "deepconf_bottom10")
    rows = [row | ({"step_agg": "mean"} if row["method"] in own_steps else {}) for row in table.to_pylist()]
    rows = [row for row in rows if (row["scenario"], row["domain"]) in SHOWN and row["value"] is not None]
    largest = max((row["at"] for row in rows if row["metric"] == "success"), default=None)
    headlines: list[tuple[str, dict[str, Any]]] = [
        ("uq", {"metric": "auroc", "token_agg": "mean", "step_agg": "mean"}),
        ("best_of_n", {"metric": "success", "at": largest, "token_agg": "mean", "step_agg": "mean"}),
        ("fa", {"metric": "step_accuracy", "token_agg": "mean", "predictor": "sharpest_drop"}),
    ]
    lines = []
    for scenario, wanted in headlines:
        cells = [r for r in rows if r["scenario"] == scenario and all(r[k] == v for k, v in wanted.items())]
        mine = next((r["value"] for r in cells if r["method"] == "progress_advantage"), None)
        better = {r["method"]: r["value"] for r in cells if mine is not None and r["value"] > mine}
        if better:
            names = ", ".join(f"{name} {value:.3f}" for name, value in better.items())
            lines.append(f"{scenario}: better than progress advantage ({mine:.3f}) in this world: {names}")
    return lines
