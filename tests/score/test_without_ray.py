"""All of scoring but what the pipeline is made of runs where Ray is not installed."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["ray"] = None
import importlib, pkgutil
import numpy as np
import pa_dist.score
for module in pkgutil.iter_modules(pa_dist.score.__path__):
    if module.name not in ("pipeline", "stream", "actors", "check", "examine"):
        importlib.import_module(f"pa_dist.score.{module.name}")
from pa_dist.score.engine import TokenSequence
from pa_dist.score.hf import HFEngine
from pa_dist.score.load import load_model
[columns] = HFEngine(load_model(sys.argv[1])).score([TokenSequence(np.arange(5, dtype=np.int32), np.array([3, 4]))])
print(len(columns.logprob))
"""


def test_scoring_needs_no_ray(pair):
    done = subprocess.run([sys.executable, "-c", SCRIPT, pair["policy"]], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr
