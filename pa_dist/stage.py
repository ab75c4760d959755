"""What a step of a run is; `stages.py` has them in order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pa_dist.store.folder import RunFolder

Say = Callable[[str], None]


class Stage(ABC):
    """Reads tables and writes tables, knows no other stage, and is safe to run again.

    It is made with the sections of the config that it reads, and holds nothing else of it.

    Attributes:
      name: in the manifest.
      reads: the columns that it reads, by table.
      writes: tables.
      folder: of the run.
    """

    name: str
    reads: Mapping[str, Sequence[str]] = {}
    writes: Sequence[str] = ()

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides its numbers, as the manifest keeps it. Raises `PaDistError`."""

    def is_done(self) -> bool:
        """Whether it finished with these settings. Raises `RunFolderError` where it ran with others."""
        return self.folder.is_done(self.name, self.settings())

    def check(self, say: Say) -> None:
        """Find out whether it can run, before anything starts. Raises `PaDistError`."""
        return

    def check_cluster(self, *, complete: bool) -> None:
        """The same of the cluster of now, that its actors fit; where nodes are still to come, only that they could.

        Raises:
          ResourceError: naming the key.
        """
        return

    def say_done(self, say: Say) -> None:
        """That there is nothing left to do."""
        self.folder.logged(say)(f"{self.name}: done before")

    @abstractmethod
    def run(self, say: Say) -> None:
        """Do what is left of it. `say` is told a line or some. Raises `PaDistError`; what is done stays done."""
