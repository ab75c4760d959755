"""Scoring by vLLM. The marked tests run it: `pytest -m vllm tests/engine/test_vllm.py`, where it is installed."""

import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from benchmarks.vllm_loop import differences
from chat_templates import save_chat_tokenizer
from tiny_models import save_model, save_tokenizer

from pa_dist import config, schema
from pa_dist.config import Score
from pa_dist.engine import vllm
from pa_dist.engine.errors import EngineGone
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import NULL_COLUMNS, TokenColumns, TokenSequence, Work, score_rows
from pa_dist.errors import ConfigError
from pa_dist.runtime import attempts, pools, tally
from pa_dist.score import rows
from pa_dist.score.check import check_lengths, check_models
from pa_dist.score.stage import ScoreStage
from pa_dist.store.folder import RunFolder

SEQUENCE = TokenSequence(np.array([5, 7, 9], np.int32), np.array([2], np.int32))


def answer(*positions):
    """What vLLM gives for a prompt, of each position's (token, log-prob) entries."""
    ends = np.cumsum([len(entries) for entries in positions]).tolist()
    flat = [entry for entries in positions for entry in entries]
    return SimpleNamespace(
        start_indices=[0, *ends[:-1]], end_indices=ends, token_ids=[t for t, _ in flat], logprobs=[x for _, x in flat]
    )


def test_a_positions_first_entry_is_its_token_and_the_others_are_the_most_likely():
    # The token of position 1 is the most likely one as well; that of position 2 is not among the two.
    found = answer([], [(7, -0.5), (7, -0.5), (1, -1.5)], [(9, -4.0), (3, -1.0), (2, -2.0)])
    columns = vllm.prompt_columns(SEQUENCE, found, 2)
    assert columns == TokenColumns(np.array([-4.0]), np.array([-1.5]), None, None)
    both = TokenSequence(SEQUENCE.ids, np.array([1, 2], np.int32))
    assert vllm.prompt_columns(both, found, 2).topk_logprob_mean.tolist() == [-1.0, -1.5]
    # Asked for no others, it gives the token's alone.
    assert vllm.prompt_columns(both, answer([], [(7, -0.5)], [(9, -4.0)]), 0) == TokenColumns(
        pytest.approx([-0.5, -4.0]), None, None, None
    )
    alone = TokenSequence(SEQUENCE.ids[:1], np.empty(0, np.int32))
    assert len(vllm.prompt_columns(alone, answer([]), 2).logprob) == 0


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (answer([], [(8, -1.0)] * 3, [(9, -1.0)] * 3), "log-prob of token 8 at position 1"),
        (answer([], [(7, -1.0)] * 3, [(9, -1.0)] * 2), "other than 3 log-probs"),
        (answer([], [(7, -1.0)] * 3), "other than 3 log-probs at some of 3 positions"),
    ],
)
def test_figures_of_other_tokens_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        vllm.prompt_columns(SEQUENCE, found, 2)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "0 tokens"), ([1] * 5, "5 tokens; vLLM takes 1 to 4"), ([3, 10], "token id 10 is outside")],
)
def test_what_vllm_would_raise_for_is_found_first(ids, message):
    with pytest.raises(ValueError, match=message):
        vllm.check_readable(TokenSequence(np.array(ids, np.int32), np.empty(0, np.int32)), 10, 4)
    vllm.check_readable(SEQUENCE, 10, 3)


def test_what_is_not_counted_is_null():
    place = {"matrix_flops_per_second": None}
    told = tally.as_record(tally.ModelTally(work=Work(8, 8, 0, 2.0), actors={"a": place}))
    assert told["tokens_per_second"] == 4.0
    assert {told[name] for name in ("flops", "flops_per_second", "share_of_matrix_rate")} == {None}


def test_an_engine_that_is_gone_is_no_rows_fault():
    def score(_):
        raise EngineGone("CUDA error")

    with pytest.raises(EngineGone):
        attempts.outcomes(score, ["a"], [SEQUENCE], attempts.Attempts(), proven=True)


def settings(pair, out, paths=("x.jsonl",), **score):
    trajectories = {"format": "chat", "paths": list(paths)}
    return config.parse({"trajectories": trajectories, "pair": pair, "score": score, "output": str(out)})


