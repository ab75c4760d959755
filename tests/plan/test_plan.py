"""Plans of tiny pairs: figures by hand, errors of one line, and what a run on Ray then used."""

import io
import json
import os
from pathlib import Path

import pytest
import shared_ray
import tiny_models
import torch
from benchmarks.planning import planned, used
from rich.console import Console
from safetensors.torch import save_file
from test_hf import FAMILIES
from tiny_models import save_classifier, save_critic, save_model, save_tokenizer
from transformers import AutoTokenizer
from typer.testing import CliRunner

from pa_dist import config
from pa_dist.cli import app
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.plan.devices import Speed
from pa_dist.plan.plan import _device, _fit, plan
from pa_dist.plan.show import show_plan
from pa_dist.render.plain import render
from pa_dist.stages import ingest_and_score
from pa_dist.store.folder import RunFolder

DATA = Path(os.environ.get("PA_DIST_DATA", Path(__file__).parents[3] / "shared" / "data"))
H100 = 989e12 * 0.4


def settings(pair, chat_file, out="never-made", **sections):
    return config.parse(
        {
            "name": "[red]desk",
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "output": str(out),
            **sections,
        }
    )


@pytest.fixture(scope="module")
def rendered(chat_file):
    """The texts of the twelve rollouts that have actions."""
    rows = [json.loads(line) for line in chat_file.read_text().splitlines()[:12]]
    blank = {"name": None, "content": None, "tool_calls": None}
    for row in rows:
        for message in row["messages"]:
            calls = [call["function"] | {"id": call["id"]} for call in message.get("tool_calls", [])]
            message.update({**blank, **message, "tool_calls": calls})
    return [render(row["messages"], "assistant") for row in rows]


def lengths(texts, tokenizer):
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_counts_are_those_of_the_texts(pair, chat_file, rendered):
    found = plan(settings(pair, chat_file), device="H100")
    tokenizer = AutoTokenizer.from_pretrained(pair["policy"])
    pieces = [lengths(row.texts, tokenizer) for row in rendered]
    assert found.exact
    assert (found.records, found.trajectories, found.scored.value) == (14, 13, 12)
    assert found.models["policy"].tokens.value == sum(1 + sum(row) for row in pieces)
    actions = [row[i] for row, trajectory in zip(pieces, rendered, strict=True) for i in trajectory.actions]
    assert (found.steps.value, found.action_tokens.value) == (24, sum(actions))
    assert found.models["policy"].distinct_tokens.value < found.models["policy"].tokens.value
    reasons = {(reject.stage, reject.count): reject.reason for reject in found.rejects}
    assert reasons["score", 1] == "no message is an action"
    assert reasons["ingest", 1].startswith("not JSON")
    assert not Path("never-made").exists()


def test_what_is_too_long_is_truncated(pair, chat_file, rendered):
    found = plan(settings(pair, chat_file, score={"max_length": 60}), device="H100")
    assert found.truncated.value == found.scored.value == 12
    assert found.models["policy"].tokens.value == 12 * 60


def test_hours_by_hand(pair, chat_file):
    pools = {"policy": {"replicas": 4}, "reference": {"num_gpus": 0.5}}
    found = plan(settings(pair, chat_file, score=pools), device="h100")
    flops = found.models["policy"].flops.value
    assert found.models["reference"].flops.value == flops
    (device,) = found.devices
    # Half a device takes twice as long as a whole one, and as many device-hours.
    assert device.hours == pytest.approx(2 * flops / H100 / 3600)
    assert device.device_hours == pytest.approx(2 * flops / H100 / 3600)
    merged = settings(pair, chat_file, score=pools, merge={"method": "linear", "alphas": [0, 0.5, 1]})
    more = plan(merged, device="H100", share=0.2)
    assert more.models["reference"].passes == 3
    assert more.devices[0].hours == pytest.approx(3 * 2 * device.hours)
    assert more.devices[0].device_hours == pytest.approx((1 + 3) * device.device_hours)
    # Of the merged ones the reference's columns alone are written.
    assert found.logprobs_bytes.value < more.logprobs_bytes.value < 2 * found.logprobs_bytes.value


def test_further_references_are_counted_after_the_pair(pair, chat_file):
    references = dict.fromkeys(("base", "dpo", "sft"), pair["reference"])
    several = {"policy": pair["policy"], "references": references}
    one, more = (plan(settings(of, chat_file), device="H100") for of in (pair, several))
    assert list(more.models) == ["policy", "reference", "reference dpo", "reference sft"]
    assert more.models["reference dpo"].flops == one.models["reference"].flops
    assert more.models["reference sft"].memory == one.models["reference"].memory
    assert more.devices[0].hours == pytest.approx(3 * one.devices[0].hours)
    assert more.devices[0].device_hours == pytest.approx(2 * one.devices[0].device_hours)
    assert more.devices[0].fits == dict.fromkeys(more.models, True)
    assert "references: the further ones are scored one after the other, after the pair" in more.assumptions
    same = {**several, "references": {**references, "sft": pair["policy"]}}
    with pytest.raises(ConfigError, match=r"^pair\.policy, pair\.references\.sft: .* every advantage would be 0"):
        plan(settings(same, chat_file), device="H100")


