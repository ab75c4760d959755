"""What the scoring actors did, for progress and for the manifest."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from pa_dist import schema
from pa_dist.engine.protocol import Work
from pa_dist.runtime.attempts import Attempts


class Tally(Attempts):
    """Ray actor: what the scorers did, for progress and for the manifest, and which rows they died of.

    A retried block counts twice in what they did. Each scorer tells its own totals and not what it adds to them, and
    what was told is kept in a file: should this process die, Ray starts another one, and calls it again as it called
    the one that died, perhaps after that had done what it was asked.
    """

    def __init__(self, models: Sequence[str] = schema.MODELS, memory: str | None = None) -> None:
        """`memory`: the file."""
        super().__init__()
        self._memory = None if memory is None else Path(memory)
        self._told: dict[str, Any] = {
            "fault": None,
            "actors": {model: {} for model in models},
            "totals": {model: {} for model in models},
        }
        with suppress(OSError, ValueError):
            self._told = json.loads(self._memory.read_text()) if self._memory else self._told

    def fail(self, why: str) -> None:
        """Remember why the run ends: Ray Data does not pass on what a process raised."""
        self._told["fault"] = self._told["fault"] or why
        self._keep()

    def fault(self) -> str | None:
        """Why the run ends, if anybody told."""
        fault: str | None = self._told["fault"]
        return fault

    def join(self, model: str, actor_id: str, place: dict[str, Any]) -> None:
        """Remember an actor of a model: its node, process and GPUs, and what its engine says of itself."""
        self._told["actors"][model][actor_id] = place
        self._keep()

    def tell(self, model: str, process: str, rows: int, idle: float, work: Work) -> None:
        """What one process of a model's actors did since it began."""
        self._told["totals"][model][process] = [rows, idle, *astuple(work)]
        self._keep()

    def snapshot(self) -> dict[str, "ModelTally"]:
        """What each model's actors did so far."""
        return {
            model: ModelTally(
                sum(rows for rows, *_ in totals.values()),
                sum(idle for _, idle, *_ in totals.values()),
                sum((Work(*work) for _, _, *work in totals.values()), Work()),
                self._told["actors"][model],
            )
            for model, totals in self._told["totals"].items()
        }

    def _keep(self) -> None:
        with suppress(OSError, TypeError, ValueError):  # a full disk costs what is kept, not the run
            if self._memory is not None:
                beside = self._memory.with_suffix(".new")
                beside.write_text(json.dumps(self._told, default=float))
                beside.replace(self._memory)


@dataclass
class ModelTally:
    """What one model's actors did."""

    rows: int = 0
    idle: float = 0.0
    """Seconds between an actor's blocks."""
    work: Work = field(default_factory=Work)
    actors: dict[str, dict[str, Any]] = field(default_factory=dict)


def as_record(entry: ModelTally) -> dict[str, Any]:
    """One model's part of the manifest. Rates are of one actor: seconds are those of all actors together."""
    work, places = entry.work, list(entry.actors.values())
    seconds = max(work.seconds, 1e-9)
    limits = [place["matrix_flops_per_second"] for place in places]
    # An engine that knows no rate does not count its operations either.
    counted = None not in limits
    limit = sum(limits) / max(len(limits), 1) if counted else 0
    return {
        "rows": entry.rows,
        "tokens": work.tokens,
        "distinct_tokens": work.distinct_tokens,
        "share_saved": round(1 - work.distinct_tokens / max(work.tokens, 1), 4),
        "flops": work.flops if counted else None,
        "seconds": round(work.seconds, 3),
        "idle_seconds": round(entry.idle, 3),
        "idle_share": round(entry.idle / (entry.idle + seconds), 4),
        "tokens_per_second": round(work.tokens / seconds, 1),
        "distinct_tokens_per_second": round(work.distinct_tokens / seconds, 1),
        "flops_per_second": round(work.flops / seconds) if counted else None,
        "share_of_matrix_rate": round(work.flops / seconds / limit, 4) if limit else None,
        "actors": places,
    }
