"""What decides a model's numbers: its files, and the versions of the libraries that read them."""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from pa_dist.engine import vllm
from pa_dist.store.contents import mark
from pa_dist.store.folder import RunFolder

# A folder scored with others, wholly or in part, is refused.
SCORING_VERSIONS = ("pa-dist", "torch", "transformers", "tokenizers")
VERSIONS = (*SCORING_VERSIONS, "ray", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Of all that a run is made with."""
    return {name: version(name) for name in VERSIONS}


def scoring_versions(engine: str, *, adapters: bool = False) -> dict[str, str | None]:
    """Of what decides the numbers of an engine, `hf` or `vllm`, and of adapters."""
    found: dict[str, str | None] = {name: version(name) for name in SCORING_VERSIONS}
    if adapters:
        found["peft"] = version("peft") if find_spec("peft") else None
    return found | ({"vllm": vllm.installed()} if engine == "vllm" else {})


@dataclass(frozen=True)
class ModelFile:
    """A file of a model folder, as `store.contents` takes one."""

    path: Path

    @property
    def name(self) -> str:
        """Without the folder, which may move."""
        return self.path.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    @property
    def modified(self) -> str:
        """In nanoseconds."""
        return str(self.path.stat().st_mtime_ns)

    def open(self) -> BinaryIO:
        """Its bytes."""
        return self.path.open("rb")


def model_files(name: str) -> list[ModelFile]:
    """The files of a model folder; none of a model on the Hub, which its commit tells."""
    folder = Path(name)
    return [ModelFile(path) for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []


def weights_mark(folder: RunFolder, name: str) -> str | None:
    """A model folder's files by what they hold; null for a model on the Hub."""
    return mark(folder, model_files(name)) if Path(name).is_dir() else None
