"""Quantised checkpoints: loaded as transformers does, scored as their own plain pass, dequantised where asked."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load, save_file
from test_adapter import save_adapter, sides, with_one
from test_hf import FAMILIES, branching, check, plain
from test_load import WRAPPERS

from pa_dist.engine import load as loading
from pa_dist.engine.errors import EngineError
from pa_dist.engine.forward import matrix_weights
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.quantised import is_packed, method_of

BLOCK = 16
LARGEST = torch.finfo(torch.float8_e4m3fn).max
"""A number of FP8 is at most so large, so that a block's scale takes it there."""

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def save_fp8(model, folder):
    """A checkpoint as FP8 ones are published: matrices of the layers in FP8 with a scale a block, the rest in bfloat16;
    the weights that it stands for, by name."""
    model.save_pretrained(folder)
    path, tensors, true = folder / "model.safetensors", {}, {}
    for name, tensor in load(path.read_bytes()).items():
        if tensor.dim() != 2 or "layers" not in name or any(n % BLOCK for n in tensor.shape):
            tensors[name] = true[name] = tensor.bfloat16() if tensor.is_floating_point() else tensor
            continue
        rows, columns = (n // BLOCK for n in tensor.shape)
        blocks = tensor.reshape(rows, BLOCK, columns, BLOCK)
        scales = blocks.abs().amax(dim=(1, 3), keepdim=True) / LARGEST
        packed = (blocks / scales).to(torch.float8_e4m3fn)
        tensors[name] = packed.reshape(tensor.shape)
        tensors[f"{name}_scale_inv"] = scales.reshape(rows, columns)
        true[name] = (packed.float() * scales).reshape(tensor.shape)
    save_file(tensors, path, {"format": "pt"})
    kept = [n.removesuffix(".weight") for n, t in tensors.items() if t.dtype == torch.bfloat16 and t.dim() == 2]
    settings = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "modules_to_not_convert": kept}
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": settings}))
    return true


def save_packed(model, folder, settings, dtype=torch.float32):
    """A checkpoint that a library of quantisation packed."""
    model.save_pretrained(folder)
    packed = tf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=settings, device_map={"": "cpu"}
    )
    packed.save_pretrained(folder)


def by_torchao():
    from torchao.quantization import Int8WeightOnlyConfig

    return tf.TorchAoConfig(Int8WeightOnlyConfig())


# Of these the whole multimodal models, whose language model is loaded alone.
PUBLISHED = {"qwen3": FAMILIES["qwen3"], **{name: WRAPPERS[name] for name in ("gemma3", "gemma4", "qwen3_5, tied")}}


@pytest.mark.parametrize("family", PUBLISHED)
def test_fp8_is_dequantised_on_a_cpu(family, tmp_path):
    torch.manual_seed(0)
    true = save_fp8(PUBLISHED[family](), tmp_path)
    model = load_model(str(tmp_path))
    assert method_of(model) is None
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    own = {loading.language_model_name(name, model): tensor for name, tensor in true.items()}
    assert sum(tensor.dtype == torch.float32 for tensor in true.values()) >= 8  # which were packed
    for name, tensor in model.named_parameters():  # a tied head once
        torch.testing.assert_close(tensor, own[name].float(), rtol=0, atol=0)
    sequences = list(branching(np.random.default_rng(2)))[:8]
    engine = HFEngine(model, top_k=5, worthwhile=0)
    assert engine.apart is None
    check(model, sequences, engine.score(sequences))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_not_packed_has_the_dtype_that_was_asked_for(dtype, tmp_path):
    torch.manual_seed(0)
    save_fp8(FAMILIES["qwen3"](), tmp_path)
    model, exact = load_model(str(tmp_path), dtype=dtype), load_model(str(tmp_path))
    assert {tensor.dtype for tensor in model.parameters()} == {getattr(torch, dtype)}
    ids = torch.arange(40).unsqueeze(0)
    torch.testing.assert_close(model(ids).logits, exact(ids).logits, rtol=0, atol=0.05)


