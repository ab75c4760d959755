"""Each command of jobs/benchmark.py at the smallest size, in a process of its own: that it works, not how fast."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pa_dist.engine.vllm import installed

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def benchmark(*arguments, rc=0):
    """What a command prints, and what it says where it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "benchmark.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == rc, done.stderr[-2000:]
    return done.stdout if rc == 0 else done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files as the authors of tau2 and tau-bench publish them, of ten short conversations each."""
    place = tmp_path_factory.mktemp("published")
    conversations = [
        [
            {"role": "system", "content": "You work at an order desk."},
            {"role": "user", "content": f"Please cancel my order {4700 + n} and refund the card."},
            {"role": "assistant", "content": "The order has shipped already. Shall I open a return instead?"},
        ]
        for n in range(10)
    ]
    tau2 = [{"id": f"s{n}", "task_id": str(n), "trial": 0, "messages": m} for n, m in enumerate(conversations)]
    tau_bench = [{"task_id": n, "trial": 0, "reward": 1.0, "traj": m} for n, m in enumerate(conversations)]
    for name, content in (
        ("tau2/toolorchestra/airline.json", {"info": {}, "tasks": [], "simulations": tau2}),
        ("tau_bench/retail.json", tau_bench),
    ):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(json.dumps(content))
    return place


@pytest.fixture(scope="module")
def config_file(pair, chat_file, tmp_path_factory):
    place = tmp_path_factory.mktemp("config")
    settings = {
        "trajectories": {"format": "chat", "paths": [str(chat_file)]},
        "pair": pair,
        "score": {"dtype": "float32", "device": "cpu", "max_length": 60, "rows_per_block": 4},
        "output": str(place / "never-made"),
    }
    (place / "c.yaml").write_text(json.dumps(settings))
    return place / "c.yaml"


def test_score(pair, data):
    sizes = ["--tokens", 400, "--max-length", 200, "--repeats", 1, "--memory-length", 128]
    said = benchmark("score", "--model", pair["policy"], "--data", data, "--dtype", "float32", *sizes)
    assert re.findall("float32, (.*) \\(", said) == ["nothing shared", "system message", "branching"]
    assert said.count("x the plain loop") >= 3 * 4
    assert "peak above the weights for 128 tokens" in said


def test_pipeline(pair, data):
    said = benchmark("pipeline", "--model", pair["policy"], "--data", data, "--limit", 4)
    assert "pipeline / two engines without Ray: " in said


def test_checkpoint():
    said = benchmark("checkpoint", "--trajectories", 16, "--rows-per-block", 8, "--repeats", 1)
    assert "16 trajectories, 8 a block" in said
    assert "with / without: " in said


@pytest.mark.skipif(installed() is not None, reason="vLLM is installed")
def test_engines_without_vllm_are_refused_before_anything_runs(config_file):
    said = benchmark("engines", config_file, rc=2)
    assert said == "pa-dist: engines: vllm is not installed; `pip install 'pa-dist[vllm]'` installs it\n"


@pytest.mark.vllm
@pytest.mark.skipif(installed() is None, reason="vLLM is not installed")
def test_engines(config_file):
    assert "largest" in benchmark("engines", config_file)


def test_plan(config_file):
    said = benchmark("plan", config_file, "--memory")
    # Twelve conversations are scored and planned, and a row has what was planned, what was used and their ratio.
    assert re.search(r"^scored +12\.0 +12\.0 +1\.000$", said, re.MULTILINE)
    assert "memory above the weights" in said
    assert not (config_file.parent / "never-made").exists()


def test_reduce():
    said = benchmark("reduce", "--trajectories", 40, "--loop", 2, "--repeats", 1, "--labelled", 0.5)
    assert re.search(r"40 trajectories: .*; ratio \d+", said)


def test_evaluate(tmp_path):
    said = benchmark("evaluate", "--trajectories", 40, "--place", tmp_path)
    assert re.search(r"^ +40 +[\d.]+ +[\d.]+ +\d+ +\d+ +[\d,]+$", said, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_ids(tmp_path):
    said = benchmark("ids", "--trajectories", 40, "--place", tmp_path)
    assert re.findall(r"^ +40 (\w+) +[\d.]+ +\d+$", said, re.MULTILINE) == ["order", "settle", "locate"]


def test_coverage():
    said = benchmark("coverage", "--repeats", 3, "--clusters", 20, "--resamples", 10)
    assert re.search(r"^AUROC +50:50 +20 +[\d.]+%", said, re.MULTILINE)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_viewer(tmp_path):
    said = benchmark("viewer", "--trajectories", 12, "--repeats", 1, "--data", tmp_path)
    assert "12 trajectories: the report took" in said
    assert re.findall("^(first view|open a trajectory|filter|sort): ", said, re.MULTILINE) == [
        "first view",
        "open a trajectory",
        "filter",
        "sort",
    ]


def test_every_command_is_here():
    """A command that is added gets a smoke test."""
    tested = set(re.findall(r'benchmark\("(\w+)"', Path(__file__).read_text()))
    named = re.findall(r"^@app\.command\((?:\"(\w+)\")?\)\ndef (\w+)", (ROOT / "jobs/benchmark.py").read_text(), re.M)
    assert tested == {given or function for given, function in named}
