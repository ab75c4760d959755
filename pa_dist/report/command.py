"""`pa-dist report`: figures, tables and the viewer's data, and the page that shows them."""

import shlex
from collections.abc import Callable

from pa_dist.errors import fault, first_line
from pa_dist.mapper import Mapper
from pa_dist.reduce.evaluated import evaluate_settings
from pa_dist.report import sections
from pa_dist.report.facts import title
from pa_dist.report.page import write_page
from pa_dist.report.viewer.chunks import TRAJECTORIES, write_viewer
from pa_dist.store.folder import REPORT, RunFolder
from pa_dist.store.lease import held

# Up to so many trajectories, this process reads a column, or writes the viewer's data, sooner than Ray starts.
_READ_HERE = 50_000
_SHOWN_HERE = 1000


def report(folder: RunFolder, say: Callable[[str], None], trajectories: int = TRAJECTORIES) -> str:
    """Write `OUT/report` of a run that is evaluated, replacing an earlier one.

    Args:
      trajectories: how many the viewer holds at most.

    Returns:
      The page's path or URI.

    Raises:
      RunFolderError: nothing was evaluated here.
    """
    evaluate_settings(folder)
    evaluated = folder.manifest["stages"]["evaluate"]
    with held(folder):
        # A page whose files are gone would mislead: it goes first.
        folder.filesystem.delete_dir_contents(folder.path(REPORT), missing_dir_ok=True)
        built = sections.build(folder, _mapper(folder, evaluated["trajectories"] <= _READ_HERE))
        viewer = write_viewer(folder, trajectories, _mapper(folder, evaluated["trajectories"] <= _SHOWN_HERE))
        page = write_page(folder, title=title(folder, built.data), report=built, viewer=viewer)
        folder.logged(say)(f"report: {page}")
    return page


def report_at_end(folder: RunFolder, say: Callable[[str], None]) -> None:
    """The same at the end of a run, and what to do next. Its tables are worth more than their page: what goes wrong is
    only said."""
    page = ""
    try:
        page = report(folder, say)
    except BaseException as raised:
        error = fault(raised)
        why = f"{type(error).__name__}: {first_line(error)}"
        folder.logged(say)(f"report: not written ({why}); the run is whole, and `pa-dist report` tries again")
    top = f"`pa-dist top {shlex.quote(str(folder))}` lists what is most worth a look"
    say(f"next: {top}{f'; {page} shows it' if page else ''}")


def _mapper(folder: RunFolder, here: bool) -> Mapper:
    """What runs the tasks that read rows."""
    if here:
        return map
    from pa_dist.runtime.cluster import tasks_for

    return tasks_for(folder)
