"""Models that two processes hold together, against a plain pass of one that is whole."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_hf import FAMILIES, branching, check, plain, ragged

from pa_dist.engine.errors import EngineGone
from pa_dist.engine.hf import LEAST_TOKENS, HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.modules import held
from pa_dist.engine.precision import Guarded, recast
from pa_dist.engine.protocol import Work
from pa_dist.engine.ranks import Ranks

DTYPES = ("float32", "bfloat16")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for family, make in FAMILIES.items():
        torch.manual_seed(0)
        made[family] = tmp_path_factory.mktemp(family)
        make().save_pretrained(made[family])
    return made


def engine(folder, dtype="float32", **options):
    return HFEngine(load_model(str(folder), dtype=dtype, ranks=2), top_k=5, worthwhile=0, **options)


class Several:
    """One engine after the other, so that many models are tried by one pair of ranks."""

    def __init__(self, folders, dtype):
        self.work = Work()
        self.engines = {
            (family, of): engine(folder, of, batch_tokens=300) for family, folder in folders.items() for of in DTYPES
        }

    def limit(self, batch_tokens):
        pass

    def score(self, sequences):
        found = {key: each.score(sequences) for key, each in self.engines.items()}
        qwen = self.engines["qwen2", "bfloat16"]
        recast(qwen, torch.float32)  # of tied embeddings too
        return found | {("qwen2", "recast"): qwen.score(sequences)}

    def facts(self):
        return {"matrix_flops_per_second": 1, "of": {key: self._of(each) for key, each in self.engines.items()}}

    def _of(self, each):
        parameters = list(each.model.parameters())
        share = sum(held(p).numel() for p in parameters) / sum(p.numel() for p in parameters)
        logits = each._logits(torch.zeros(1, 64, dtype=each.model.dtype))
        return {"apart": each.apart, "share": share, "logits": logits.dtype, "dtype": each.model.dtype}


def test_two_ranks_give_the_columns_of_a_whole_model_and_hold_half_of_it_each(folders):
    sequences = list(branching(np.random.default_rng(2)))
    ranks = Ranks(partial(Several, folders), 2)
    facts = ranks.facts()
    assert facts["matrix_flops_per_second"] == facts["tensor_parallel_size"] == 2
    for of in facts["of"].values():
        assert of["apart"] is None
        assert of["share"] < 0.56
        assert of["logits"] == torch.float32
    found = ranks.score(sequences)
    for family, folder in folders.items():
        check(load_model(str(folder)), sequences, found[family, "float32"])
        whole = HFEngine(load_model(str(folder), dtype="bfloat16"), top_k=5).score(sequences)
        for one, both in zip(whole, found[family, "bfloat16"], strict=True):
            np.testing.assert_allclose(np.stack(one), np.stack(both), atol=0.1)
    rounded = load_model(str(folders["qwen2"]), dtype="bfloat16").float()
    check(rounded, sequences, found["qwen2", "recast"])
    ranks.close()


class OutOfMemory(HFEngine):
    """Whose second rank has no room for a sequence longer than this, nor for more tokens at once."""

    def score(self, sequences):
        longest = max(len(sequence.ids) for sequence in sequences)
        if os.environ["RANK"] == "1" and max(self.batch_tokens, longest) > LEAST_TOKENS:
            raise torch.OutOfMemoryError("no room")
        return super().score(sequences)


def without_memory(folder, dtype):
    return OutOfMemory(load_model(str(folder), ranks=2), top_k=5)


def test_a_rank_without_room_has_all_started_again_with_less_and_one_that_dies_ends_them(folders):
    long, *short = ragged(np.random.default_rng(1), [LEAST_TOKENS * 3, 17, 60])
    ranks = Ranks(partial(without_memory, folders["llama"]), 2, batch_tokens=2 * LEAST_TOKENS)
    model = load_model(str(folders["llama"]))
    check(model, short, ranks.score(short))
    assert ranks.batch_tokens == LEAST_TOKENS
    assert ranks.work.tokens == 77
    # What all ranks raise leaves them as they are.
    started = [process.pid for process in ranks._processes]
    with pytest.raises(ValueError, match=r"^token id 300 is outside the model's vocabulary of 300$"):
        ranks.score([short[1]._replace(ids=short[1].ids + 300 - short[1].ids.max())])
    assert [process.pid for process in ranks._processes] == started

    lost, *others = ranks.score([long, short[0]])
    assert lost is None
    check(model, short[:1], others)
    first, second = (process.pid for process in ranks._processes)
    os.kill(second, signal.SIGKILL)
    with pytest.raises(EngineGone, match=r"^rank 1 of 2 died, exit code -9$"):
        ranks.score(short)
    assert not there(first)


class Overflowing(HFEngine):
    """Leaves the range of float16, and has no room for float32."""

    def score(self, sequences):
        if self.model.dtype == torch.float32:
            raise torch.OutOfMemoryError("no room")
        found = super().score(sequences)
        if self.model.dtype == torch.float16:
            found[0].logprob[0] = np.nan
        return found


def overflowing(folder, dtype):
    made = Overflowing(load_model(str(folder), dtype=dtype or "float16", ranks=2), top_k=5)
    return Guarded(made) if dtype is None else made


def test_what_leaves_float16_and_has_no_room_in_float32_goes_on_in_bfloat16(folders):
    sequences = list(ragged(np.random.default_rng(1), [30, 17]))
    ranks = Ranks(partial(overflowing, folders["llama"]), 2)
    model = load_model(str(folders["llama"]))
    for sequence, columns in zip(sequences, ranks.score(sequences), strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=0.1)
    facts = ranks.facts()
    assert (facts["dtype"], facts["overflowed"]) == ("bfloat16", 1)
    ranks.close()


class Waiting(HFEngine):
    """Whose first rank waits for a second that does not come."""

    def score(self, sequences):
        Path(os.environ["PIDS"], str(os.getpid())).touch()
        if os.environ["RANK"] == "0":
            torch.distributed.barrier()
        time.sleep(600)


def waiting(folder, dtype):
    return Waiting(load_model(str(folder), ranks=2))


PARENT = """
import sys
from functools import partial
from pa_dist.engine.ranks import Ranks
from test_ranks import waiting

if __name__ == "__main__":
    Ranks(partial(waiting, sys.argv[1]), 2).score([])
"""


def test_ranks_end_with_a_parent_that_is_killed_while_they_wait_for_each_other(folders, tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()
    (script := tmp_path / "parent.py").write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PIDS": str(pids), "PYTHONPATH": path}
    parent = subprocess.Popen([sys.executable, str(script), str(folders["llama"])], env=environment)
    try:
        wait_until(lambda: len(list(pids.iterdir())) == 2)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(there(int(file.name)) for file in pids.iterdir()))


def wait_until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def there(pid):
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
