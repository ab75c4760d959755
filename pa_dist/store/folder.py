"""A run folder: its tables, which stages are done, and what they were made from.

`manifest.json` holds the resolved config and, for each stage, the settings that decide its numbers. A stage whose
settings are the same is skipped; one made with others is an error that prints the difference.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from pa_dist import __version__
from pa_dist.errors import RunFolderError, first_line, shown
from pa_dist.schema import SCHEMA_VERSION
from pa_dist.store import log
from pa_dist.store.location import LOG
from pa_dist.store.tables import Tables

# What a run folder holds while ingest is at work.
STAGING = "staging"
TABLES = ("trajectories", "rejects", "logprobs", "labels", "steps", "scores", "prefixes", "selections", "attributions")
# Tables of one file, with the same records beside it as JSON.
FILES = ("metrics", "comparisons")
# And while evaluate is: what its tasks leave for each other.
REDUCING = "reducing"
# What the files held that a run was made from.
CONTENTS = "contents.json"
# And while scoring is: ids of the rows that are done, a file for each file of `logprobs` or `rejects`.
CHECKPOINT = "checkpoint"
# What the names begin with of files that say who is at work.
CLAIM = "at_work-"
# The page that shows a run, with its figures.
REPORT = "report"
# A folder for each reward model: its table, and its checkpoint while it is at work.
REWARDS = "rewards"
REWARDS_CHECKPOINT = "checkpoint_rewards"
# The same for each further reference.
REFERENCES = "references"
REFERENCES_CHECKPOINT = "checkpoint_references"


class RunFolder(Tables):
    """A run's tables and its manifest."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the manifest holds; of a new folder, an empty one."""
        try:
            content = self.read("manifest.json")
            if content is None:
                return _new_manifest()
            manifest: dict[str, Any] = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{self}/manifest.json: {first_line(error)}") from None
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise RunFolderError(f"{self}: tables of schema version {version}, this is {SCHEMA_VERSION}")
        if version is None or not _sections(manifest.get("stages")) or not isinstance(manifest.get("config", {}), dict):
            raise RunFolderError(f"{self}/manifest.json: not of a run; take another output")
        return manifest

    def is_done(self, stage: str, settings: dict[str, Any]) -> bool:
        """Whether a stage finished with exactly these settings.

        Raises:
          RunFolderError: it ran, finished or not, with other settings; the message holds the difference.
        """
        record = self.manifest["stages"].get(stage)
        if record is None:
            return False
        changes = difference(record["settings"], settings)
        if changes:
            raise RunFolderError(
                f"{self}: made with other settings ({'; '.join(changes)}); take another output, or --fresh"
            )
        return bool(record["done"])

    def is_ours(self) -> bool:
        """Whether this is a run folder, and not one that is empty or still to be made.

        Raises:
          RunFolderError: something else lies there, or nothing can.
        """
        try:
            found = {file.base_name for file in self.listed()}
        except OSError as error:
            raise self.unusable(error) from None
        if "manifest.json" in found:
            return True
        if strange := sorted(name for name in found - {LOG} if not name.startswith((".", CLAIM))):
            raise RunFolderError(f"{self}: holds {strange[0]!r} and is no run folder; take another output")
        return False

    def claim(self) -> None:
        """Make this a run folder, with a manifest. Raises as `is_ours`."""
        try:
            if not self.is_ours():
                self.write_json("manifest.json", _new_manifest())
        except OSError as error:
            raise self.unusable(error) from None

    def unusable(self, error: OSError) -> RunFolderError:
        """Why nothing can be written or read here, as an error of ours."""
        why = os.strerror(error.errno) if error.errno else first_line(error)
        return RunFolderError(f"{self}: cannot be a run folder: {why}; take another output")

    def start(self, stage: str, settings: dict[str, Any], **facts: Any) -> None:
        """Record that a stage begins."""
        self._record(stage, {"settings": settings, "done": False, **facts})

    def finish(self, stage: str, **facts: Any) -> None:
        """Record that a stage is done, and facts about it (counts, rates, versions)."""
        self._record(stage, {**self.manifest["stages"][stage], "done": True, **facts})

    def _record(self, stage: str, record: dict[str, Any]) -> None:
        manifest = self.manifest
        manifest["stages"][stage] = record
        self.write_json("manifest.json", manifest)

    def forget(self, stage: str) -> None:
        """Take a stage's record out of the manifest, if there is one."""
        manifest = self.manifest
        if manifest["stages"].pop(stage, None) is not None:
            self.write_json("manifest.json", manifest)

    def remember(self, **entries: Any) -> None:
        """Set top-level entries of the manifest, such as the resolved config."""
        self.write_json("manifest.json", {**self.manifest, **entries})

    def start_over(self) -> None:
        """Delete what a run wrote here, and nothing else. It remains a run folder. Raises as `claim`."""
        self.claim()
        self.write_json("manifest.json", _new_manifest())  # first: what it says is there must be there
        for table_name in TABLES:
            self.clear(table_name)
        tables_by_name = (REWARDS, REWARDS_CHECKPOINT, REFERENCES, REFERENCES_CHECKPOINT)
        for name in (STAGING, REDUCING, CHECKPOINT, REPORT, *tables_by_name):
            self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True)
        for name in (
            *(f"{file}.{kind}" for file in FILES for kind in ("parquet", "json")),
            LOG,
            CONTENTS,
        ):
            self.discard(name)

    def log(self, line: str) -> None:
        """Append a line to the run's log, with the time. A log that cannot be written is no reason to stop."""
        log.append(self, line)

    def logged(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` that also writes to the run's log."""

        def both(line: str) -> None:
            self.log(line)
            say(line)

        return both


def _sections(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(section, dict) for section in value.values())


def _new_manifest() -> dict[str, Any]:
    return {"pa_dist": __version__, "schema_version": SCHEMA_VERSION, "stages": {}}


def difference(was: Any, now: Any, key: str = "") -> list[str]:
    """Each leaf that differs between two JSON-like trees, as `key.path: was -> now`."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [*was, *(name for name in now if name not in was)]
        return [d for name in names for d in difference(was.get(name), now.get(name), f"{key}.{name}".lstrip("."))]
    return [] if was == now else [f"{key}: {_short(was)} -> {_short(now)}"]


def without_secrets(tree: Any) -> Any:
    """A JSON-like tree with every URI in it as `shown`."""
    if isinstance(tree, dict):
        return {name: without_secrets(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_secrets(value) for value in tree]
    return shown(tree) if isinstance(tree, str) else tree


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