@needs_torchao
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_score_as_their_plain_pass(family, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES[family]()
    save_packed(model, tmp_path, by_torchao())
    packed = load_model(str(tmp_path))
    assert method_of(packed) == "torchao"
    assert any(is_packed(module) for module in packed.modules())
    assert matrix_weights(packed.model, packed.config) == matrix_weights(model.model, model.config)
    sequences = list(branching(np.random.default_rng(2)))[:8]
    engine = HFEngine(packed, top_k=5, worthwhile=0)
    assert engine.apart is None
    assert (engine.facts()["packed_by"], engine.facts()["dtype"]) == ("torchao", "float32")
    check(packed, sequences, engine.score(sequences))
    assert engine.work.distinct_tokens < engine.work.tokens


@needs_torchao
def test_what_transformers_does_not_dequantise_is_said(tmp_path):
    save_packed(FAMILIES["llama"](), tmp_path, by_torchao())
    with pytest.raises(EngineError, match="transformers does not dequantise weights packed by torchao"):
        load_model(str(tmp_path), plain=True)


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bitsandbytes_packs_and_is_dequantised(dtype, tmp_path):
    torch.manual_seed(0)
    model = FAMILIES["qwen3"]()
    settings = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    save_packed(model, tmp_path, settings, torch.bfloat16)
    packed, true = load_model(str(tmp_path), dtype=dtype), load_model(str(tmp_path), plain=True)
    assert (method_of(packed), method_of(true)) == ("bitsandbytes", None)
    assert {t.dtype for t in packed.parameters()} == {torch.uint8, getattr(torch, dtype)}
    assert {t.dtype for t in true.parameters()} == {torch.float32}
    # Four bits in a byte for two weights: what they stand for is counted.
    assert matrix_weights(packed.model, packed.config) == matrix_weights(model.model, model.config)
    sequences = list(branching(np.random.default_rng(2)))[:8]
    check(true, sequences, HFEngine(true, top_k=5, worthwhile=0).score(sequences))
    for sequence, columns in zip(sequences, HFEngine(packed, top_k=5).score(sequences), strict=True):
        np.testing.assert_allclose(np.stack(columns), plain(true, sequence, 5), atol=0.02)


@needs_bitsandbytes
def test_adapters_on_packed_weights(tmp_path):
    torch.manual_seed(0)
    settings = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    save_packed(FAMILIES["llama"](), tmp_path / "base", settings)
    true = load_model(str(tmp_path / "base"), plain=True)
    merged = save_adapter(true, tmp_path / "adapter", 1)
    engines = sides(with_one(load_model(str(tmp_path / "base")), tmp_path / "adapter"), [None, "one"])
    sequences = list(branching(np.random.default_rng(2)))[:8]
    for label, model in ((None, true), ("one", merged)):
        for sequence, columns in zip(sequences, engines[label].score(sequences), strict=True):
            np.testing.assert_allclose(np.stack(columns), plain(model, sequence, 5), atol=0.005)
    assert not np.allclose(plain(true, sequences[0], 5), plain(merged, sequences[0], 5), atol=0.1)


@pytest.mark.parametrize("accelerate", [True, False])
def test_a_model_goes_straight_to_its_device(accelerate, tmp_path, monkeypatch):
    """Seen on the meta device, which holds no numbers; without accelerate it is made on the CPU first."""
    FAMILIES["llama"]().save_pretrained(tmp_path)
    given = {}

    def from_pretrained(*names, **settings):
        given.update(settings)
        return tf.AutoModelForCausalLM.from_pretrained(*names, **settings)

    monkeypatch.setattr(loading, "is_accelerate_available", lambda: accelerate)
    config = tf.AutoConfig.from_pretrained(tmp_path)
    kind = SimpleNamespace(from_pretrained=from_pretrained)
    model = loading.load_checked(kind, str(tmp_path), config, dtype="float16", device="meta")
    assert given["device_map"] == ({"": torch.device("meta")} if accelerate else None)
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    assert model.dtype == torch.float16
