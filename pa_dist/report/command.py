"""`pa-dist report`: figures, tables and the viewer's data, and the page that shows them."""

from collections.abc import Callable

from pa_dist.errors import RunFolderError
from pa_dist.lease import held
from pa_dist.report import sections
from pa_dist.report.page import write_page
from pa_dist.run import RunFolder


def report(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Write `OUT/report` of a run that is evaluated, replacing an earlier one.

    Raises:
      RunFolderError: nothing was evaluated here.
    """
    if not folder.manifest["stages"].get("evaluate", {}).get("done"):
        raise RunFolderError(f"{folder}: nothing evaluated here yet; `pa-dist run CONFIG` comes first")
    with held(folder):
        page = write_page(
            folder,
            title=folder.manifest.get("config", {}).get("name") or "pa-dist run",
            report=sections.build(folder, map),
        )
        folder.logged(say)(f"report: {page}")
