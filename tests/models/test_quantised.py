"""Quantised checkpoints before they are loaded: what has to be installed, and where a GPU has to be."""

import json
import shutil

import pytest
import torch
from test_hf import FAMILIES
from test_quantised_checkpoints import save_fp8

from pa_dist import config
from pa_dist.config import Pair, Score
from pa_dist.errors import ConfigError
from pa_dist.models.devices import check_gpus
from pa_dist.models.quantised import check_quantised
from pa_dist.reward_models.pipeline import check_reward_model
from pa_dist.score.check import check_models
from pa_dist.score.scorer import dtype_of

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def quantised(pair, tmp_path):
    """A pair of which the reference is said to be quantised."""

    def make(**settings):
        folder = tmp_path / "model"
        shutil.copytree(pair["reference"], folder, dirs_exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
        return Pair(policy=pair["policy"], reference=str(folder))

    return make


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            "gptq, which takes gptqmodel and optimum; `pip install gptqmodel optimum` installs it",
        ),
        ({"quant_method": "awq", "bits": 4}, "awq, which takes gptqmodel; `pip install gptqmodel` installs it"),
        ({"quant_method": "hqq"}, "hqq, which takes hqq; `pip install hqq` installs it"),
        ({"quant_method": "aqlm"}, "aqlm: Using `aqlm` quantization requires AQLM: `pip install aqlm[gpu,cpu]`"),
        ({"quant_method": "nonesuch"}, "nonesuch, which transformers "),
    ],
    ids=lambda given: given.get("quant_method") if isinstance(given, dict) else "",
)
def test_what_has_to_be_installed_is_said_first(settings, said, quantised):
    pair = quantised(**settings)
    with pytest.raises(ConfigError) as caught:
        check_models(pair, Score())
    assert str(caught.value).startswith(f"pair.reference: {pair.reference!r}: config.json: quantised by {said}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^score\.engine: vllm is not installed"):  # which has kernels of its own
        check_models(pair, Score(engine="vllm"))


@without_gpu
def test_kernels_for_a_gpu_are_refused_where_actors_have_none(quantised):
    wanting = check_models(quantised(quant_method="spqr"), Score()).wanting
    assert wanting == {"policy": None, "reference": "quantised by spqr: GPU is required to run SpQR quantized model."}
    check_gpus(wanting, {"policy": 0.0, "reference": 0.5}, "score")
    with pytest.raises(
        ConfigError, match=r"^score\.reference\.num_gpus: its actors have no GPU, and quantised by spqr: "
    ):
        check_gpus(wanting, {"policy": 0.5, "reference": 0.0}, "score")


def test_no_adapter_on_weights_that_it_would_take_the_dtype_of(quantised, tmp_path):
    pair = quantised(quant_method="fp8")
    adapted = pair.model_copy(update={"reference_adapter": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"quantised by fp8, on which no adapter is put; awq, bitsandbytes, gptq"):
        check_models(adapted, Score())


def test_a_checkpoint_is_known_by_what_it_stands_for(pair, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES["llama"]()
    save_fp8(model, tmp_path / "model")
    shutil.copy(f"{pair['policy']}/tokenizer.json", tmp_path / "model")
    shutil.copy(f"{pair['policy']}/tokenizer_config.json", tmp_path / "model")
    found = check_models(Pair(policy=pair["policy"], reference=str(tmp_path / "model")), Score())
    facts = found.models["reference"].facts
    assert (facts["quantised"], facts["made_for"]) == ("fp8", "bfloat16")
    assert facts["parameters"] == sum(tensor.numel() for tensor in model.parameters())
    assert found.models["reference"].described.startswith(
        f"{tmp_path / 'model'}, a LlamaForCausalLM quantised by fp8: "
    )
    assert found.models["policy"].facts["quantised"] is None
    assert check_quantised(found.models["policy"].config) is None


def test_reward_models_are_checked_alike(quantised):
    settings = config.Classifier(kind="classifier", model=quantised(quant_method="hqq").reference)
    with pytest.raises(ConfigError, match=r"^reward_models\.mine\.model: .*quantised by hqq, which takes hqq"):
        check_reward_model("mine", settings)


def test_auto_is_a_dtype_that_quantised_weights_were_made_for():
    assert dtype_of(Score(), "cuda", ["float16"]) == "float16"
    assert dtype_of(Score(), "cuda", ["float16", "bfloat16"]) == dtype_of(Score(), "cuda", ["bfloat16"]) == "bfloat16"
    assert dtype_of(Score(dtype="float16"), "cuda", ["bfloat16"]) == "float16"
    assert dtype_of(Score(), "cpu", ["bfloat16"]) == "float32"
