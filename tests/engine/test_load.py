"""Checkpoints of every pair's classes on disk: what is loaded gives the numbers of what was saved, or is refused."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load, save_file
from test_hf import BASE, FAMILIES, GEMMA, LINEAR, SLIDING, VOCABULARY, check
from tiny_models import save_tokenizer
from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from pa_dist.config import Pair, Score
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.tokens import fingerprint, load_tokenizer
from pa_dist.errors import ConfigError, EngineError
from pa_dist.models.loaded import vocabulary
from pa_dist.pairs import PAIRS
from pa_dist.score.check import check_models

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}


def gemma3():
    text = {**BASE, **SLIDING, "head_dim": 16}
    vision = {**TOWER, "image_size": 28, "patch_size": 14}
    return tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )


def gemma4():
    audio = Gemma4AudioConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        output_proj_dims=16,
        subsampling_conv_channels=[4, 4],
    )
    vision = {**TOWER, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 32}
    text = {**BASE, **SLIDING, **GEMMA, "head_dim": 16}
    return tf.Gemma4ForConditionalGeneration(
        tf.Gemma4Config(text_config=text, vision_config=vision, audio_config=audio.to_dict())
    )


def qwen3_5(tied=False):
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16}
    config = tf.Qwen3_5Config(
        text_config={**BASE, **LINEAR, "head_dim": 16, "rope_parameters": ROPE},
        vision_config={**vision, "hidden_size": 16, "intermediate_size": 32},
        tie_word_embeddings=tied,
    )
    return tf.Qwen3_5ForConditionalGeneration(config)


# As the published checkpoints declare themselves: whole multimodal models, or language models alone.
PUBLISHED = {
    **{family: FAMILIES[family] for family in ("qwen2", "qwen3", "olmo3")},
    "gemma4": gemma4,
    "qwen3_5": qwen3_5,
}
WRAPPERS = {"gemma3": gemma3, "gemma4": gemma4, "qwen3_5": qwen3_5, "qwen3_5, tied": lambda: qwen3_5(tied=True)}


def save(folder, make):
    """A model of which no two weights are the same, on disk."""
    torch.manual_seed(0)
    model = make().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    return model


def rewrite(folder, change):
    """Change the tensors of a checkpoint."""
    path = folder / "model.safetensors"
    tensors = change(load(path.read_bytes()))
    save_file(tensors, path, {"format": "pt"})


def as_they_were(tensors):
    """The names multimodal checkpoints had before transformers 4.52."""
    return {
        key.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head."): t
        for key, t in tensors.items()
    }


def check_scores(saved, folder):
    engine = HFEngine(load_model(str(folder)), top_k=5, worthwhile=0)
    assert engine.apart is None
    rng = np.random.default_rng(2)
    prompt = rng.integers(0, VOCABULARY, 30)  # longer than a window
    ids = [np.concatenate([prompt, rng.integers(0, VOCABULARY, n)]).astype(np.int32) for n in (5, 20)]
    sequences = [TokenSequence(one, np.arange(1, len(one), dtype=np.int32)) for one in ids]
    check(saved, sequences, engine.score(sequences))
    assert engine.work.distinct_tokens < engine.work.tokens
    return engine.model


def test_each_pair_has_a_family_that_is_tested():
    assert {pair.family for pair in PAIRS.values()} == PUBLISHED.keys()


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "olmo3"])
def test_a_language_model_loads_as_it_was_saved(family, tmp_path):
    check_scores(save(tmp_path, PUBLISHED[family]), tmp_path)


@pytest.mark.parametrize("rename", [dict, as_they_were], ids=["as saved", "as they were"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_of_a_multimodal_model_the_language_model_is_loaded(kind, rename, tmp_path, caplog):
    whole = save(tmp_path, WRAPPERS[kind])
    rewrite(tmp_path, rename)
    caplog.set_level(logging.WARNING, "transformers")
    model = check_scores(whole, tmp_path)
    assert "UNEXPECTED" not in caplog.text
    language_model = sum(p.numel() for p in whole.model.language_model.parameters())
    head = 0 if whole.config.tie_word_embeddings else whole.lm_head.weight.numel()
    assert model.num_parameters() == language_model + head


def lacking(key):
    return lambda tensors: {k: t for k, t in tensors.items() if key not in k}


def having(key, *shape):
    return lambda tensors: {**tensors, key: torch.zeros(*shape)}


BROKEN = {
    "a weight": (
        lacking("layers.1.mlp.up_proj"),
        "lacks weights of Gemma4ForCausalLM, 1 in all: model.layers.1.mlp.up_proj.",
    ),
    "all": (lacking("language_model"), "lacks weights of Gemma4ForCausalLM, 68 in all: lm_head.weight"),
    "a shape": (
        having("model.language_model.norm.weight", 7),
        "has in other shapes weights of Gemma4ForCausalLM, 1 in all: model.norm.weight",
    ),
    "one too many": (
        having("model.language_model.layers.0.self_attn.q_proj.bias", 64),
        "has more than the weights of Gemma4ForCausalLM, 1 in all: model.layers.0.self_attn.q_proj.bias",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_weights_are_never_made_up_nor_left_out(fault, tmp_path):
    change, message = BROKEN[fault]
    save(tmp_path, gemma4)
    rewrite(tmp_path, change)
    with pytest.raises(EngineError) as caught:
        load_model(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: the checkpoint {message}")
    assert "\n" not in str(caught.value)


def test_what_the_numbers_do_not_depend_on_may_be_there(tmp_path):
    whole = save(tmp_path, gemma4)
    # keys of a layer that takes another's; layers that draft tokens; a value head
    for key in (
        "model.language_model.layers.3.self_attn.k_proj.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "v_head.weight",
    ):
        rewrite(tmp_path, having(key, 64, 64))
    check_scores(whole, tmp_path)


def trained(folder, kind):
    """A small tokenizer of a family's own class."""
    spec = json.loads(save_tokenizer(folder, bos=False).backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in spec["merges"]]
    return kind(vocab=spec["vocab"] | {"<|endoftext|>": 300, "<bos>": 301, "<unk>": 302}, merges=merges)


