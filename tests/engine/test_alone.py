"""The engine runs where torch, numpy and transformers are installed, and nothing else of what pa_dist needs."""

import subprocess
import sys

SCRIPT = """
import sys
for absent in ("ray", "pyarrow", "pydantic", "typer", "rich", "sklearn", "vllm"):
    sys.modules[absent] = None
import importlib, pkgutil
import numpy as np
import pa_dist.engine
for module in pkgutil.iter_modules(pa_dist.engine.__path__):
    importlib.import_module(f"pa_dist.engine.{module.name}")
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import TokenSequence
[columns] = HFEngine(load_model(sys.argv[1])).score([TokenSequence(np.arange(5, dtype=np.int32), np.array([3, 4]))])
print(len(columns.logprob), [name for name in sys.modules if name.startswith("pa_dist.") and "engine" not in name])
"""


def test_it_scores_alone(pair):
    done = subprocess.run([sys.executable, "-c", SCRIPT, pair["policy"]], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2 []", done.stderr
