"""Score corpora of LLM-agent trajectories by progress advantage."""

from importlib.metadata import version

__version__ = version("pa-dist")
