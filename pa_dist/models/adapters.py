"""An adapter of peft before it is loaded: whether it is there, whole, and of a kind that is read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from pa_dist.errors import first_line
from pa_dist.models.files import ADAPTER, FolderFault, header, local, read_json

WEIGHTS = "adapter_model.safetensors"
KINDS = ("LORA",)


def check_adapter(name: str, revision: str | None) -> None:
    """Find out whether an adapter can be put on a model.

    Raises:
      FolderFault: in one line, naming the file; or what to install.
    """
    if find_spec("peft") is None:
        raise FolderFault("adapters need peft; `pip install 'pa-dist[adapters]'` installs it")
    folder = local(name)
    settings, weights = (
        _of_the_hub(name, file, revision) if folder is None else folder / file for file in (ADAPTER, WEIGHTS)
    )
    for path in (settings, weights):
        if not path.exists():
            raise FolderFault(f"no {path.name} there, as peft writes it")
    given: Any = read_json(settings).get("peft_type")
    if given not in KINDS:
        raise FolderFault(f"{ADAPTER}: an adapter of the kind {given!r}; {', '.join(KINDS)} is read")
    header(weights)


def _of_the_hub(name: str, file: str, revision: str | None) -> Path:
    try:
        found = cached_file(name, file, revision=revision)
    except Exception as error:  # of the library that connects, whichever it is
        raise FolderFault(
            f"{name!r} is no folder here, nor an adapter on the Hugging Face Hub that can be had: {first_line(error)}"
        ) from None
    return Path(str(found))
