"""A tiny random policy/reference pair with a tokenizer trained here, and trajectory files to score with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # which is read when what comes next is imported

from tiny_models import save_model, save_tokenizer


@pytest.fixture(scope="session", autouse=True)
def in_the_foreground() -> None:
    """Shells have Ctrl-C ignored by what they start in the background, and nohup a terminal that goes away."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """What a command leaves at its end would end the tests' own process at the next signal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny policy and reference that share a tokenizer."""
    root = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("policy", "reference")):
        save_model(root / name, seed)
        save_tokenizer(root / name, bos=True)
    return {name: str(root / name) for name in ("policy", "reference")}


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rollouts of three tasks with rewards and mistakes, one line without actions and one that is not JSON."""
    lines = []
    for index in range(12):
        call = {"id": "c1", "function": {"name": "lookup_order", "arguments": json.dumps({"order_id": str(index)})}}
        messages = [
            {"role": "user", "content": f"Please cancel my order {4700 + index} and refund the card."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": '{"status": "shipped", "total": 25.5}'},
            {"role": "assistant", "content": "The order has shipped already. " * (index % 3 + 1)},
        ]
        row = {"id": f"run-{index}", "task_id": str(index // 4), "trial": index % 4, "messages": messages}
        lines.append(
            json.dumps({**row, "reward": float(index % 3 == 0), "mistake_step": 1, "mistake_agent": "assistant"})
        )
    lines.append(json.dumps({"id": "silent", "messages": [{"role": "user", "content": "Anyone?"}]}))
    lines.append("{not json")
    path = tmp_path_factory.mktemp("data") / "desk.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run folder of `pa-dist demo` without a network, and what the command said."""
    out = tmp_path_factory.mktemp("demo") / "out"
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "pa_dist", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **nowhere, "no_proxy": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out, done
