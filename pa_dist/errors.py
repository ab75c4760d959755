"""Errors a user can act on.

    PaDistError            anything pa_dist refuses to do; the command exits with status 1
    ├── ConfigError        a key or value in a config or on the command line (status 2)
    ├── ResourceError      the cluster cannot hold the actors asked for (status 2)
    └── RunFolderError     a run folder that does not fit this config, or is not one (status 2)

    EngineError            a checkpoint or device that an engine cannot work with (status 1)

Each message is one line that names the key, file or folder at fault. A row of data that cannot be used is not an
exception but a row of the `rejects` table.
"""

import re

from pa_dist.engine.errors import EngineError as EngineError
from pa_dist.engine.errors import first_line as first_line


class PaDistError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(PaDistError):
    """A config that cannot be used."""

    exit_code = 2


class ResourceError(PaDistError):
    """Actors that the cluster could never schedule."""

    exit_code = 2


class RunFolderError(PaDistError):
    """A run folder made with other settings, or missing what a stage needs."""

    exit_code = 2


class Panic(Exception):
    """What a library raised past `Exception`, such as a panic of its Rust code; the message says what."""


def fault(raised: BaseException) -> Exception:
    """Anything that was raised, as an exception to go on from; what ends a process or a generator is raised on."""
    if isinstance(raised, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise raised
    if isinstance(raised, Exception):
        return raised
    return Panic(f"{type(raised).__name__}: {first_line(raised)}")


def shown(uri: str) -> str:
    """A path or URI as messages and manifests have it: without credentials and options, which may be secrets."""
    return re.sub(r"(://)(?:[^:/@]+:.*@|[^:/@]+@)", r"\1", uri).partition("?")[0] if "://" in uri else uri
