"""An adapter of peft before it is loaded: whether it is there, whole, and of a kind that is read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from pa_dist.errors import first_line
from pa_dist.models.files import ADAPTER, FolderFault, header, local, read_json

WEIGHTS = "adapter_model.safetensors"
KINDS = ("LORA",)


# Beginnings of training that leave the base as it is; others take a part out of its weights.
_BEGINNINGS = (None, True, False, "gaussian", "orthogonal")


def check_adapter(name: str, revision: str | None, *, one_base: bool) -> None:
    """Find out whether an adapter can be put on a model.

    Args:
      one_base: whether the model has to be what it was when the adapter is off.

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
    raw: dict[str, Any] = read_json(settings)
    if raw.get("peft_type") not in KINDS:
        raise FolderFault(f"{ADAPTER}: an adapter of the kind {raw.get('peft_type')!r}; {', '.join(KINDS)} is read")
    for key, harmless in (("bias", (None, "none")), ("init_lora_weights", _BEGINNINGS)):
        if one_base and raw.get(key) not in harmless:
            raise FolderFault(
                f"{ADAPTER}: {key} is {raw[key]!r}, which changes the base too; save the model whole with the adapter "
                "merged into it, and name that"
            )
    header(weights)


def _of_the_hub(name: str, file: str, revision: str | None) -> Path:
    try:
        found = cached_file(name, file, revision=revision)
    except Exception as error:  # of the library that connects, whichever it is
        raise FolderFault(
            f"{name!r} is no folder here, nor an adapter on the Hugging Face Hub that can be had: {first_line(error)}"
        ) from None
    return Path(str(found))
