"""The noise of half precision: by hand, in words, and measured in a run."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shared_ray
from rich.console import Console
from test_quantised_checkpoints import by_torchao, save_fp8, save_packed
from tiny_models import save_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pa_dist import config, open_run, schema, stages
from pa_dist.report.facts import facts
from pa_dist.report.terminal.metrics import show_metrics
from pa_dist.runtime.pools import Actors
from pa_dist.score import noise
from pa_dist.score.noise_said import in_words
from pa_dist.score.scorer import dtype_of
from pa_dist.score.stage import ScoreStage
from pa_dist.status import status
from pa_dist.store.folder import RunFolder


def table(rows, apart=False):
    """Rows of an id, the policy's and the reference's log-probs by step."""
    return pa.Table.from_pylist(
        [
            {"trajectory_id": key, "policy_logprob": p, "reference_logprob": r,
             "token_ids_reference": [[1] for _ in r] if apart else None}
            for key, p, r in rows
        ],
        pa.schema([schema.LOGPROBS.field(name) for name in noise._READ]),
    )  # fmt: skip


def test_tokens_compare_by_hand():
    stored = table([("a", [[-1.0, -2.0], None], [[-2.0, -2.0], [-1.0]]), ("lost", [[-9.0]], [[-1.0]])])
    exact = table([("a", [[-1.25, -2.0], [-5.0]], [[-2.0, -1.5], [-1.0]])])
    found = noise.compare(stored, exact)
    # Advantages 1 and 0, truly 0.75 and -0.5; a step without a log-prob does not count, nor does a row scored once.
    assert (found["rows"], found["of"], found["n"]) == (1, "token", 2)
    assert found["error"] == pytest.approx(0.125)
    assert found["spread"] == pytest.approx(0.625)
    assert found["share"] == pytest.approx(0.2)
    assert found["correlation"] == pytest.approx(1)


def test_models_of_other_tokens_compare_by_steps():
    stored = table([("a", [[-1.0, -2.0], [-1.0]], [[-2.0], [-0.5, -1.0]])], apart=True)
    exact = table([("a", [[-1.0, -2.5], [-1.0]], [[-2.0], [-0.5, -1.5]])], apart=True)
    found = noise.compare(stored, exact)
    assert (found["of"], found["n"]) == ("step", 2)
    assert found["error"] == pytest.approx(0.5)  # -1 and 0.5 where -1.5 and 1 are true
    assert found["spread"] == pytest.approx(1.25)


def test_what_does_not_vary_has_no_share():
    same = table([("a", [[-1.0]], [[-2.0]])])
    assert noise.compare(same, same)["share"] is None
    assert noise.compare(same, table([]))["n"] == 0


def test_in_words():
    settings = {"score": {"dtype": "auto"}}
    found = {"rows": 4, "of": "token", "n": 1234, "share": 0.044, "correlation": 0.999, "dtypes": ["float16"]}
    said = in_words({"settings": settings, "noise": found})
    assert said == (
        "noise of float16: the advantage of a token is off by 4.4% of its spread, correlation 0.999 (standard "
        "deviations, 4 trajectories again in float32, 1,234 tokens)"
    )
    loud = in_words({"settings": settings, "noise": {**found, "share": 0.34}})
    assert loud == said.replace("4.4%", "34.0%") + "; that is much, and score.dtype=float32 has none"
    assert in_words({"settings": settings, "noise": {"reason": "all is scored in float32"}}) == ""
    assert in_words({"settings": settings}) == ""
    failed = {"reason": "OutOfMemoryError: no room"}
    assert in_words({"settings": settings, "noise": failed}).endswith("not measured: OutOfMemoryError: no room")


@pytest.mark.parametrize(("rows", "wanted"), [([5, 5], 4), ([1, 1, 1], 2), ([3], 8), ([], 4)])
def test_trajectories_are_drawn_from_all_over_the_table(tmp_path, rows, wanted):
    folder = RunFolder(str(tmp_path))
    keys = iter("abcdefghijklm")
    for part, n in enumerate(rows):
        folder.write("logprobs", f"part-{part}", table([(next(keys), [[-1.0]], [[-2.0]]) for _ in range(n)]))
    found = noise._some(folder, wanted)["trajectory_id"].to_pylist()
    assert len(found) == len(set(found)) == min(wanted, sum(rows))
    if rows == [5, 5]:
        assert found == ["a", "e", "f", "j"]


@pytest.mark.integration
def test_a_run_in_half_precision_says_how_noisy_it_is(pair, chat_file, tmp_path):
    shared_ray.join()
    loaded = config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": {"policy": pair["policy"], "references": dict.fromkeys(("base", "same"), pair["reference"])},
            "score": {"dtype": "bfloat16", "device": "cpu", "max_length": 60, "noise_rows": 3},
            "evaluate": {"intervals": "none"},
            "output": str(tmp_path / "out"),
        }
    )
    said = []
    stages.run(loaded, said.append)
    folder = RunFolder(loaded.output)
    found = folder.manifest["stages"]["score"]["noise"]
    assert (found["rows"], found["of"], found["dtypes"]) == (3, "token", ["bfloat16"])
    assert 0 < found["share"] < 0.2
    assert found["correlation"] > 0.98
    # A further reference has its own, here of the same model.
    assert folder.manifest["stages"]["reference same"]["noise"] == found
    # What it is against: the same rows of a run in float32.
    exact = {**loaded.model_dump(mode="json"), "output": str(tmp_path / "exact")}
    exact["score"]["dtype"] = "float32"
    stages.run(config.parse(exact), lambda line: None)
    of = RunFolder(exact["output"])
    assert of.manifest["stages"]["score"]["noise"] == {"reason": "all is scored in float32"}
    ids = noise._some(folder, 3)["trajectory_id"].to_pylist()
    by_id = [
        run.dataset("logprobs").to_table(columns=noise._READ).filter(pa.compute.field("trajectory_id").isin(ids))
        for run in (folder, of)
    ]
    np.testing.assert_allclose(noise.compare(*by_id)["share"], found["share"], rtol=1e-3)
    line, other = (line for line in said if "noise of bfloat16" in line)
    assert other == f"reference same: {line.removeprefix('score: ')}"
    assert line == f"score: {in_words(folder.manifest['stages']['score'])}"
    assert dict(facts(folder))["Precision"] in line
    assert json.loads(folder.read("manifest.json"))


@pytest.mark.integration
@pytest.mark.parametrize(("by", "dtype"), [("fp8", "bfloat16"), ("bitsandbytes", "float32"), ("torchao", "float32")])
def test_the_noise_of_quantised_models_is_against_their_dequantised_weights(by, dtype, pair, chat_file, tmp_path):
    if by != "fp8":
        pytest.importorskip(by)
    shared_ray.join()
    folders = {}
    for seed, name in enumerate(schema.MODELS):
        folders[name] = Path(shutil.copytree(pair[name], tmp_path / name))
        save_model(folders[name], seed, hidden_size=64)  # bitsandbytes packs so many at a time
        model = AutoModelForCausalLM.from_pretrained(folders[name])
        if by == "fp8":
            save_fp8(model, folders[name])
        elif by == "torchao":
            save_packed(model, folders[name], by_torchao())
        else:
            save_packed(model, folders[name], BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    loaded = config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": {name: str(folder) for name, folder in folders.items()},
            "score": {"dtype": dtype, "device": "cpu", "max_length": 60, "noise_rows": 3},
            "evaluate": {"resamples": 10},
            "output": str(tmp_path / "out"),
        }
    )
    said = []
    stages.run(loaded, said.append)
    run = open_run(loaded.output)
    assert run.manifest["stages"]["score"]["loaded"]["policy"]["quantised"] == by
    packed = dtype if by == "fp8" else f"{dtype} with {by}"  # FP8 is dequantised where there is no GPU
    if by == "torchao":
        assert run.noise == {"reason": "EngineError: transformers does not dequantise weights packed by torchao"}
        words = "noise of float32: not measured: EngineError: "
    else:
        assert (run.noise["rows"], run.noise["dtypes"]) == (3, [packed])
        # Where bitsandbytes has no kernel of its own for a CPU it dequantises as well, and nothing is off.
        assert 0 <= run.noise["share"] < 0.2
        words = f"noise of {packed}: the advantage of a token is off by "
    assert [line for line in said if words in line]
    assert [line for line in status(run.folder) if words in line]
    out = io.StringIO()
    show_metrics(loaded.output, Console(file=out))
    assert words in out.getvalue()


def test_a_table_has_one_dtype_wherever_the_run_goes_on(pair, tmp_path):
    loaded = config.parse(
        {"trajectories": {"format": "chat", "paths": ["x"]}, "pair": pair, "output": str(tmp_path / "out")}
    )
    on_a_gpu, on_a_cpu = ({"policy": Actors(1, 1, gpus, 1.0, {})} for gpus in (1.0, 0.0))
    for began, goes_on, dtype in ((on_a_gpu, on_a_cpu, "float16"), (on_a_cpu, on_a_gpu, "float32")):
        folder, lines = RunFolder(str(tmp_path / dtype)), []
        folder.claim()
        stage = ScoreStage(folder, loaded.scoring)
        assert stage._pin_dtype(began, lines.append) == dtype
        folder.start("score", {}, dtype=dtype)
        assert lines == []
        again = ScoreStage(folder, loaded.scoring)
        assert again._pin_dtype(goes_on, lines.append) == again._pinned.score.dtype == dtype
        assert lines[0].startswith(f"score: it goes on in {dtype}, as it began; here score.dtype=auto would be ")
    assert dtype_of(config.Score(engine="vllm"), "cuda") == "bfloat16"
    assert dtype_of(config.Score(engine="vllm", dtype="float16"), "cuda") == "float16"
    assert dtype_of(config.Score(engine="vllm"), "cpu") == dtype_of(config.Score(), "cpu") == "float32"