def test_without_vllm_or_with_too_many_tokens_nothing_starts(pair, tmp_path, monkeypatch):
    def checked(**score):
        loaded = settings(pair, tmp_path, **score)
        check_lengths(loaded, check_models(loaded.pair, loaded.score))
        return loaded

    monkeypatch.setattr(vllm, "installed", lambda: None)
    checked(max_length=9999)
    with pytest.raises(ConfigError, match=r"^score\.engine: vllm is not installed; `pip install 'pa-dist\[vllm\]'`.*$"):
        checked(engine="vllm", max_length=511)
    monkeypatch.setattr(vllm, "installed", lambda: "0.32.0")
    with pytest.raises(
        ConfigError, match=r"^score\.max_length: vLLM takes at most 511 tokens of pair\.policy, got 512$"
    ):
        checked(engine="vllm", max_length=512)
    checked(engine="vllm")  # cut to what it takes
    loaded = checked(engine="vllm", max_length=511)
    assert ScoreStage(RunFolder(loaded.output), loaded.scoring).settings()["versions"]["vllm"] == "0.32.0"


def test_what_pa_dist_decides_is_no_option(pair, tmp_path):
    for name, key in (("dtype", "what score.dtype says"), ("seed", "set by pa_dist itself")):
        with pytest.raises(ConfigError, match=rf"^score\.vllm\.options: {name} is {key}$"):
            settings(pair, tmp_path, vllm={"options": {"enable_expert_parallel": True, name: 0}})


def test_a_run_is_known_by_its_options(pair, tmp_path):
    def known(**score):
        loaded = settings(pair, tmp_path, **score)
        return ScoreStage(RunFolder(loaded.output), loaded.scoring).settings().get("vllm_options")

    options = {"limit_mm_per_prompt": {"image": 0}}
    assert known(engine="vllm", vllm={"options": options}) == options
    assert known(engine="vllm") is known(vllm={"options": options}) is None


def test_an_actor_takes_the_gpus_of_its_tensor_parallel_engine(monkeypatch):
    def with_gpus(n):
        node = {"Alive": True, "Resources": {"GPU": n, "CPU": 16.0}, "Labels": {}}
        monkeypatch.setattr(pools.ray, "nodes", lambda: [node])

    def gpus(**score):
        return [pool.num_gpus for pool in pools.share_out(Score(**score)).values()]

    with_gpus(8.0)
    assert gpus(engine="vllm", vllm={"tensor_parallel_size": 4}) == [4.0, 4.0]
    assert gpus(engine="vllm") == [1.0, 1.0]
    with_gpus(0.0)
    assert gpus(engine="vllm", vllm={"tensor_parallel_size": 4}) == [0.0, 0.0]


class Lacking:
    """An engine that gives what vLLM gives."""

    def score(self, sequences):
        zeros = [np.zeros(len(sequence.positions), np.float32) for sequence in sequences]
        return [TokenColumns(values, values, None, None) for values in zeros]


