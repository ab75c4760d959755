"""The first stage: files to the tables `trajectories` and `rejects`."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import pyarrow.compute as pc

from pa_dist.config import Trajectories
from pa_dist.errors import PaDistError, RunFolderError
from pa_dist.ingest import step_labels
from pa_dist.ingest.left_behind import in_words
from pa_dist.ingest.sources import Expanded, expand, look_up
from pa_dist.ingest.tables import Counts, ingest
from pa_dist.runtime.tasks import mapper
from pa_dist.stage import Say, Stage
from pa_dist.store.contents import mark, read_beside
from pa_dist.store.folder import RunFolder, without_secrets

# Of an ingest that kept nothing; there may be millions.
_REASONS_READ = 100_000


class IngestStage(Stage):
    """Reads files of any format, and says what of them it kept, rejected, told apart and left behind."""

    name = "ingest"
    writes = ("trajectories", "rejects")

    def __init__(self, folder: RunFolder, trajectories: Trajectories) -> None:
        super().__init__(folder)
        self.trajectories = trajectories

    @cached_property
    def _found(self) -> Expanded:
        return look_up(self.trajectories.paths)

    @cached_property
    def _mark(self) -> str:
        return mark(self.folder, self._found.sources)

    def settings(self) -> dict[str, Any]:
        """The config's section, and the files by what they hold."""
        return {"trajectories": without_secrets(self.trajectories.model_dump(mode="json")), "files": self._mark}

    def is_done(self) -> bool:
        """As of any stage. Raises `RunFolderError` also where rows went since, `PaDistError` where there were none."""
        if not super().is_done():
            return False
        kept, there = self.folder.manifest["stages"][self.name]["kept"], self.folder.count("trajectories")
        if kept != there:
            raise RunFolderError(
                f"{self.folder}: trajectories holds {there} rows and ingest left {kept}; --fresh starts over"
            )
        refuse_none_kept(self.folder)
        return True

    def run(self, say: Say) -> None:
        """Read all files, replacing what an earlier ingest left."""
        say = self.folder.logged(say)
        began = time.perf_counter()
        self.folder.start(self.name, self.settings())
        sources, twice = self._found
        with read_beside(self.folder, {self._mark: partial(expand, self.trajectories.paths)}):
            counts = ingest(self.trajectories, self.folder, mapper(self.name), sources)
        seconds = round(time.perf_counter() - began, 1)
        self.folder.finish(self.name, **asdict(counts), seconds=seconds)
        if counts.formats:
            say(f"ingest: recognised {', '.join(f'{n} files as {name}' for name, n in counts.formats.items())}")
        if twice:
            name, first = twice[0]
            others = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
            say(f"ingest: read once, though links lead there too: {first} (also {name}){others}")
        beyond = f", {counts.left_out_by_limit} beyond the limit" if counts.left_out_by_limit else ""
        say(
            f"ingest: {counts.kept} trajectories kept, {counts.rejected} rejected{beyond}, of {counts.read} in "
            f"{counts.sources} files ({seconds} s)"
        )
        for line in said_of(counts):
            say(f"ingest: {line}")
        refuse_none_kept(self.folder)


def said_of(counts: Counts) -> Iterator[str]:
    """What a reader of the table should know of how it was made."""
    if counts.told_apart:
        labels = ", ".join(f"by {name} {n:,}" for name, n in counts.told_apart.items())
        yield f"ids that several trajectories share were told apart: {labels}"
    if counts.step_labels:
        yield step_labels.in_words(counts.step_labels)
    left = [
        f"{what}: {in_words(found)}"
        for what, found in (("of messages", counts.left_behind), ("of records, kept in extra only", counts.unread))
        if found
    ]
    if left:
        yield f"left behind {'; '.join(left)}"


def refuse_none_kept(folder: RunFolder) -> None:
    """Raise `PaDistError` where ingest kept nothing: nobody asks for that, and a script should notice."""
    if folder.manifest["stages"]["ingest"]["kept"]:
        return
    table = folder.dataset("rejects").scanner(["reason"], filter=pc.field("stage") == "ingest").head(_REASONS_READ)
    reasons = Counter(table["reason"].to_pylist())
    told = "; ".join(f"{n}: {reason}" for reason, n in reasons.most_common(3)) or "no record was found"
    raise PaDistError(f"ingest: no trajectory could be kept; of {reasons.total()} rejects, {told}")
