"""`pa-dist report`: figures, tables and the viewer's data, and the page that shows them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pa_dist.config import Ray
from pa_dist.errors import RunFolderError
from pa_dist.lease import held
from pa_dist.report.page import write_page
from pa_dist.report.viewer import TRAJECTORIES, write_viewer
from pa_dist.run import RunFolder

# Trajectories whose keys and whose pages this process takes on itself: Ray would take longer to start.
_FEW = 1000


def report(folder: RunFolder, say: Callable[[str], None], trajectories: int = TRAJECTORIES) -> None:
    """Write `OUT/report` of a run that is evaluated, replacing an earlier one.

    Args:
      trajectories: how many the viewer holds at most.

    Raises:
      RunFolderError: nothing was evaluated here.
    """
    if not folder.manifest["stages"].get("evaluate", {}).get("done"):
        raise RunFolderError(f"{folder}: nothing evaluated here yet; `pa-dist run CONFIG` comes first")
    with held(folder):
        viewer = write_viewer(folder, trajectories, _mapper(folder))
        page = write_page(folder, viewer=viewer, title=folder.manifest.get("config", {}).get("name") or "pa-dist run")
        folder.logged(say)(f"report: {page}")


def _mapper(folder: RunFolder) -> Any:
    if folder.count("scores") <= _FEW:
        return map
    from pa_dist import cluster

    cluster.connect(Ray(**folder.manifest.get("config", {}).get("ray", {})))
    return partial(cluster.map_tasks, label="report")
