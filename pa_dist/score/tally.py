"""What the scoring actors did, for progress and for the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pa_dist import schema
from pa_dist.score.attempts import Attempts
from pa_dist.score.engine import Work


class Tally(Attempts):
    """Ray actor: what the scorers did, for progress and for the manifest, and which rows they died of.

    A retried block counts twice in what they did.
    """

    def __init__(self, models: Sequence[str] = schema.MODELS) -> None:
        super().__init__()
        self.models = {model: ModelTally() for model in models}
        self._fault: str | None = None

    def fail(self, why: str) -> None:
        """Remember why the run ends: Ray Data does not pass on what a process raised."""
        self._fault = self._fault or why

    def fault(self) -> str | None:
        return self._fault

    def join(self, model: str, actor_id: str, place: dict[str, Any]) -> None:
        self.models[model].actors[actor_id] = place

    def add(self, model: str, n_rows: int, idle: float, work: Work) -> None:
        entry = self.models[model]
        entry.rows += n_rows
        entry.idle += idle
        entry.work += work

    def snapshot(self) -> dict[str, "ModelTally"]:
        return self.models


@dataclass
class ModelTally:
    """What one model's actors did."""

    rows: int = 0
    idle: float = 0.0
    """Seconds between an actor's blocks."""
    work: Work = field(default_factory=Work)
    actors: dict[str, dict[str, Any]] = field(default_factory=dict)


def facts(entry: ModelTally) -> dict[str, Any]:
    """One model's part of the manifest. Rates are of one actor: seconds are those of all actors together."""
    work, places = entry.work, list(entry.actors.values())
    seconds = max(work.seconds, 1e-9)
    limit = sum(place["matrix_flops_per_second"] for place in places) / max(len(places), 1)
    return {
        "rows": entry.rows,
        "tokens": work.tokens,
        "distinct_tokens": work.distinct_tokens,
        "share_saved": round(1 - work.distinct_tokens / max(work.tokens, 1), 4),
        "flops": work.flops,
        "seconds": round(work.seconds, 3),
        "idle_seconds": round(entry.idle, 3),
        "tokens_per_second": round(work.tokens / seconds, 1),
        "distinct_tokens_per_second": round(work.distinct_tokens / seconds, 1),
        "flops_per_second": round(work.flops / seconds),
        "share_of_matrix_rate": round(work.flops / seconds / limit, 4) if limit else None,
        "actors": places,
    }