def test_all_devices_or_this_one(pair, chat_file):
    loaded = settings(pair, chat_file, score={"dtype": "float32", "device": "cpu"})
    assert [device.device for device in plan(loaded).devices][-1] == "B200"
    planned_here = plan(loaded, device="here")
    (here,) = planned_here.devices
    assert here.device_hours == here.hours > 0
    assert any("at the same time on this machine" in line for line in planned_here.assumptions)
    assert any("on devices of their own" in line for line in plan(loaded).assumptions)
    assert here.fits == {"policy": True, "reference": True}
    with pytest.raises(ConfigError, match=r"^--device: unknown device 'H10'; did you mean H100\?; one of L4, .* here$"):
        plan(loaded, device="H10")


def test_memory_by_hand(pair, chat_file):
    found = plan(
        settings(pair, chat_file, score={"prefix_sharing": "off", "rows_per_block": 12}), device="H100"
    ).models["policy"]
    assert found.memory["weights"] == 2 * found.parameters
    assert found.memory["keys_and_values"] == 0
    assert found.apart == "as asked"
    assert found.distinct_tokens == found.tokens
    # A pass holds all twelve, in rows as wide as the longest; a token of 320 logits 4, 4 and 4 bytes of each.
    longest = found.memory["logits"] / 12 / 320
    assert longest % 12 == 0
    assert longest * 12 >= found.tokens.value / 12


def test_as_fast_as_an_earlier_run(pair, chat_file, tmp_path):
    folder, loaded = RunFolder(str(tmp_path)), settings(pair, chat_file)
    with pytest.raises(RunFolderError, match="--like takes a folder in which both models were scored"):
        plan(loaded, like=str(tmp_path))
    done = {"tokens": 10, "tokens_per_second": 5.0, "flops_per_second": 4e9, "actors": [{"device": "cuda:0"}]}
    folder.start("score", {})
    folder.finish("score", models={"policy": done, "reference": {**done, "flops_per_second": 2e9}})
    found = plan(loaded, like=str(tmp_path))
    assert found.devices[0].hours == pytest.approx(found.models["reference"].flops.value / 2e9 / 3600)
    folder.finish("score", models={key: {**done, "flops_per_second": None} for key in ("policy", "reference")})
    found = plan(loaded, like=str(tmp_path))
    assert found.devices[0].hours == pytest.approx(found.models["reference"].tokens.value / 5 / 3600)


def test_vllm_shares_nothing_and_need_not_be_installed(pair, chat_file):
    shared = plan(settings(pair, chat_file, score={"max_length": 511}), device="H100")
    found = plan(settings(pair, chat_file, score={"engine": "vllm", "max_length": 511}), device="H100")
    assert found.models["policy"].distinct_tokens == found.models["policy"].tokens == shared.models["policy"].tokens
    assert found.models["policy"].flops.value > shared.models["policy"].flops.value
    assert "vLLM reads no prefix again" in found.models["policy"].apart


@pytest.mark.parametrize("num_gpus", [None, 4])
def test_four_gpus_of_one_replica_are_a_quarter_of_the_hours_and_four_memories(pair, chat_file, num_gpus):
    pool = {"num_gpus": num_gpus}
    score = {"engine": "vllm", "max_length": 511, "policy": pool, "reference": pool}
    (one,) = plan(settings(pair, chat_file, score={**score, "policy": {}, "reference": {}}), device="L4").devices
    config = settings(pair, chat_file, score={**score, "vllm": {"tensor_parallel_size": 4}})
    (four,) = plan(config, device="L4").devices
    assert four.hours == pytest.approx(one.hours / 4)
    assert four.device_hours == pytest.approx(one.device_hours)
    pool, speed = config.score.policy, Speed("L4", "cuda", 22.0, "flops", {}, "")
    pools = {"policy": pool, "reference": pool}
    fits = _fit({"policy": 88, "reference": 89}, pools, speed, dict.fromkeys(pools, 4))
    assert fits == {"policy": True, "reference": False}


def test_two_processes_of_one_model_share_its_weights_and_each_have_a_pass(pair, chat_file):
    wide = {"tensor_parallel_size": 2}
    one, two = (plan(settings(pair, chat_file, score={"policy": p}), device="L4") for p in ({}, wide))
    assert two.devices[0].hours == pytest.approx(one.devices[0].hours)  # which the reference takes
    assert two.devices[0].device_hours == pytest.approx(one.devices[0].device_hours)
    before, after = (found.models["policy"].memory for found in (one, two))
    assert after == {**before, "passing": 2 * before["passing"], "logits": 2 * before["logits"]}
    assert two.models["reference"].memory == before


