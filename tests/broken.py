"""What a test does to every worker of a Ray: hooks that run as it starts, told by environment variables whom to hit."""

import os
import time
from pathlib import Path


def workers(hook, **environment):
    """A runtime environment whose workers begin with a hook of this module."""
    variables = {"PYTHONPATH": str(Path(__file__).parent), **environment}
    return {"worker_process_setup_hook": f"{__name__}.{hook.__name__}", "env_vars": variables}


def break_the_engine():
    """In every worker: rows of some lengths kill their actor, raise, or give numbers that are none."""
    from pa_dist.engine.hf import HFEngine
    from pa_dist.score import rows

    sound, tokenize = HFEngine.score, rows.tokenize

    def tokenize_(rendered, *others):
        if any(os.environ["TOKENIZER_KILLER"] in text for text in rendered.texts):
            os._exit(1)
        return tokenize(rendered, *others)

    def score(self, sequences):
        lengths = [str(len(s.ids)) for s in sequences]
        if os.environ["KILLER"] in lengths:
            os._exit(1)
        if os.environ["RAISER"] in lengths:
            raise ValueError("no such number")
        found = sound(self, sequences)
        if os.environ["GIVER_OF_NAN"] in lengths:
            found[lengths.index(os.environ["GIVER_OF_NAN"])].logprob[0] = float("nan")
        return found

    HFEngine.score, rows.tokenize = score, tokenize_


def break_the_disk():
    """In every worker: no table is written while a marker exists."""
    from ray.data._internal.datasource.parquet_datasink import ParquetDatasink

    sound = ParquetDatasink.write

    def write(self, *given):
        if Path(os.environ["FULL"]).exists():
            raise OSError(28, "No space left on device")
        return sound(self, *given)

    ParquetDatasink.write = write


def slow_the_policy():
    """In every worker: a block keeps the policy for a second, as a large model would."""
    from pa_dist.engine.hf import HFEngine

    sound = HFEngine.score

    def score(self, sequences):
        time.sleep(0 if self.only_logprob else 1)
        return sound(self, sequences)

    HFEngine.score = score
