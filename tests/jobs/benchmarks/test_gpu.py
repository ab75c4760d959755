"""The benchmark of a GPU: its shapes are the published ones, and all of it runs on a CPU with a tiny one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from benchmarks import gpu

SCRIPT = Path(__file__).parents[3] / "jobs" / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "billions"),
    # With embeddings: of gemma4 those that each layer has of its own, too.
    [("qwen3-0.6b", 0.60), ("qwen3-8b", 8.19), ("qwen3.5-9b", 8.95), ("olmo3-7b", 7.30), ("gemma4-e4b", 7.5)],
)
def test_shapes_are_the_published_ones(name, billions):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(gpu.MODELS[name]())
    assert sum(weights.numel() for weights in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.03)


def test_trees_are_of_the_size_asked_for_and_share_what_they_say():
    trees = gpu.trees(300, 3200)
    for sequences in trees.values():
        assert sum(len(sequence.ids) for sequence in sequences) > 3000
    shared = {name: len({tuple(s.ids[:100]) for s in sequences}) for name, sequences in trees.items()}
    assert shared == {"nothing shared": 16, "a system message": 1, "8 branches": 1, "300 short branches": 1}


def test_without_a_gpu_it_ends_at_once():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run()
    assert done.returncode == 1
    assert done.stderr.strip() == f"torch {torch.__version__} finds no GPU here"


def counted(name, layers, monkeypatch, **changes):
    """Launches a layer and pass, and passes, of a few layers of a model: of each corpus in one call, then in pieces."""
    config = gpu.MODELS[name]()
    config.update({"num_hidden_layers": layers, **changes})
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    monkeypatch.setitem(gpu.MODELS, name, lambda: config)
    lines = list(gpu.launches(gpu.build(name, torch.float16, "meta"), {}, "meta"))
    assert ["in one call" in line for line in lines] == [True, False] * 3
    found = [re.search(r": ([0-9]+) launches .*, ([0-9]+) passes", line).groups() for line in lines]
    return [(int(launches), int(passes)) for launches, passes in found]


@pytest.mark.parametrize(
    ("name", "layers", "changes"),
    [("qwen3-8b", 4, {}), ("olmo3-7b", 4, {}), ("gemma4-e4b", 12, {"num_kv_shared_layers": 6})],
)
def test_a_layer_launches_as_much_whatever_the_number_of_segments(name, layers, changes, monkeypatch):
    found = counted(name, layers, monkeypatch, **changes)
    assert {passes for _, passes in found} == {1}
    launches = [launches for launches, _ in found]
    assert launches[0] == launches[2] == launches[4] <= 40
    assert launches[1] > 150
    assert launches[3] > 1500
    assert launches[5] > 300


def test_linear_layers_launch_a_little_more_for_each_level_of_a_tree(monkeypatch):
    found = counted("qwen3.5-9b", 4, monkeypatch)
    assert [passes for _, passes in found[::2]] == [1, 1, 1]
    apart, branches, tasks = (launches for launches, _ in found[::2])
    assert apart < branches < tasks <= 90
    # By the model's own cache a parent has a pass to itself, and so have its children.
    assert found[5][1] == 1 + 2 * 12


@pytest.mark.integration
def test_all_parts_run():
    done = run("--device", "cpu", "--models", "tiny", "--tokens", "320", "--repeats", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall("^tiny, ([a-z]+), ", done.stdout, re.MULTILINE)
    assert {part: found.count(part) for part in gpu.PARTS} == {
        "speed": 4, "launches": 4, "memory": 1, "error": 4, "noise": 2,
    }  # fmt: skip
    for apart in re.findall("float32 at most ([0-9.e+-]+) from", done.stdout):
        assert float(apart) < 1e-4