@pytest.mark.parametrize(
    ("make", "kind", "processor"),
    [(gemma4, tf.GemmaTokenizer, "Gemma4Processor"), (qwen3_5, Qwen3_5Tokenizer, "Qwen3VLProcessor")],
)
def test_a_processor_folder_is_a_model_and_a_tokenizer(make, kind, processor, tmp_path):
    save(tmp_path, make)
    tokenizer = trained(tmp_path, kind)
    tokenizer.save_pretrained(tmp_path)
    settings = {"processor_class": processor, "image_processor": {"image_processor_type": "ImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "processor_class": processor}))

    loaded = load_tokenizer(str(tmp_path))
    assert fingerprint(loaded) == fingerprint(tokenizer)
    text = "[tool]:shipped,25.5"  # a space would need another alphabet in one of the two
    assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text
    pair = Pair(policy=str(tmp_path), reference=str(tmp_path))
    check_models(pair, Score())
    assert vocabulary(pair, "policy") == BASE["vocab_size"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"pair\.policy: .*no weights \(model\.safetensors"):
        check_models(pair, Score())


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_logits_of_a_model_in_half_precision_are_float32(dtype, emulated, tmp_path, monkeypatch):
    """Also where a CPU multiplies in float32 what it has no instructions for."""
    monkeypatch.setattr("pa_dist.engine.load.half_is_emulated", lambda _: emulated)
    FAMILIES["llama"]().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype=dtype)
    layer = model.model.layers[0].mlp.up_proj
    assert (type(layer).__name__, layer.weight.dtype) == ("_WideLinear" if emulated else "Linear", model.dtype)
    assert model(torch.zeros(1, 3, dtype=torch.long)).logits.dtype == torch.float32
