"""Models by their names on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def hub_commit(name: str, revision: str | None, file: str = "config.json") -> str | None:
    """The commit of a model on the Hub, by where a file of it lies in the cache since it was checked."""
    cached = None if Path(name).is_dir() else try_to_load_from_cache(name, file, revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision
