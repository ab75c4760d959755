"""Where a run folder is: a local path, or any URI that pyarrow's file systems reach."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as pafs

from pa_dist.errors import RunFolderError, first_line, shown

LOG = "run.log"


@dataclass(frozen=True)
class Location:
    """A folder."""

    uri: str

    @cached_property
    def _location(self) -> tuple[pafs.FileSystem, str]:
        try:
            return pafs.FileSystem.from_uri(self.uri) if "://" in self.uri else _local(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFolderError(f"{self}: {first_line(error).replace(self.uri, str(self))}") from None

    def __str__(self) -> str:
        return shown(self.uri).replace("\n", "\\n")  # of a folder that is asked for and cannot be one

    @property
    def filesystem(self) -> pafs.FileSystem:
        """What reaches the folder. Raises `RunFolderError` where nothing does."""
        return self._location[0]

    def path(self, *parts: str) -> str:
        """Path below the folder, in the terms of `filesystem`."""
        return "/".join([self._location[1].rstrip("/"), *parts])

    def below(self, *parts: str) -> str:
        """Path or URI of a file below the folder, as a config names one."""
        body, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return "/".join([body.rstrip("/"), *parts]) + mark + options

    def listed(self, *parts: str) -> list[pafs.FileInfo]:
        """What lies in a folder below; nothing where there is none."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        try:
            found: list[pafs.FileInfo] = self.filesystem.get_file_info(selector)
        except FileNotFoundError:  # another command made it meanwhile: Arrow finds none, looks again, and there it is
            found = self.filesystem.get_file_info(selector)
        return found

    @cached_property
    def rooted(self) -> pafs.SubTreeFileSystem:
        """The folder as a file system of its own, for what takes more from a path than where a file is: Ray's readers
        take a folder `domain=all` for a column, also those that cannot be told not to, and a `?` for options."""
        return pafs.SubTreeFileSystem(self._location[1], self.filesystem)

    def inside(self, path: str) -> str:
        """A path of `filesystem` in the terms of `rooted`."""
        return path.removeprefix(self._location[1]).lstrip("/")


def _local(path: str) -> tuple[pafs.FileSystem, str]:
    return pafs.LocalFileSystem(), str(Path(path).absolute())