def test_columns_that_an_engine_lacks_are_null_on_disk(tmp_path):
    tokenizer = save_tokenizer(tmp_path, bos=True)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    table = pa.Table.from_pylist([{"trajectory_id": "a", "messages": messages}], schema.TRAJECTORIES)
    table, _ = rows.tokenize_rows(table, [tokenizer], [10_000], "assistant", 100)
    (row,) = rows.token_rows(table, "policy")
    n = len(row.positions)
    # Its tokens once as one sequence and once as two: where a row has several, what they lack it lacks.
    for model, lengths in zip(schema.MODELS, ([len(row.ids)], [2, len(row.ids) - 2]), strict=True):
        given = [row._replace(lengths=np.array(lengths, np.int32))]
        (kept,) = attempts.outcomes(partial(score_rows, Lacking()), ["a"], given, attempts.Attempts())
        table = rows.with_columns(table, model, "policy", [kept])
    folder = RunFolder(str(tmp_path / "run"))
    folder.write("logprobs", "part", rows.logprobs_table(table), **schema.LOGPROBS_ENCODING)
    (row,) = folder.dataset("logprobs", schema.LOGPROBS).to_table().to_pylist()
    assert row["policy_topk_logprob_mean"] == [[0.0] * n]
    assert {name for name, value in row.items() if name.startswith("policy_") and value == [None]} == {
        f"policy_{name}" for name in NULL_COLUMNS["vllm"]
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pair that vLLM takes: its attention wants heads of 32 or more."""
    root = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate(schema.MODELS):
        save_model(root / name, seed, head_dim=32)
        save_tokenizer(root / name, bos=True)
    return {name: str(root / name) for name in schema.MODELS}


@pytest.fixture(scope="module")
def tiny_chat(tiny, tmp_path_factory):
    """The same with a chat template that rewrites history, so that each action has a sequence of its own."""
    root = tmp_path_factory.mktemp("chat")
    for name, folder in tiny.items():
        shutil.copytree(folder, root / name)
        save_chat_tokenizer(root / name, "empty_thought")
    return {name: str(root / name) for name in schema.MODELS}


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm_gives_what_hf_gives(tiny):
    # Prompts of several passes, a whole one, one token, and a token that is not asked for.
    small = {"max_num_batched_tokens": 64, "gpu_memory_utilization": 0.1, "options": {"max_num_seqs": 3}}
    engine = vllm.VLLMEngine(tiny["policy"], max_length=300, top_k=5, **small)
    assert engine._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs == 3
    rng = np.random.default_rng(0)
    sequences = []
    for length in (300, 64, 2, 1, 65, 200):
        at = (np.flatnonzero(rng.random(length - 1) < 0.6) + 1).astype(np.int32)
        sequences.append(TokenSequence(rng.integers(0, 320, length).astype(np.int32), at))
    sequences.append(sequences[0])
    expected = HFEngine(load_model(tiny["policy"]), top_k=5).score(sequences)
    for _ in range(2):  # the second time, whatever a cache might have kept
        for one, other in zip(engine.score(sequences), expected, strict=True):
            np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)
            np.testing.assert_allclose(one.topk_logprob_mean, other.topk_logprob_mean, atol=1e-4)
            assert {name for name, values in one._asdict().items() if values is None} == set(NULL_COLUMNS["vllm"])
    assert engine.work.tokens == 2 * sum(len(s.ids) for s in sequences)
    with pytest.raises(ValueError, match="301 tokens; vLLM takes 1 to 300"):
        engine.score([TokenSequence(np.zeros(301, np.int32), np.array([1], np.int32))])


@pytest.mark.vllm
def test_options_are_arguments_of_its_engine(tiny, tmp_path):
    loaded = settings(tiny, tmp_path, engine="vllm", vllm={"options": {"limit_mm_per_prompts": {"image": 0}}})
    with pytest.raises(
        ConfigError, match=r"^score\.vllm\.options\.limit_mm_per_prompts: no argument .*'limit_mm_per_p"
    ):
        check_models(loaded.pair, loaded.score)
    loaded = settings(tiny, tmp_path, engine="vllm", vllm={"options": {"enable_expert_parallel": True}})
    check_models(loaded.pair, loaded.score)


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("style", ["plain", "chat"])
@pytest.mark.parametrize("real", [False, True])
def test_a_run_by_vllm_ends_in_the_same_tables(real, style, tiny, tiny_chat, chat_file, tmp_path, monkeypatch):
    if real and "PA_DIST_MODEL" not in os.environ:
        pytest.skip("PA_DIST_MODEL names no folder of a small model, such as SmolLM2")
    small_pair = tiny if style == "plain" else tiny_chat
    pair = dict.fromkeys(schema.MODELS, os.environ["PA_DIST_MODEL"]) if real else small_pair
    # As a process leaves it that has used vLLM on a CPU, and as its documentation asks for: torch and vLLM then share
    # one OpenMP.
    monkeypatch.setenv("LD_PRELOAD", ":".join(map(str, (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))))
    small = {"max_num_batched_tokens": 512, "gpu_memory_utilization": 0.12}
    score = {"dtype": "float32", "max_length": 200, "rows_per_block": 8, "vllm": small}
    loaded = settings(pair, tmp_path, [str(chat_file)], **score)
    loaded = loaded.model_copy(update={"render": config.Render(style=style)})
    found = differences(loaded, str(tmp_path))
    assert {name for name, value in found.items() if value is None} == {
        *(f"policy_{name}" for name in NULL_COLUMNS["vllm"]),
        *(f"reference_{name}" for name in schema.TOKEN_COLUMNS[1:]),  # which no method reads
    }
    largest = max(value for value in found.values() if value is not None)
    print(f"largest difference {largest:.1e}")
    assert largest < 1e-3
    folder = RunFolder(str(tmp_path / "vllm"))
    stage = folder.manifest["stages"]["score"]
    assert (stage["rows"], stage["rejects"]) == (12, 1)
    assert stage["null_columns"] == NULL_COLUMNS["vllm"]
    assert stage["models"]["policy"]["flops"] is None
