"""Score corpora of LLM-agent trajectories by progress advantage.

`pa_dist.score` scores from Python what `pa-dist run` scores from a config; `pa_dist.open_run` opens what either left.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pa_dist.api import Run

__version__ = version("pa-dist")

# The function below has the name of a subpackage. Importing that would put it in the function's place, unless it is
# imported first.
import_module("pa_dist.score")


def score(trajectories: Any, **arguments: Any) -> "Run":
    """As `pa_dist.api.score`, whose arguments it takes."""
    from pa_dist import api

    return api.score(trajectories, **arguments)


def open_run(path: str) -> "Run":
    """As `pa_dist.api.open_run`."""
    from pa_dist import api

    return api.open_run(path)
