"""The rules of the house that imports can show: who may know whom."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import pa_dist

ROOT = Path(pa_dist.__file__).parent
# From the ground up: a room knows those before it, and none of the others on its floor.
FLOORS = [
    {"engine"},
    {"errors", "interrupts", "pairs", "schema", "mapper", "terminal", "trajectory"},
    {"ragged", "render"},
    {"config", "store", "fetch"},
    {"stage", "models", "runtime", "truncation"},
    {"ingest", "score", "reward_models", "reduce"},
    {"report"},
    {"stages", "status"},
    {"plan", "inputs", "demo"},
    {"api", "cli"},
    {"__init__", "__main__"},
]


def room(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports():
    """Of each module of ours what it imports, at the top or within functions."""
    modules = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    found = {}
    for module, path in modules.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                names.update(name if name in modules else str(node.module) for name in full)
        found[module] = names
    return found


IMPORTS = imports()


def test_every_room_has_a_floor():
    assert {room(module) for module in IMPORTS} == set().union(*FLOORS)


@pytest.mark.parametrize("module", IMPORTS)
def test_no_arrow_runs_up_and_no_stage_knows_another(module):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    here = room(module)
    for name in IMPORTS[module]:
        if name.split(".")[0] == "pa_dist" and name != "pa_dist" and room(name) != here:
            assert floor[room(name)] < floor[here], f"{module} imports {name}"


def test_modules_form_no_circle():
    state = defaultdict(int)

    def visit(module, path):
        assert state[module] != 1, " -> ".join([*path, module])
        if state[module] == 0:
            state[module] = 1
            for name in IMPORTS[module] & IMPORTS.keys() - {"pa_dist"}:
                visit(name, [*path, module])
            state[module] = 2

    for module in IMPORTS:
        visit(module, [])


def test_only_runtime_knows_ray():
    assert {room(module) for module, names in IMPORTS.items() if any(n.split(".")[0] == "ray" for n in names)} == {
        "runtime"
    }


def test_the_engine_knows_torch_numpy_transformers_and_itself():
    allowed = {"torch", "numpy", "transformers", "vllm", "tokenizers", "peft"}
    for module, names in IMPORTS.items():
        if room(module) == "engine":
            outside = {n for n in names if not n.startswith("pa_dist.engine")}
            assert {n.split(".")[0] for n in outside} - set(sys.stdlib_module_names) <= allowed, module
