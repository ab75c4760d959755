"""What runs tasks, for those who do not ask where: `map`, or Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Mapper(Protocol):
    """Applies a picklable function to picklable items, results in the items' order: `map`, or Ray tasks.

    An item may have `memory`, the bytes that its task takes.
    """

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]: ...