def one_machine(pair, chat_file, kind, machine, memory, policy, reference, alphas=()):
    """The plan for one machine, in passes of a model by one core or GPU, and its replicas' memory in those of one."""
    merge = {"merge": {"method": "linear", "alphas": list(alphas)}} if alphas else {}
    config = settings(pair, chat_file, score={"policy": policy, "reference": reference}, **merge)
    models = plan(config, device="H100").models
    flops, bytes_ = models["policy"].flops.value, sum(models["policy"].memory.values())
    assert models["reference"].flops.value == flops
    assert sum(models["reference"].memory.values()) == bytes_
    rates = dict.fromkeys(models, flops)  # a pass takes a second
    found = _device(config, Speed("here", kind, memory * bytes_, "flops", rates, "", machine), models, {})
    return found.hours * 3600, found.device_hours * 3600, list(found.fits.values())


CORE, HALF, NULL = {"num_cpus": 1}, {"num_gpus": 0.5}, {}


@pytest.mark.parametrize(
    ("cores", "memory", "policy", "reference", "hours", "fits"),
    [
        (1, 1.9, CORE, CORE, 2, [False, False]),  # one core, two passes; each fits, not both
        (1, 2.0, CORE, CORE, 2, [True, True]),
        (2, 0.9, CORE, CORE, 1, [False, False]),
        (2, 2.0, {"num_cpus": 2}, {"num_cpus": 2}, 2, [True, True]),  # each with both cores, and both at once
        (1, 2.0, {"num_cpus": 8}, {"num_cpus": 8}, 2, [True, True]),  # seven threads have no core
        (2, 3.0, {"replicas": 2}, CORE, 1.5, [True, True]),  # three actors on two cores
        (2, 2.9, {"replicas": 2}, CORE, 1.5, [False, False]),
        (2, 1.9, {"replicas": 2}, CORE, 1.5, [False, True]),
    ],
)
def test_two_models_share_the_cores_and_the_memory_of_one_machine(
    cores, memory, policy, reference, hours, fits, pair, chat_file
):
    found = one_machine(pair, chat_file, "cpu", cores, memory, policy, reference)
    assert found == (pytest.approx(hours), pytest.approx(hours), fits)


@pytest.mark.parametrize(
    ("gpus", "memory", "policy", "reference", "hours", "device_hours", "fits"),
    [
        (1, 2.0, HALF, HALF, 2, 2, [True, True]),
        (1, 1.9, HALF, HALF, 2, 2, [False, False]),
        (1, 2.0, NULL, NULL, 2, 2, [True, True]),  # as a run shares it out
        (1, 1.9, NULL, NULL, 2, 2, [False, False]),
        (2, 1.0, NULL, NULL, 1, 2, [True, True]),
        (1, 1.0, {"num_gpus": 1}, {"num_gpus": 1}, 2, 2, [True, True]),  # one after the other, if Ray let them
        (2, 1.0, {"replicas": 3}, NULL, 2, 2, [False, False]),  # four halves: the reference's takes two seconds
    ],
)
def test_two_models_share_the_gpus_of_one_machine(
    gpus, memory, policy, reference, hours, device_hours, fits, pair, chat_file
):
    found = one_machine(pair, chat_file, "cuda", gpus, memory, policy, reference)
    assert found == (pytest.approx(hours), pytest.approx(device_hours), fits)


def test_merged_references_have_the_machine_for_themselves(pair, chat_file):
    # Both on one core, then two more references, one after the other.
    assert one_machine(pair, chat_file, "cpu", 1, 9, CORE, CORE, (0.5, 1))[0] == pytest.approx(2 + 2)


def test_reward_models_are_shown_the_same_trajectories(pair, chat_file, rendered, tmp_path):
    save_classifier(tmp_path / "judge", 0)
    tokenizer = save_tokenizer(tmp_path / "judge", bos=False)
    save_critic(tmp_path / "critic")
    judge = {"kind": "classifier", "model": str(tmp_path / "judge"), "input": "plain", "max_length": 2000}
    loaded = settings(pair, chat_file, reward_models={"judge": judge})
    found = plan(loaded, device="H100")
    texts = ["".join(row.texts) for row in rendered]
    assert found.reward_models["judge"].tokens.value == sum(lengths(texts, tokenizer))
    assert found.reward_models["judge"].rejects.value == 1
    flops = found.reward_models["judge"].flops.value
    assert found.devices[0].reward_hours == pytest.approx(flops / H100 / 3600)

    critic = {"kind": "thinkprm", "model": str(tmp_path / "critic"), "max_length": 2000, "max_new_tokens": 100}
    found = plan(settings(pair, chat_file, reward_models={"judge": judge, "critic": critic}), device="H100")
    assert found.reward_models["critic"].generated.value == 12 * 100
    assert found.devices[0].reward_hours is None
    out = io.StringIO()
    show_plan(found, Console(file=out))
    shown = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert shown[0] == "plan: [red]desk"
    assert "score 1 no message is an action" in shown
    assert any(line.startswith("reward models: of those that generate") for line in shown)


