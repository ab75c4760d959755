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
