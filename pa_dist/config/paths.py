"""Paths and URIs, as a config, a command line or Python gives them: expanded in one place, or refused in a line.

Of what a shell would do, `~` and `~user` are expanded, as shells leave those behind a `=` alone. Variables are not: a
config is the same whoever reads it. A path that has one is refused, unless there is a file of that very name.
"""

import os
import re
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator

_VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\{[^}]*\})")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_CUT_SHORT = re.compile("([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
# Of these, Arrow takes what follows a # for no part of the path, and drops it.
_PARSED = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")


def expanded(path: Any) -> Any:
    """A path or URI as text, with `~` replaced; what is neither text nor a path is left to the field to refuse.

    Raises:
      ValueError: it cannot be what was meant.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        return text
    if not text.strip():
        raise ValueError("an empty path; the folder one is in is '.'")
    if "\0" in text or not _is_unicode(text):
        raise ValueError("no path: it holds a NUL or what is not UTF-8")
    if "://" in text:
        if "#" in text and text.partition("://")[0] in _PARSED:
            raise ValueError("what follows a # is no part of a URI's path; write %23")
        return text
    there = os.path.lexists(text)
    if (scheme := _CUT_SHORT.match(text)) and not there:
        raise ValueError(f"a URI begins with {scheme[1]}://, two slashes")
    if os.name != "nt" and _DRIVE.match(text) and not there:
        raise ValueError("a path of Windows means nothing on this system")
    if (variable := _VARIABLE.search(text)) and not there:
        raise ValueError(f"variables are not expanded here; write what {variable[0]} stands for")
    if not text.startswith("~"):
        return text
    home = os.path.expanduser(text)  # noqa: PTH111  (`Path` would drop a slash at the end)
    if home.startswith("~"):
        raise ValueError(f"no home folder of {text.partition('/')[0]!r}; a file of that name is ./{text}")
    return home


def output(path: Any) -> Any:
    """The same of a run folder, whose tables Ray reads and writes.

    Raises:
      ValueError: it cannot be what was meant, or Ray would take it for another path.
    """
    text = expanded(path)
    if isinstance(text, str):
        # Not by urlsplit alone, which drops control characters without a word, as Ray does.
        inside = f"{unquote(urlsplit(text).path)}{text.partition('?')[0]}" if "://" in text else text
        if strange := re.search(r"[?\x00-\x1f\x7f]", inside):
            raise ValueError(f"{strange[0]!r} cannot be in a run folder's path: Ray takes it for the end, or drops it")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


AnyPath = Annotated[str, BeforeValidator(expanded)]
"""A file, a folder, a glob or a URI; of a model, also its name on the Hub."""
Output = Annotated[str, BeforeValidator(output)]
"""A run folder."""
