"""The benchmarks compare like with like."""

import numpy as np
import pytest
from benchmarks import scoring
from benchmarks.memory import peak_above
from benchmarks.vllm_loop import vllm_scorer

from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.vllm import installed


def test_scoring_counts_shared_tokens_once(pair, capsys):
    model = load_model(pair["policy"])
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.config.vocab_size, (3, 90)).astype(np.int32)
    ids[:, :80] = ids[0, :80]
    found = scoring.compare(model, [TokenSequence(row, np.arange(1, 90, dtype=np.int32)) for row in ids], 2)
    assert found.difference < 1e-4
    assert (found.work.tokens, found.work.distinct_tokens) == (270, 110)
    scoring.report(found)
    assert "at best 2.45x" in capsys.readouterr().out


@pytest.mark.skipif(installed() is not None, reason="vLLM is installed")
def test_without_vllm_there_is_one_way_less(pair):
    assert vllm_scorer(pair["policy"], "float32", 90) is None


@pytest.mark.integration
def test_the_peak_is_what_the_work_adds():
    # 64 MiB held before, 128 MiB more for a while.
    peak = peak_above(np.ones, twice, 8 * 2**20) / 2**20
    assert 128 <= peak < 160


def twice(held):
    return (np.concatenate([held, held]) > 0).sum()
