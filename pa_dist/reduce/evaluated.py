"""What a run was evaluated with, for those who read its tables."""

from pa_dist.config import Evaluate
from pa_dist.errors import RunFolderError
from pa_dist.store.folder import RunFolder


def evaluate_settings(folder: RunFolder) -> Evaluate:
    """The `evaluate` section of the run.

    Raises:
      RunFolderError: nothing was evaluated here.
    """
    record = folder.manifest["stages"].get("evaluate", {})
    if not record.get("done"):
        raise RunFolderError(f"{folder}: nothing evaluated here yet; `pa-dist run CONFIG` comes first")
    return Evaluate(**record["settings"]["evaluate"])


def first_reference(folder: RunFolder) -> str | None:
    """The name of the reference that methods without an @ are over; null of a single one."""
    pair = folder.manifest.get("config", {}).get("pair") or {}
    return next(iter(pair.get("references") or ()), None)


def further_references(folder: RunFolder) -> list[str]:
    """The references beside the first that it was evaluated with."""
    return list(folder.manifest["stages"]["evaluate"].get("apart_of", {}))


def reference_named(folder: RunFolder, name: str | None) -> str | None:
    """A further reference by its name; null for the first one's.

    Raises:
      RunFolderError: there is none of this name.
    """
    first, further = first_reference(folder), further_references(folder)
    if name not in (None, first, *further):
        known = ", ".join(filter(None, (first, *further))) or "it has one, without a name"
        raise RunFolderError(f"{folder}: evaluated with no reference {name!r}; {known}")
    return name if name in further else None
