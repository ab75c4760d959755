"""Model folders that cannot be scored with: one line that names key, folder and file, before anything starts."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SHAPE, TEXTS, save_model, save_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo3Config,
)

from pa_dist import config
from pa_dist.config import Pair, Score
from pa_dist.engine.load import load_model
from pa_dist.errors import ConfigError
from pa_dist.models.devices import check_spread
from pa_dist.score.check import check_lengths, check_models, check_pair

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134221824\n"
DEEP = b'{"a":' * 3000 + b"1" + b"}" * 3000
SMALL = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
# An adapter of rank one on a projection, as peft writes it, that changes what the model says.
LORA = {"peft_type": "LORA", "r": 1, "lora_alpha": 64, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture
def folder(pair, tmp_path) -> Path:
    """A copy of the policy to break."""
    return Path(shutil.copytree(pair["policy"], tmp_path / "model"))


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def keys(name="config.json", **changes):
    def change(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **changes}))

    return change


def sharded(*, drop=(), without=None):
    """The weights in two files and an index, some of it left out."""

    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        names = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
        for file in set(names.values()) - set(drop):
            held = {k: t for k, t in tensors.items() if names[k] == file and k != without}
            save_file(held, folder / file, {"format": "pt"})
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return change


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def adapter(*, alone):
    def change(folder):
        (folder / "adapter_config.json").write_text(json.dumps(LORA))
        if alone:
            (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")

    return change


def header(folder):
    """A header of a length that no file has."""
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


SECOND = "model-00002-of-00002.safetensors"
BROKEN = {
    "config pointer": (write("config.json", POINTER), "config.json: a pointer of git-lfs"),
    "weights pointer": (write("model.safetensors", POINTER), "model.safetensors: a pointer of git-lfs"),
    "tokenizer pointer": (write("tokenizer.json", POINTER), "tokenizer.json: a pointer of git-lfs"),
    # else a template of one constant text
    "template pointer": (write("chat_template.jinja", POINTER), "chat_template.jinja: a pointer of git-lfs"),
    "no config": (remove("config.json"), "no config.json among its 4 files"),
    "nothing": (emptied, "the folder is empty"),
    "empty config": (write("config.json", b""), "config.json: an empty file"),
    "empty weights": (write("model.safetensors", b""), "model.safetensors: an empty file"),
    "empty tokenizer": (write("tokenizer.json", b""), "tokenizer.json: an empty file"),
    "binary config": (write("config.json", bytes(range(256))), "config.json: not JSON"),
    "binary weights": (header, "model.safetensors: no safetensors file"),
    "binary tokenizer": (write("tokenizer.json", bytes(range(256))), "tokenizer.json: not JSON"),
    "config of text": (write("config.json", '"llama"'), "config.json: a JSON object is expected, it holds text"),
    "config of null": (write("config.json", "null"), "config.json: a JSON object is expected, it holds null"),
    "deep config": (write("config.json", DEEP), "config.json: nested too deeply"),
    "deep tokenizer": (write("tokenizer.json", DEEP), "tokenizer.json: nested too deeply"),
    "deep tokenizer config": (write("tokenizer_config.json", DEEP), "tokenizer_config.json: nested too deeply"),
    "no weights": (remove("model.safetensors"), "no weights (model.safetensors"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "there is 'pytorch_model.bin', and only safetensors are read",
    ),
    "weights of another name": (
        lambda folder: (folder / "model.safetensors").rename(folder / "consolidated.safetensors"),
        "there is 'consolidated.safetensors'",
    ),
    "weights cut in the header": (cut("model.safetensors", 100), "no safetensors file, or cut short: its header"),
    "weights cut short": (cut("model.safetensors", -1000), "model.safetensors: cut short: its header says"),
    "one byte too few": (cut("model.safetensors", -1), "model.safetensors: cut short: its header says"),
    "a shard too few": (sharded(drop=[SECOND]), f"{SECOND}: not there, and model.safetensors.index.json names it"),
    "a tensor too few": (sharded(without="model.norm.weight"), "model.safetensors.index.json has in it, 'model.norm"),
    "an index of nothing": (
        lambda folder: (sharded()(folder), write("model.safetensors.index.json", "{}")(folder)),
        "model.safetensors.index.json: no weight_map",
    ),
    "an adapter": (adapter(alone=True), "adapter_config.json: an adapter alone"),
    "an adapter beside weights": (adapter(alone=False), "adapter_config.json: an adapter beside whole weights"),
    "a null": (keys(vocab_size=None), "config.json cannot be used: Validation error for field 'vocab_size'"),
    "text for a number": (keys(hidden_size="32"), "cannot be used: Validation error for field 'hidden_size'"),
    "no layers": (keys(num_hidden_layers=0), "config.json: num_hidden_layers is 0"),
    "a negative": (keys(num_hidden_layers=-2), "config.json: num_hidden_layers is -2"),
    "a thousand layers": (keys(num_hidden_layers=1000), "config.json: num_hidden_layers asks for 1,000 layers"),
    "endless layers": (keys(num_hidden_layers=10**12), "config.json: num_hidden_layers asks for 1,000,000,000,000 l"),
    "a layer more": (keys(num_hidden_layers=3), "config.json: asks for"),
    "a layer fewer": (keys(num_hidden_layers=1), "asks for fewer layers than model.safetensors has: model.layers.1."),
    "another vocabulary": (keys(vocab_size=10**9), "asks for model.embed_tokens.weight of [1000000000, 32]"),
    "another width": (keys(intermediate_size=65), "of [65, 32], and model.safetensors has it of [64, 32]"),
    "absurd width": (keys(intermediate_size=10**30), "config.json cannot be used"),
    "no heads": (keys(num_attention_heads=0), "config.json cannot be used"),
    "an unknown kind": (keys(model_type="nonesuch"), "config.json cannot be used"),
    "no positions": (keys(max_position_embeddings=0), "config.json: max_position_embeddings is 0"),
    "positions below none": (keys(max_position_embeddings=-1), "config.json: max_position_embeddings is -1"),
    "an unknown stretching": (
        keys(rope_parameters={"rope_type": "zigzag", "rope_theta": 1e4}),
        "config.json cannot be used: KeyError: 'zigzag'",
    ),
    "weights of no name": (keys(transformers_weights=3), "config.json: transformers_weights is 3, no file's name"),
    "weights elsewhere": (keys(transformers_weights="../x.safetensors"), "config.json: names '../x.safetensors'"),
    "packed in no way": (keys(quantization_config={}), "config.json: quantization_config names no quant_method"),
    "a pipe for weights": (
        lambda folder: (remove("model.safetensors")(folder), os.mkfifo(folder / "model.safetensors")),
        "model.safetensors: a pipe or device, no file",
    ),
    "an encoder": (
        lambda folder: BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(folder),
        "config.json: bert is an encoder",
    ),
    "no tokenizer": (remove("tokenizer.json"), "its tokenizer cannot be used"),
    # transformers makes a tokenizer without a vocabulary of these
    "a class without its file": (
        lambda folder: (
            remove("tokenizer.json")(folder),
            keys("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")(folder),
        ),
        "its tokenizer knows no text: tokenizer.json",
    ),
    "a tokenizer without a model": (keys("tokenizer.json", model=None), "its tokenizer cannot be used: data did not"),
    "a number for a token": (keys("tokenizer_config.json", bos_token=7), "its tokenizer cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_folder_is_one_line(fault, folder, pair, capfd):
    change, message = BROKEN[fault]
    change(folder)
    with pytest.raises(ConfigError) as caught:
        check_models(Pair(policy=pair["reference"], reference=str(folder)), Score())
    said = str(caught.value)
    assert said.startswith(f"pair.reference: {str(folder)!r}: ")
    assert message in said
    assert "\n" not in said
    assert len(said) < 500
    assert not [line for line in capfd.readouterr().err.splitlines() if "transformers]" in line]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "pair.policy: there is no folder '/nowhere/model'"),
        ("./model", "pair.policy: there is no folder './model'"),
        ("a/b/c", "pair.policy: there is no folder 'a/b/c'"),
        ("two words", "pair.policy: there is no folder 'two words'"),
        ("org/model", "pair.policy: 'org/model' is neither a folder here nor a model on the Hugging Face Hub"),
    ],
)
def test_a_model_that_is_nowhere_is_one_line(name, message, pair):
    with pytest.raises(ConfigError) as caught:
        check_models(Pair(policy=name, reference=pair["reference"]), Score())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert ("offline" in str(caught.value)) == (name == "org/model")  # what the Hub's own library said


def test_a_file_is_no_model_and_both_models_are_told_of_together(folder):
    pair = Pair(policy=str(folder / "config.json"), reference="/nowhere")
    with pytest.raises(ConfigError, match=r"^pair\.policy: '.*config\.json' is a file; .*; pair\.reference: there is"):
        check_models(pair, Score())


def test_whole_folders_in_other_layouts_are_sound(folder, pair):
    sharded()(folder)
    found = check_models(Pair(policy=pair["reference"], reference=str(folder)), Score()).models["reference"]
    assert found.facts["files"] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    # Of SHAPE: two embeddings of 320 x 32; per layer 32 x (32 + 16 + 16 + 32) + 3 x 32 x 64 + 2 x 32; the last norm 32.
    assert found.facts["parameters"] == 2 * 320 * 32 + 2 * (32 * 96 + 3 * 32 * 64 + 64) + 32
    assert "2 files of weights" in found.described


def test_home_is_expanded_and_nobodys_is_refused(monkeypatch, tmp_path, pair):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Pair(policy="~/models/a", reference=pair["reference"])
    assert made.policy == f"{tmp_path}/models/a"
    tree = {
        "trajectories": {"format": "chat", "paths": ["x"]},
        "pair": {**pair, "policy": "~nobody-at-all/a"},
        "output": "o",
    }
    with pytest.raises(ConfigError, match=r"^pair\.policy: no home folder of"):
        config.parse(tree)


def test_an_adapter_is_never_applied(folder):
    """Where peft is installed, `from_pretrained` would change the weights of this folder."""
    pytest.importorskip("peft")
    plain = load_model(str(folder)).state_dict()
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    layers = [f"base_model.model.model.layers.{n}.self_attn.q_proj" for n in range(2)]
    pieces = {f"{layer}.lora_A.weight": torch.ones(1, 32) for layer in layers}
    pieces |= {f"{layer}.lora_B.weight": torch.ones(32, 1) for layer in layers}
    save_file(pieces, folder / "adapter_model.safetensors", {"format": "pt"})
    found = load_model(str(folder)).state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)


def loaded(pair, **changes):
    tree = {"trajectories": {"format": "chat", "paths": ["x"]}, "pair": pair, "output": "out", **changes}
    return config.parse(tree)


def told(pair, **changes):
    found = loaded(pair, **changes)
    return check_pair(found, check_models(found.pair, found.score))


def test_one_model_twice_is_refused(pair, folder, tmp_path):
    (tmp_path / "link").symlink_to(pair["policy"])
    (folder / "chat_template.jinja").write_text("{{ messages }}")  # its weights are the policy's all the same
    for other in (pair["policy"], pair["policy"] + "/", str(tmp_path / "link"), str(folder)):
        with pytest.raises(ConfigError, match=r"^pair\.policy, pair\.reference: .*every advantage would be 0"):
            told({**pair, "reference": other})
    assert len(told(pair)) == 2  # what is loaded of each


def test_a_pair_that_does_not_read_alike_is_said(pair, tmp_path, monkeypatch):
    save_model(tmp_path / "padded", 1, vocab_size=384)
    save_tokenizer(tmp_path / "padded", bos=True)
    said = told({**pair, "reference": str(tmp_path / "padded")})[2]
    assert said.startswith("the policy's vocabulary has 320 rows and the reference's vocabulary has 384 rows")
    save_model(tmp_path / "short", 1, vocab_size=280)
    save_tokenizer(tmp_path / "short", bos=True)
    said = told({**pair, "reference": str(tmp_path / "short")})
    assert any("reference: its tokenizer has 300 tokens and its vocabulary 280 rows" in line for line in said)
    monkeypatch.setattr("tiny_models.TEXTS", TEXTS[:1])
    save_model(tmp_path / "other", 1)
    save_tokenizer(tmp_path / "other", bos=True, vocabulary=270)
    assert "read a text as different tokens" in told({**pair, "reference": str(tmp_path / "other")})[2]


def lengths(pair, **score):
    found = loaded(pair, score=score)
    return check_lengths(found, check_models(found.pair, found.score))


def test_no_model_is_given_more_tokens_than_it_reads(pair, tmp_path):
    """The pair's positions are 512."""
    (said,) = lengths(pair)
    assert said.startswith("score.max_length is 512, not 16,384: pair.policy reads at most 512 tokens and pair.ref")
    assert lengths(pair, max_length=512) == []
    (said,) = lengths(pair, max_length=513)  # rotary positions go on beyond, untrained
    assert said.startswith("score.max_length is 512, not 513")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    save_tokenizer(tmp_path / "gpt2", bos=True)
    table = {**pair, "reference": str(tmp_path / "gpt2")}
    assert lengths(table)[0].startswith("score.max_length is 64, not 16,384")
    with pytest.raises(
        ConfigError, match=r"^score\.max_length: its table of positions takes at most 64 tokens of pair\.ref"
    ):
        lengths(table, max_length=65)


