"""What it costs an undisturbed run to commit every block."""

import json
from pathlib import Path

from benchmarks.scored import scored
from pa_dist.demo.agreement import shipped_rollouts
from pa_dist.demo.command import demo_config
from pa_dist.errors import PaDistError
from pa_dist.store.folder import CHECKPOINT, RunFolder


def compare(place: Path, trajectories: int, rows_per_block: int, repeats: int) -> dict[str, list[float]]:
    """Score the demo's rollouts, again and again under other ids, with commits and without, in turn.

    Args:
      place: an empty folder for the corpus and the runs.

    Returns:
      Seconds of scoring, loading included, of each run.
    """
    corpus = place / "rollouts.jsonl"
    rows = list(shipped_rollouts())
    with corpus.open("w") as file:
        for index in range(trajectories):
            row = rows[index % len(rows)]
            # A task of its own: nothing more is shared than in the demo.
            again = {"id": f"run-{index}", "task_id": f"{row['task_id']}-{index // len(rows)}"}
            file.write(json.dumps({**row, **again}) + "\n")
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for repeat in range(repeats):
        for way, measured in seconds.items():
            out = RunFolder(str(place / f"{way}-{repeat}"))
            measured.append(_score(corpus, out.uri, rows_per_block, commit=way == "with"))
            if (out.count("logprobs"), bool(out.parts(CHECKPOINT))) != (trajectories, way == "with"):
                raise PaDistError(f"{out}: rows are missing, or the commits are not those asked for")
    return seconds


def _score(corpus: Path, out: str, rows_per_block: int, *, commit: bool) -> float:
    config = demo_config(out)
    config = config.model_copy(
        update={
            "trajectories": config.trajectories.model_copy(update={"paths": [str(corpus)]}),
            "score": config.score.model_copy(update={"rows_per_block": rows_per_block}),
        }
    )
    return scored(config, commit=commit)[0]
