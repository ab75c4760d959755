"""The stage of labels that came later, at the beginning of each evaluation."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pa_dist.errors import ConfigError, shown
from pa_dist.ingest.labels.files import LABELS, NAMING, names
from pa_dist.ingest.labels.join import KEY, REJECTS, STAGE, TABLE, Job, Joined, join
from pa_dist.ingest.records import Unusable
from pa_dist.ingest.sources import Source, look_up
from pa_dist.runtime.tasks import mapper
from pa_dist.stage import Say, Stage
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import line

# What a join takes: of each byte of the files, and of each row of `trajectories`.
_BASE_BYTES, _FILE_FACTOR, _ROW_BYTES = 384 << 20, 4, 300


class LabelsStage(Stage):
    """Labels of a file in the place of a run's own, or, without a file, the run's own again.

    It is never done: an evaluation joins its own file anew.
    """

    name = STAGE
    reads: Mapping[str, Sequence[str]] = {
        "trajectories": ["trajectory_id", "reward", "mistake_step", "mistake_agent", "step_labels", "messages"]
    }
    writes = (TABLE, "rejects")

    def __init__(self, folder: RunFolder, path: str | None) -> None:
        super().__init__(folder)
        self.path = path

    def settings(self) -> dict[str, Any]:
        """Where the labels are."""
        return {"labels": None if self.path is None else shown(self.path)}

    def is_done(self) -> bool:
        """Never."""
        return False

    def check(self, say: Say) -> None:
        """Refuse files that are not there, or have no column of keys or of labels."""
        for source in self._sources():
            try:
                columns = names(source)
            except Unusable as error:
                raise ConfigError(f"{KEY}: {source.name}: {error}") from None
            for wanted, what in ((NAMING, "of a trajectory's key"), (LABELS, "of labels")):
                if not set(wanted) & set(columns):
                    there = ", ".join(columns)[:200]
                    raise ConfigError(f"{KEY}: {source.name}: no column {what} ({', '.join(wanted)}) among {there}")

    def _sources(self) -> list[Source]:
        return [] if self.path is None else look_up([self.path], KEY).sources

    def run(self, say: Say) -> None:
        """Replace what an earlier evaluation joined."""
        say, began, folder = self.folder.logged(say), time.perf_counter(), self.folder
        folder.forget(self.name)
        sources = self._sources()
        if not sources:
            folder.clear(TABLE)
            folder.clear("rejects", REJECTS)
            return
        size = sum(source.size for source in sources)
        memory = _BASE_BYTES + _FILE_FACTOR * size + _ROW_BYTES * folder.count("trajectories")
        (found,) = mapper(self.name)(partial(join, folder), [Job(sources, memory)])
        of_files = {"files": len(sources), "bytes": size, "sha256": found.sha256}
        folder.start(self.name, {**self.settings(), **of_files})
        seconds = round(time.perf_counter() - began, 1)
        folder.finish(self.name, **found.counts, seconds=seconds)
        say(f"labels: {_in_words(found)} ({seconds} s)")


def _in_words(found: Joined) -> str:
    counts = found.counts
    strange = f" (such as {line(found.strange, 80)})" if found.strange else ""
    refused = {
        "contradicting": "contradicting another",
        "unmatched": f"of no trajectory of this run{strange}",
        "ambiguous": "of several",
        "unusable": "unusable",
    }
    others = [f"{counts[name]:,} {what}" for name, what in {"doubled": "doubled", **refused}.items() if counts[name]]
    lost = f"; {', '.join(others)}" if others else ""
    listed = "; rejects has the reasons" if any(counts[name] for name in refused) else ""
    return f"{counts['rows']:,} rows label {counts['labelled']:,} trajectories{lost}{listed}"
