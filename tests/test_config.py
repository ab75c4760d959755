"""Every shipped config loads, and every mistake is one line that names its key."""

from pathlib import Path

import pytest

from pa_dist.config import Merged, load, parse
from pa_dist.errors import ConfigError
from pa_dist.pairs import PAIRS

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    assert load(path).name.startswith(path.stem.removesuffix("_off_policy").replace("_", "-"))
    assert load(path).output == f"runs/{load(path).name}"


FILES = {
    "uq_tau2": "data/tau2/greedy/{}/*.json",
    "bon_webshop": "data/webshop/bon8/{}/trial_*/webshop.json",
    "fa_who_and_when": "data/who_and_when/*/*.json",
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("scenario", FILES)
def test_published_scenarios_score_the_trajectories_they_name(scenario, pair):
    loaded = load(FOLDER / f"{scenario}.yaml", [f"pair={pair}"])
    assert (loaded.pair.policy, loaded.pair.reference) == (PAIRS[pair].policy, PAIRS[pair].reference)
    assert loaded.trajectories.paths == [FILES[scenario].format(pair)]
    assert loaded.output == f"runs/{scenario.replace('_', '-')}-{pair}"


def test_a_pair_reads_what_another_model_did():
    loaded = load(FOLDER / "uq_tau2_off_policy.yaml", ["source=qwen3-14b"])
    assert loaded.pair.policy == PAIRS["gemma4-4b"].policy
    assert loaded.trajectories.paths == ["data/tau2/greedy/qwen3-14b/*.json"]
    assert loaded.output == "runs/uq-tau2-gemma4-4b-on-qwen3-14b"


def test_a_pair_without_a_name_needs_a_source():
    own = "pair={policy: a, reference: b}"
    with pytest.raises(
        ConfigError, match=r"^trajectories\.paths: \{source\} is the name of a model; a pair that is known"
    ):
        load(FOLDER / "uq_tau2.yaml", [own])
    assert load(FOLDER / "uq_tau2.yaml", [own, "source=x"]).output == "runs/uq-tau2-own-pair"
    others = load(FOLDER / "uq_tau2.yaml", [own, "trajectories={format: chat, paths: [a.jsonl]}"])
    assert others.trajectories.paths == ["a.jsonl"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("score.max_lenght=4", "score.max_lenght: unknown key; did you mean 'max_length'?"),
        (
            "score.policy.replicas=0",
            "score.policy.replicas: auto, a whole number above 0, or {min: 1, max: 8}, got '0'",
        ),
        ("score.policy.replicas={min: 2}", "score.policy.replicas: auto, a whole number above 0, or {min: 1, max: 8}"),
        ("score.policy.replicas={min: 3, max: 1}", "score.policy.replicas: min: 3 is more than max: 1"),
        ("scroe.x=1", "scroe: unknown key; did you mean 'score'?"),
        (
            "score.dtype=bflot16",
            "score.dtype: Input should be 'auto', 'float16', 'bfloat16' or 'float32', got 'bflot16'",
        ),
        ("evaluate.scenarios=[uqq]", "evaluate.scenarios.0: Input should be"),
        ("score={engine: vllm, device: cpu}", "score: device is not for engine vllm"),
        (
            "score={engine: vllm, vllm: {tensor_parallel_size: 2}, reference: {num_gpus: 1}}",
            "score: reference.num_gpus of 1 are not vllm.tensor_parallel_size of 2",
        ),
        (
            "score.policy={tensor_parallel_size: 2, num_gpus: 1}",
            "score: policy.num_gpus of 1 are not policy.tensor_parallel_size of 2",
        ),
        (
            "score={engine: vllm, policy: {tensor_parallel_size: 2}}",
            "score: policy.tensor_parallel_size is for engine hf; vllm.tensor_parallel_size is vLLM's",
        ),
        (
            "score.vllm.gpu_memory_utilization=2",
            "score.vllm.gpu_memory_utilization: Input should be less",
        ),
        ("score.policy.num_gpus=-1", "score.policy.num_gpus: Input should be greater than or equal to 0, got -1"),
        ("evaluate.beta=.inf", "evaluate.beta: Input should be a finite number"),
        ("evaluate.success_threshold=.nan", "evaluate.success_threshold: Input should be a finite number"),
        ("score.policy.num_cpus=.inf", "score.policy.num_cpus: Input should be a finite number"),
        ("evaluate.seed=-1", "evaluate.seed: Input should be greater than or equal to 0, got -1"),
        ("trajectories.limit=99999999999", "trajectories.limit: Input should be less than"),
        ("merge={method: ties, alphas: [1], seed: -1}", "merge.seed: Input should be greater than or equal to 0"),
        ("merge={method: [ties, emr, ties], alphas: [1]}", "merge.method: a method is there twice"),
        ("trajectories.paths=[]", "trajectories.paths: List should have at least 1 item"),
        ("reward_models.rm={kind: thinkprm, max_lenght: 3}", "reward_models.rm.max_lenght: unknown key; did you mean"),
        ("reward_models.rm={kind: classifer}", "reward_models.rm.kind: one of classifier, wildreward, thinkprm"),
        ("reward_models.rm={kind: classifier}", "reward_models.rm.model: missing"),
        ("reward_models.r__m={kind: wildreward}", "reward_models.r__m: String should match pattern"),
        (
            "reward_models.rm={kind: wildreward, read: probability}",
            "reward_models.rm: label: goes with read=probability",
        ),
        # `no` is the text no, in which the marks are missing.
        ("reward_models.rm={kind: wildreward, prompt: no}", "reward_models.rm.prompt: a prompt holds {query} and"),
        (
            "reward_models.rm={kind: wildreward, prompt: [no]}",
            "reward_models.rm.prompt: Input should be a valid string",
        ),
        (
            "reward_models.rm={kind: wildreward, prompt: '{response}'}",
            "reward_models.rm.prompt: a prompt holds {query} and",
        ),
        ("reward_models.rm={kind: thinkprm, max_length: 4096}", "reward_models.rm: max_new_tokens: 4096 leave no room"),
        ("limit", "'limit': an override is key.path=value"),
        ("output.x=1", "output.x: output has no keys below it"),
        ("name=[", "name: not YAML"),
    ],
)
def test_mistakes(override, message):
    with pytest.raises(ConfigError) as caught:
        load(CONFIGS[0], [override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_overrides_are_yaml():
    loaded = load(CONFIGS[0], ["trajectories.paths=[a, b]", "evaluate.scenarios=uq", "score.reference.replicas=2"])
    assert loaded.trajectories.paths == ["a", "b"]
    assert loaded.evaluate.scenarios == ["uq"]
    assert loaded.score.reference.replicas == 2
    assert loaded.score.policy.replicas == "auto"


def test_a_file_nested_without_end_is_one_line(tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text("{a: " * 3000 + "1" + "}" * 3000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(path)


def with_pair(pair, **sections):
    trajectories = {"format": "chat", "paths": ["x.jsonl"]}
    return parse({"trajectories": trajectories, "pair": pair, "output": "out", **sections})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"reference": "r", "references": {"a": "x", "b": "r"}}, "pair: references: name these, or one `reference`"),
        ({}, "pair.reference: missing"),
        ({"references": {}}, "pair: references: a mapping of names to models"),
        ({"references": ["r"]}, "pair: references: a mapping of names to models"),
        ({"references": {"A": "r"}}, "pair.references.A: String should match pattern"),
        ({"references": {"a": "r", "b__c": "r"}}, "pair.references.b__c: String should match pattern"),
        ({"references": {"a": "r", "b": {"modell": "r"}}}, "pair.references.b.model: missing"),
        ({"references": {"a": "r", "b": {"model": "r", "dir": "x"}}}, "pair.references.b.dir: unknown key"),
        (
            {"references": {"a": "r", "b": {"model": "r", "adapter_revision": "x"}}},
            "pair.references.b: adapter_revision: there is no adapter",
        ),
    ],
)
def test_mistakes_in_references(pair, message):
    with pytest.raises(ConfigError) as caught:
        with_pair({"policy": "p", **pair})
    assert str(caught.value).startswith(message)


