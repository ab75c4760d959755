"""The Ray that tests share: starting one takes seconds, and its workers keep what they have imported."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


def join() -> None:
    """Start it, if it does not run."""
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)


@contextmanager
def another(**options: Any) -> Iterator[None]:
    """A Ray of a test's own. The shared one ends, and is started again by whoever joins it next."""
    ray.shutdown()
    ray.init(**{"address": "local", "num_cpus": 6, "include_dashboard": False, "log_to_driver": False, **options})
    try:
        yield
    finally:
        ray.shutdown()
