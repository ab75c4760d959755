"""What many tests share: a tiny pair, and trajectories to score with it."""

import os
from pathlib import Path

import pytest
from make_example import save_pair, save_trajectories

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny policy and reference that share a tokenizer."""
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of twelve rollouts, one line without actions and one that is not JSON."""
    return save_trajectories(tmp_path_factory.mktemp("data") / "desk.jsonl")
