"""How far a run is, read from its folder alone: while it runs, after it ended, or after it died."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from pa_dist import truncation
from pa_dist.config import Merge
from pa_dist.errors import RunFolderError
from pa_dist.runtime.settle import committed
from pa_dist.runtime.targets import LOGPROBS, Target, judged_by, reference_target, referred_to, reward_target
from pa_dist.score import noise_said
from pa_dist.store.folder import RunFolder
from pa_dist.store.lease import Claim, last_seen, who
from pa_dist.store.location import LOG
from pa_dist.terminal import visible

# The rate is that of the last rows, written within so many seconds of the newest.
WINDOW_SECONDS = 600.0
# Without a row for so long a run probably waits for something.
QUIET_SECONDS = 120.0


def status(folder: RunFolder) -> list[str]:
    """A line a stage.

    Raises:
      RunFolderError: no run was begun in the folder.
    """
    try:
        return _lines(folder)
    except FileNotFoundError:  # it went on while we read; once more
        return _lines(folder)


def _lines(folder: RunFolder) -> list[str]:
    manifest = folder.manifest
    stages = manifest["stages"]
    if not stages:
        raise RunFolderError(f"{folder}: no run here")
    rewards = dict.fromkeys([*manifest.get("config", {}).get("reward_models", {}), *judged_by(stages)])
    references = dict.fromkeys([*_asked(manifest.get("config", {})), *referred_to(stages)])
    targets = (LOGPROBS, *map(reference_target, references), *map(reward_target, rewards))
    living, dead = last_seen(folder)
    filled = partial(_filled, at_work=living is not None)
    lines = [
        _ingest(stages.get("ingest")),
        *(filled(stages.get(into.stage), folder, into) for into in targets),
        _evaluate(stages.get("evaluate")),
    ]
    done = all(record["done"] for record in stages.values())
    return lines if living or (done and not dead) else [*lines, _over(folder, dead)]


def _asked(config: dict[str, Any]) -> list[str]:
    """The further references that a config asks for."""
    own = list((config.get("pair") or {}).get("references") or ())[1:]
    merge = config.get("merge")
    return own if merge is None else [*own, *Merge.model_validate(merge).references]


def _over(folder: RunFolder, dead: Claim | None) -> str:
    """What became of the command that left its work undone."""
    nobody = "no command is at work here"
    if dead is not None:
        at = datetime.fromtimestamp(dead.get("at", 0.0), UTC).isoformat(timespec="seconds")
        return f"{nobody}: {who(dead)} died, last seen {at}; the same command goes on"
    logged = (folder.read(LOG) or b"").decode(errors="replace").splitlines() or [""]
    at, _, last = logged[-1].partition(" ")
    if "the same command goes on" not in last:
        last += "; the same command goes on"
    return f"{nobody}; last said {at}: {visible(last)}" if at else nobody


def _ingest(record: dict[str, Any] | None) -> str:
    if record is None:
        return "ingest: not begun"
    if not record["done"]:
        return "ingest: begun, not finished; it starts over"
    return (
        f"ingest: done, {record['kept']:,} trajectories kept, {record['rejected']:,} rejected ({record['seconds']} s)"
    )


def _filled(record: dict[str, Any] | None, folder: RunFolder, into: Target, *, at_work: bool) -> str:
    if record is None:
        return f"{into.stage}: not begun"
    if record["done"]:
        lost = "".join(f"; {said}" for said in (truncation.in_full(record), noise_said.in_words(record)) if said)
        scored = f"{record['rows']:,} scored, {record['rejects']:,} rejected ({record['seconds']} s)"
        return f"{into.stage}: done, {scored}{lost}"
    files = folder.filesystem.get_file_info(committed(folder, into))
    total, done = folder.count("trajectories"), folder.count_rows([file.path for file in files])
    line = f"{into.stage}: {min(done, total):,} of {total:,} done"
    if not files or not at_work:
        return line
    newest = max(file.mtime for file in files)
    recent = [file for file in files if (newest - file.mtime).total_seconds() <= WINDOW_SECONDS]
    seconds = (newest - min(file.mtime for file in recent)).total_seconds()
    quiet = (datetime.now(UTC) - newest).total_seconds()
    if quiet > QUIET_SECONDS:
        return f"{line}; nothing new for {quiet:,.0f} s"
    if seconds > 0:
        rate = folder.count_rows([file.path for file in recent]) / seconds
        line += f", {rate:,.2f} a second, about {(total - min(done, total)) / rate:,.0f} s left"
    return line


def _evaluate(record: dict[str, Any] | None) -> str:
    if record is None or not record["done"]:
        return "evaluate: not begun" if record is None else "evaluate: begun, not finished; it starts over"
    return f"evaluate: done, {record['trajectories']:,} trajectories, {record['metrics']:,} metrics"
