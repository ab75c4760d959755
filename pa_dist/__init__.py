"""Score corpora of LLM-agent trajectories by progress advantage.

`pa_dist.score_trajectories` scores from Python what `pa-dist run` scores from a config; `pa_dist.open_run` opens what
either left.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pa_dist.api import Run, open_run, score_trajectories

__all__ = ["Run", "open_run", "score_trajectories"]
__version__ = version("pa-dist")


def __getattr__(name: str) -> Any:
    """The public names, as they are in `pa_dist.api`, which is imported when one of them is used."""
    if name == "score":  # as a module, once it is imported
        raise AttributeError(f"module {__name__!r} has no attribute 'score'; pa_dist.score_trajectories scores")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pa_dist import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