def test_the_command_prints_one_json_object_or_one_line(pair, chat_file, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(settings(pair, chat_file, tmp_path / "out").model_dump_json())
    done = CliRunner().invoke(app, ["plan", str(path), "trajectories.limit=5", "--device", "H200", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["trajectories"] == 5
    assert found["scored"] == {"value": 5.0, "standard_error": 0.0}
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["plan", str(path), f"pair.reference={tmp_path}/empty"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(f"pair.reference: '{tmp_path}/empty': the folder is empty")


@pytest.mark.integration
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no published trajectories in {DATA}; set PA_DIST_DATA")
def test_a_plan_is_near_what_the_run_uses(tmp_path, monkeypatch):
    corpus = next((DATA / "tau_bench").glob("*.json")).read_text()
    monkeypatch.setattr(tiny_models, "TEXTS", [corpus[start : start + 500] for start in range(0, 200_000, 500)])
    for seed, model in enumerate(("policy", "reference")):
        long = {"vocab_size": 2000, "max_position_embeddings": 6000}
        save_model(tmp_path / model, seed, initializer_range=1.0, **long)  # as sure of itself as a trained one
        save_tokenizer(tmp_path / model, bos=True, vocabulary=2000)
    loaded = config.parse(
        {
            "trajectories": {"format": "tau_bench", "paths": [str(DATA / "tau_bench" / "*.json")], "limit": 40},
            "pair": {model: str(tmp_path / model) for model in ("policy", "reference")},
            "score": {"dtype": "float32", "device": "cpu", "rows_per_block": 2, "max_length": 6000},
            "output": str(tmp_path / "out"),
        }
    )
    whole = plan(loaded, device="here")
    assert whole.exact
    shared_ray.join()
    ingest_and_score(loaded, lambda line: None)
    was = used(RunFolder(loaded.output))
    assert was["policy distinct_tokens"] < 0.9 * was["policy tokens"]
    assert was["truncated_steps"] > 0
    assert planned(whole) == pytest.approx(was, rel=0.15)

    # A sample of a larger corpus against the whole of it, which is planned as the run above uses.
    loaded = loaded.model_copy(update={"trajectories": loaded.trajectories.model_copy(update={"limit": None})})
    sampled, whole = plan(loaded, sample=36, device="H100"), plan(loaded, device="H100")
    assert (sampled.sampled, sampled.exact, whole.sampled, whole.exact) == (36, False, 120, True)
    # Trajectories that are cut are too few for so small a sample.
    assert planned(sampled) | {"truncated_steps": 0} == pytest.approx(planned(whole) | {"truncated_steps": 0}, rel=0.15)
    distinct = sampled.models["policy"].distinct_tokens
    assert abs(distinct.value - whole.models["policy"].distinct_tokens.value) < 3 * distinct.standard_error


def test_layers_that_lack_their_kernels_on_a_gpu_are_named(pair, chat_file, tmp_path, monkeypatch):
    monkeypatch.setattr("pa_dist.engine.kernels.find_spec", lambda module: None)
    torch.manual_seed(0)
    FAMILIES["qwen3_5"]().save_pretrained(tmp_path)
    save_tokenizer(tmp_path, bos=True)
    mixed = {"policy": str(tmp_path), "reference": pair["reference"]}

    def said(device):
        return [line for line in plan(settings(mixed, chat_file), device=device).assumptions if "kernels" in line]

    assert said("here") == []
    [line] = said("H100")
    assert line.startswith(
        "kernels: unless the GPU machine has them, the policy's linear-attention layers run in a loop"
    )


def test_of_one_base_an_actor_does_one_model_after_the_other(pair, chat_file, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    base = pair["reference"]
    found = {
        name: plan(settings(models, chat_file), device="L4")
        for name, models in {
            "two": pair,
            "one": {"policy": {"model": base, "adapter": str(tmp_path)}, "reference": base},
        }.items()
    }
    (two,), (one,) = (each.devices for each in found.values())
    assert one.hours == pytest.approx(2 * two.hours)
    assert one.device_hours == pytest.approx(two.device_hours)
    assert one.fits == two.fits
    assert any("policy and reference in turn" in line for line in found["one"].assumptions)
    assert any(line.startswith("adapters: an actor holds the base once") for line in found["one"].assumptions)
