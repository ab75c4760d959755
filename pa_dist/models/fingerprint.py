"""What decides a model's numbers: its files, and the versions of the libraries that read them."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from pa_dist.engine import vllm

# A folder scored with others, wholly or in part, is refused.
SCORING_VERSIONS = ("pa-dist", "torch", "transformers", "tokenizers")
VERSIONS = (*SCORING_VERSIONS, "ray", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Of all that a run is made with."""
    return {name: version(name) for name in VERSIONS}


def scoring_versions(engine: str) -> dict[str, str | None]:
    """Of what decides the numbers of an engine, `hf` or `vllm`."""
    found: dict[str, str | None] = {name: version(name) for name in SCORING_VERSIONS}
    return found | ({"vllm": vllm.installed()} if engine == "vllm" else {})


def weights(name: str) -> str | None:
    """Digest of a model folder's files by name, size and time; null for a model on the Hub."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    text = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