def test_several_references_are_pairs_of_one_policy():
    adapted = {"model": "b", "revision": "1", "adapter": "x", "adapter_revision": "2"}
    found = with_pair({"policy": "p", "policy_revision": "0", "references": {"base": "a", "dpo": adapted}})
    alone = [with_pair({"policy": "p", "policy_revision": "0", "reference": of}).scoring for of in ("a", adapted)]
    assert found.scoring == alone[0]._replace(reference="base")
    assert found.more_scoring == {"dpo": alone[1]._replace(reference="dpo")}
    assert alone[0].reference is None
    assert parse(found.model_dump(mode="json")) == found
    said = "pair.policy, pair.reference: one; pair.reference_adapter: 'pair.reference'; pair.references"
    key = "pair.references.dpo"
    assert found.more_scoring["dpo"].called(said) == (
        f"pair.policy, {key}: one; {key}.adapter: '{key}'; pair.references"
    )
    assert alone[0].called(said) == said


def test_each_way_to_merge_with_each_alpha_is_a_reference():
    merge = {"method": ["linear", "ties"], "alphas": [0, 0.5, 1, -0.25], "density": 0.3}
    found = with_pair({"policy": "p", "references": {"base": "a", "dpo": "b"}}, merge=merge)
    names = [f"{method}-{alpha}" for method in ("linear", "ties") for alpha in ("0.5", "1", "-0.25")]
    assert list(found.more_scoring) == ["dpo", *names]
    assert found.more_scoring["ties-1"] == found.scoring._replace(merge=Merged("ties", 1.0, density=0.3))
    with pytest.raises(ConfigError, match=r"pair\.references\.ties-1: a merged reference has this name"):
        with_pair({"policy": "p", "references": {"base": "a", "ties-1": "b"}}, merge=merge)
