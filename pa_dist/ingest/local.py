"""What a path on this machine stands for: files, with links followed, and what cannot be read told apart.

A folder is looked through once, by whichever names it goes, so that links cannot lead round in circles or multiply.
"""

# ruff: noqa: PTH109, PTH110, PTH112, PTH113, PTH115, PTH116, PTH118, PTH120
# os.path answers where Path raises, and drops nothing of a path; folders may hold very many files.

import fnmatch
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

_MAGIC = re.compile(r"[*?\[]")


class LocalFile(NamedTuple):
    """A file, or a name that leads to none."""

    path: str
    fault: str | None = None
    """Why nothing can be read there."""
    same_as: str | None = None
    """The folder, looked through already, that this link leads to."""


def absolute(path: str) -> str:
    """The path from the root, without `..` where that means the same: behind a link it leads out of the target."""
    given = os.path.join(os.getcwd(), path)
    normal = os.path.normpath(given)
    return normal if real(normal) == real(given) else given


def real(path: str) -> str:
    """The path without links."""
    return os.path.realpath(path)


def find(path: str, is_data: Callable[[str], bool]) -> list[LocalFile]:
    """A path's files, in no order: the file itself, the data below a folder, or what a glob matches of both.

    Args:
      path: absolute.
      is_data: whether a file of a folder is to be read, by its name.

    Raises:
      OSError: the path itself is a link to nothing, or neither a file nor a folder.
    """
    if os.path.lexists(path):
        if fault := _fault(path):
            raise OSError(fault)
        return list(_below([path], [], is_data)) if os.path.isdir(path) else [LocalFile(path)]
    if not _MAGIC.search(path):
        return []
    matched = {found.path: found for found in _matches("/", [part for part in path.split("/") if part])}
    folders = {name for name, found in matched.items() if found == LocalFile(name) and os.path.isdir(name)}
    links = {name for name in folders if name != real(name)}
    return [
        *(found for name, found in matched.items() if name not in folders),
        *_below(sorted(folders - links), sorted(links), is_data),
    ]


def _below(folders: list[str], links: list[str], is_data: Callable[[str], bool]) -> Iterator[LocalFile]:
    """Data below folders and below links to folders, hidden files and folders left out."""
    listed, others = _folders(folders, links, lambda name: not name.startswith("."))
    yield from others
    for entries in listed.values():
        for entry in entries:
            if entry.name.startswith(".") or _is_folder(entry):
                continue
            fault = _fault(entry.path)
            if is_data(entry.name) or (fault and entry.is_symlink()):  # it may have been a folder
                yield LocalFile(entry.path, fault)


def _folders(
    roots: list[str], linked: list[str], wanted: Callable[[str], bool]
) -> tuple[dict[str, list[os.DirEntry[str]]], list[LocalFile]]:
    """Folders and all below them with what they hold, links last: a folder goes by its own name where it has one. And
    the rest: links back to where they lie or to what was looked through already, and folders that cannot be listed."""
    found: dict[str, list[os.DirEntry[str]]] = {}
    others: list[LocalFile] = []
    seen: dict[tuple[int, int], str] = {}
    inside, links = deque(roots), deque(linked)
    while inside or links:
        is_link = not inside
        path = links.popleft() if is_link else inside.popleft()
        if is_link and _leads_back(path):
            others.append(LocalFile(path, "a link to a folder that it lies in"))
            continue
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key in seen:
            others += [LocalFile(path, same_as=seen[key])] if seen[key] != path else []
            continue
        seen[key] = path
        try:
            entries = _entries(path)
        except OSError as error:
            others.append(LocalFile(path, str(error.strerror)))
            continue
        found[path] = entries
        folders = [entry for entry in entries if wanted(entry.name) and _is_folder(entry)]
        inside += [entry.path for entry in folders if not entry.is_symlink()]
        links += [entry.path for entry in folders if entry.is_symlink()]
    return found, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _leads_back(path: str) -> bool:
    return f"{real(os.path.dirname(path))}/".startswith(f"{real(path).rstrip('/')}/")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _fault(path: str) -> str | None:
    """Why there is no file or folder behind a name."""
    if not os.path.exists(path):
        return f"a link to nothing: {os.readlink(path)}"
    return None if os.path.isfile(path) or os.path.isdir(path) else "neither a file nor a folder"


def _matches(folder: str, parts: list[str]) -> Iterator[LocalFile]:
    """What a glob's parts match below a folder; `**` stands for any folders, or none."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        folders, others = _folders([folder], [], lambda name: True)
        yield from others
        for path in folders:
            yield from _matches(path, rest or ["*"])
        return
    path = os.path.join(folder, head)
    try:
        names = [e.name for e in _entries(folder)] if _MAGIC.search(head) else [head] * os.path.lexists(path)
    except OSError as error:
        yield LocalFile(folder, str(error.strerror))
        return
    pattern = re.compile(fnmatch.translate(head))
    for name in names:
        if name != head and not pattern.fullmatch(name):
            continue
        path = os.path.join(folder, name)
        if not rest:
            yield LocalFile(path, _fault(path))
        elif os.path.isdir(path):
            yield from _matches(path, rest)
