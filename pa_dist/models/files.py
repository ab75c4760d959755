"""What the files of a model folder tell before any weight is read: whether they are whole, and what is in them."""

import filecmp
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_dist.errors import PaDistError

CONFIG, WEIGHTS, INDEX, ADAPTER = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
)
# JSON that transformers reads beside the config; those that are there have to be JSON.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "generation_config.json",
)
_POINTER = b"version https://git-lfs.github.com/spec/"
# Bytes of one number: what a header says of its tensors' extents is held against their shapes.
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
# A header beyond this the safetensors library refuses as well.
_LONGEST_HEADER = 100_000_000

Shapes = dict[str, tuple[int, ...]]


class FolderFault(PaDistError):
    """What is wrong with a model folder, in one line that names the file."""


def named_fault(key: str, name: str, fault: FolderFault) -> str:
    """A fault of a model, in one line that names the key, the folder and the file."""
    return f"{key}: {fault}" if repr(name) in str(fault) else f"{key}: {name!r}: {fault}"


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a folder that transformers would load.

    Attributes:
      files: their names.
      shapes: of all tensors in them.
    """

    files: list[str]
    shapes: Shapes

    @property
    def numbers(self) -> int:
        """How many they hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def local(name: str) -> Path | None:
    """A model's folder; None for a name on the Hugging Face Hub.

    Raises:
      FolderFault: what reads as a path and is no folder.
    """
    folder = Path(name)
    try:
        if folder.is_dir():
            next(folder.iterdir(), None)
            return folder
        there = folder.exists()
    except OSError as error:
        raise FolderFault(f"{name!r} cannot be read: {error.strerror or error}") from None
    if there:
        raise FolderFault(f"{name!r} is a file; a model is a folder, or a name on the Hugging Face Hub")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise FolderFault(f"there is no folder {name!r}")
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder. Raises `FolderFault`."""
    content = _bytes(path)
    try:
        value = json.loads(content)
    except RecursionError:
        raise FolderFault(f"{path.name}: nested too deeply") from None
    except ValueError as error:  # JSON's and UTF-8's
        raise FolderFault(f"{path.name}: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise FolderFault(f"{path.name}: a JSON object is expected, it holds {_kind(value)}")
    return value


def check_files(folder: Path) -> None:
    """Find out whether a folder holds a model's config, and whether what it holds can be read at all.

    Raises:
      FolderFault: the first fault of `adapter_config.json`, `config.json` and the tokenizer's files.
    """
    refuse_adapter(folder)
    config = folder / CONFIG
    if not config.exists():
        held = sorted(path.name for path in folder.iterdir())
        raise FolderFault(f"no {CONFIG} among its {len(held)} files" if held else "the folder is empty")
    read_json(config)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            read_json(folder / name)
    for path in sorted([*folder.glob("*.model"), *folder.glob("*.jinja")]):
        _bytes(path, most=len(_POINTER))


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter in the place of a model: transformers would apply it wherever peft is installed, unasked.

    Raises:
      FolderFault: naming the file, and what to do.
    """
    if not (folder / ADAPTER).exists():
        return
    if any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        raise FolderFault(
            f"{ADAPTER}: an adapter beside whole weights, which is not applied unasked: take its files to a folder of "
            "their own to score the weights as they are, or name them by {model: BASE, adapter: DIR}"
        )
    raise FolderFault(f"{ADAPTER}: an adapter alone; {{model: BASE, adapter: DIR}} names its base too")