def test_tied_embeddings_are_counted_once(tmp_path, pair):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, bos=True)
    check_models(Pair(policy=str(tmp_path), reference=pair["reference"]), Score())


@pytest.mark.parametrize(
    ("made", "size", "why"),
    [
        (LlamaConfig(**SHAPE), 2, None),
        (LlamaConfig(**SHAPE), 4, "each process takes as many heads, and num_key_value_heads is 2"),
        (Olmo3Config(**SHAPE), 4, None),  # each process has all heads
        (GPT2Config(), 2, "transformers has no plan by which a model of the kind gpt2 is spread"),
        (LlamaConfig(**SHAPE, quantization_config={"quant_method": "fp8"}), 2, "quantised weights are not spread"),
        (GPT2Config(), 1, None),
    ],
)
def test_what_transformers_does_not_spread_is_refused(made, size, why):
    if why is None:
        check_spread("score.policy", made, size, adapter=False)
        return
    with pytest.raises(ConfigError, match=rf"^score\.policy\.tensor_parallel_size of {size}: {why}$"):
        check_spread("score.policy", made, size, adapter=False)


def test_a_reference_in_parts_is_not_merged(pair):
    tree = {"trajectories": {"format": "chat", "paths": ["a.jsonl"]}, "pair": pair, "output": "out"}
    score = {"reference": {"tensor_parallel_size": 2}}
    config.parse({**tree, "score": score})
    with pytest.raises(ConfigError, match=r"^score\.reference\.tensor_parallel_size: merging needs the"):
        config.parse({**tree, "score": score, "merge": {"method": "ties", "alphas": [1]}})


def test_as_many_gpus_as_an_actor_has_are_what_its_model_is_spread_over(pair):
    pool = {"num_gpus": 4}
    with pytest.raises(ConfigError, match=r"^score\.reference\.tensor_parallel_size of 4: each process takes"):
        check_models(Pair(**pair), Score(reference=pool))
    check_models(Pair(**pair), Score(reference=pool, device="cpu"))
    with pytest.raises(ConfigError, match=r"^score\.policy\.tensor_parallel_size of 2: an adapter is put on a whole"):
        check_spread("score.policy", LlamaConfig(**SHAPE), 2, adapter=True)
