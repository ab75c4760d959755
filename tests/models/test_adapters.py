"""Adapters before they are loaded."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pa_dist import config
from pa_dist.config import Pair, Score
from pa_dist.errors import ConfigError
from pa_dist.models import adapters
from pa_dist.score.check import check_models, check_pair
from pa_dist.score.mergeable import check_merge


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"x": np.zeros(1)}, folder / "adapter_model.safetensors")
    return folder


def parsed(pair, **other):
    tree = {"trajectories": {"format": "chat", "paths": ["x"]}, "output": "out", "pair": pair, **other}
    return config.parse(tree)


def with_adapter(pair, folder, **keys):
    base = pair["reference"]
    return {"policy": {"model": base, "adapter": str(folder), **keys}, "reference": base}


def test_a_base_and_an_adapter_stand_in_the_place_of_a_model(pair, adapter):
    found = parsed(with_adapter(pair, adapter)).pair
    assert (found.policy, found.policy_adapter, found.reference_adapter) == (pair["reference"], str(adapter), None)
    assert found.one_base
    assert found.parts == ["policy", "reference", "policy_adapter"]
    assert not parsed({**with_adapter(pair, adapter), "reference": pair["policy"]}).pair.one_base
    assert not parsed(with_adapter(pair, adapter, revision="main")).pair.one_base
    assert not parsed(pair).pair.one_base
    checked = check_models(found, Score())
    assert checked.loaded["policy"]["adapter"] == str(adapter)
    assert checked.loaded["reference"]["adapter"] is None
    policy, reference = check_pair(parsed(with_adapter(pair, adapter)).scoring, checked)
    assert policy.endswith(f", with the adapter {adapter}")
    assert reference.endswith(", no adapter")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            {"policy": {"model": "a", "adaptor": "b"}, "reference": "a"},
            "pair: policy.adaptor: unknown key; model, adapter",
        ),
        ({"policy": "a", "reference": {"adapter": "b"}}, "pair: reference.model: missing"),
        (
            {"policy": "a", "reference": "b", "policy_adapter_revision": "c"},
            "pair: policy_adapter_revision: there is no",
        ),
    ],
)
def test_mistakes_in_a_pair_with_adapters(pair, message):
    with pytest.raises(ConfigError) as caught:
        parsed(pair)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json there, as peft writes it"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors there, as peft"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: not JSON: "),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}'),
            "adapter_config.json: an adapter of the kind 'PROMPT_TUNING'; LORA is read",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99),
            "adapter_model.safetensors: no saf",
        ),
    ],
)
def test_a_broken_adapter_is_one_line(change, message, pair, adapter):
    change(adapter)
    with pytest.raises(ConfigError) as caught:
        check_models(parsed(with_adapter(pair, adapter)).pair, Score())
    assert str(caught.value).startswith(f"pair.policy_adapter: {str(adapter)!r}: {message}")
    assert "\n" not in str(caught.value)


def test_an_adapter_that_is_nowhere(pair, monkeypatch):
    with pytest.raises(ConfigError, match=r"^pair\.policy_adapter: there is no folder '/nowhere'$"):
        check_models(parsed(with_adapter(pair, "/nowhere")).pair, Score())
    with pytest.raises(
        ConfigError, match=r"^pair\.policy_adapter: 'org/lora' is no folder here, nor an adapter on the"
    ):
        check_models(parsed(with_adapter(pair, "org/lora")).pair, Score())
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pair\.policy_adapter: .*: adapters need peft; `pip install"):
        check_models(parsed(with_adapter(pair, "org/lora")).pair, Score())


def test_what_takes_no_adapters_says_so(pair, adapter, monkeypatch):
    both = {model: {"model": pair["reference"], "adapter": str(adapter)} for model in ("policy", "reference")}
    loaded = parsed(both)
    with pytest.raises(ConfigError, match=r"both are '.*' with one adapter: every advantage would be 0"):
        check_pair(loaded.scoring, check_models(loaded.pair, Score()))
    with pytest.raises(ConfigError, match=r"^merge: a pair with adapters is not merged"):
        check_merge(loaded.pair, config.Merged("linear", 0.5), (None, None))
    monkeypatch.setattr("pa_dist.engine.vllm.installed", lambda: "0.32.0")
    with pytest.raises(ConfigError, match=r"^score\.engine: vllm takes no adapter here; score\.engine=hf does$"):
        check_models(Pair(**{"policy": "x", "reference": "y", **loaded.pair.model_dump()}), Score(engine="vllm"))


@pytest.mark.parametrize(("key", "value"), [("bias", "all"), ("init_lora_weights", "pissa")])
def test_an_adapter_that_changes_the_base_needs_one_of_its_own(key, value, pair, adapter):
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", key: value}))
    with pytest.raises(ConfigError, match=f"adapter_config.json: {key} is '{value}', which changes the base too"):
        check_models(parsed(with_adapter(pair, adapter)).pair, Score())
    alone = {"policy": {"model": pair["policy"], "adapter": str(adapter)}, "reference": pair["reference"]}
    assert check_models(parsed(alone).pair, Score())