def weights(folder: Path, config: dict[str, Any]) -> Weights:
    """The headers of the weights that transformers would load.

    Args:
      config: what `config.json` holds.

    Raises:
      FolderFault: no safetensors files, one that the index names and that is not there, or one that is cut short.
    """
    named = config.get("transformers_weights")
    if not isinstance(named, str | None):
        raise FolderFault(f"{CONFIG}: transformers_weights is {named!r}, no file's name")
    packed = config.get("quantization_config")
    if packed is not None and not (isinstance(packed, dict) and isinstance(packed.get("quant_method"), str)):
        raise FolderFault(f"{CONFIG}: quantization_config names no quant_method")
    if isinstance(named, str) and not named.endswith(".index.json"):
        files, index = [named], None
    elif isinstance(named, str):
        files, index = [], named
    elif (folder / WEIGHTS).exists():
        files, index = [WEIGHTS], None
    elif (folder / INDEX).exists():
        files, index = [], INDEX
    else:
        raise FolderFault(_no_weights(folder))
    wanted = {} if index is None else _weight_map(folder / index)
    shapes: Shapes = {}
    for name in files or sorted(set(wanted.values())):
        if Path(name).name != name:
            raise FolderFault(f"{index or CONFIG}: names {name!r}, which is no file of this folder")
        if not (folder / name).exists():
            raise FolderFault(f"{name}: not there, and {index or CONFIG} names it")
        held = header(folder / name)
        if lost := sorted(key for key, file in wanted.items() if file == name and key not in held):
            raise FolderFault(f"{name}: lacks {len(lost)} tensors that {index} has in it, {lost[0]!r} the first")
        shapes |= held
    return Weights(files or sorted(set(wanted.values())), shapes)


def header(path: Path) -> Shapes:
    """The shapes of the tensors in a safetensors file, which is as long as its header says.

    Raises:
      FolderFault: it is no such file, or not a whole one.
    """
    size = path.stat().st_size
    start = _bytes(path, most=max(8, len(_POINTER)))[:8]
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
        cut = f", or cut short: its header would be of {length:,} bytes, it has {size:,}" if length else ""
        raise FolderFault(f"{path.name}: no safetensors file{cut}")
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(length)
    try:
        tensors = json.loads(text)
        tensors.pop("__metadata__", None)
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in tensors.items()}
        ends = [_end(tensor, shapes[name]) for name, tensor in tensors.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FolderFault(f"{path.name}: no safetensors file: its header cannot be read") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "cut short" if size < expected else "longer than it should be"
        raise FolderFault(f"{path.name}: {what}: its header says {expected:,} bytes, it has {size:,}")
    return shapes


def _end(tensor: dict[str, Any], shape: tuple[int, ...]) -> int:
    """Where a tensor's bytes end. Raises ValueError where they are not as many as its shape has."""
    begin, end = map(int, tensor["data_offsets"])
    bits = _BITS.get(tensor["dtype"])
    if not 0 <= begin <= end or min(shape, default=0) < 0:
        raise ValueError(tensor)
    if bits is not None and (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(tensor)
    return end


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, byte by byte: by links, or as copies."""
    ours, theirs = (sorted(folder.glob("*.safetensors"), key=lambda path: path.name) for folder in (one, other))
    if not ours or [path.stat().st_size for path in ours] != [path.stat().st_size for path in theirs]:
        return False
    # Two models of one shape differ at once; only copies are read to their ends.
    pairs = list(zip(ours, theirs, strict=True))
    return all(a.samefile(b) or filecmp.cmp(a, b, shallow=False) for a, b in pairs)


def _bytes(path: Path, most: int = -1) -> bytes:
    """A file's content, or the beginning of it. Raises `FolderFault`."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FolderFault(f"{path.name}: a pipe or device, no file")  # whose opening may never end
    try:
        with path.open("rb") as file:
            content = file.read(most)
    except OSError as error:
        raise FolderFault(f"{path.name}: {error.strerror or error}") from None
    if not content:
        raise FolderFault(f"{path.name}: an empty file")
    if content.startswith(_POINTER[: len(content)]) and content[:7] == _POINTER[:7]:
        raise FolderFault(f"{path.name}: a pointer of git-lfs, not the file itself; `git lfs pull` fetches it")
    return content


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds each tensor. Raises `FolderFault`."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise FolderFault(f"{index.name}: no weight_map that names a file for each tensor")
    return found


def _no_weights(folder: Path) -> str:
    held = [
        path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".gguf", ".msgpack")
    ]
    stray = sorted(path.name for path in folder.glob("*.safetensors"))
    if stray:
        return f"no weights of a name that is read ({WEIGHTS}, or {INDEX}); there is {stray[0]!r}"
    also = f"; there is {held[0]!r}, and only safetensors are read" if held else ""
    return f"no weights ({WEIGHTS}, or {INDEX} and its files){also}"


def _kind(value: object) -> str:
    names = {type(None): "null", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names[type(value)]
