"""Whole tiny checkpoints, rewritten in place, against the checkpoints that mergekit writes."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from test_hf import BASE
from test_load import PUBLISHED
from tiny_models import save_tokenizer

from pa_dist.config import Merged, Pair
from pa_dist.engine.load import load_model, merge_policy, skeleton
from pa_dist.engine.task_vectors import seed_of
from pa_dist.errors import ConfigError, EngineError
from pa_dist.score.mergeable import check_merge, check_tokens, merging

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def llama(folder, seed, *, vocab_size=40, dtype=torch.float32, shards=False, **options):
    torch.manual_seed(seed)
    config = tf.LlamaConfig(**{**BASE, "num_hidden_layers": 2, "vocab_size": vocab_size, **options})
    model = tf.LlamaForCausalLM(config).to(dtype)
    # Gains that are all one would have no difference to merge.
    for module in model.modules():
        if "Norm" in type(module).__name__:
            torch.nn.init.normal_(module.weight)
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if shards else {}))
    return str(folder)


def llamas(place, *options, **both):
    policy, reference = options or ({}, {})
    return Pair(
        policy=llama(place / "policy", 1, **both, **policy),
        reference=llama(place / "reference", 2, **both, **reference),
    )


def settings(method="linear", **others):
    return Merged(method, 1.0, **others)


def merged(pair, alpha, merge, dtype="auto"):
    return load_model(pair.reference, dtype=dtype, merging=merging(pair, merge._replace(alpha=alpha))).state_dict()


def rewrite(model, pair, merge, alpha):
    merge_policy(model, pair.reference, merging(pair, merge._replace(alpha=alpha)))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def same(ours, theirs, **tolerance):
    assert ours.keys() >= theirs.keys() > set()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], **{"rtol": 0, "atol": 0, **tolerance})


def mergekits(out, pair, method, alpha, density, *, seed=0, **options):
    """The checkpoint that mergekit writes, float32 inside, and random from each tensor's own seed."""
    merging = pytest.importorskip("mergekit.merge", reason="mergekit is not installed")
    from mergekit.config import MergeConfiguration
    from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge
    from mergekit.options import MergeOptions

    arithmetic = GeneralizedTaskArithmeticMerge.merge_group

    def seeded(self, group, /, **parameters):
        torch.manual_seed(seed_of(seed, group.metadata.name))
        return arithmetic(self, group, **parameters)

    if method == "linear":
        weights = {pair.reference: 1 - alpha, pair.policy: alpha}
        tree = {"models": [{"model": name, "parameters": {"weight": weight}} for name, weight in weights.items()]}
    else:
        parameters = {"weight": 1.0, "density": density}
        tree = {"models": [{"model": pair.policy, "parameters": parameters}], "parameters": {"lambda": alpha}}
        tree["base_model"] = pair.reference
    config = MergeConfiguration.model_validate({**tree, "merge_method": method, "dtype": "float32"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneralizedTaskArithmeticMerge, "merge_group", seeded)
        merging.run_merge(
            config, str(out), MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False, **options)
        )
    return {name: tensor for file in Path(out).glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    "form", [{}, {"shards": True}, {"tie_word_embeddings": True}], ids=["plain", "sharded", "tied"]
)
@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_whole_checkpoints_equal_mergekits(method, form, tmp_path):
    pair = llamas(tmp_path, **form)
    assert len(list(Path(pair.policy).glob("*.safetensors"))) > (3 if form.get("shards") else 0)
    theirs = mergekits(tmp_path / "merged", pair, method, 0.7, 0.3, seed=5)
    same(merged(pair, 0.7, settings(method, density=0.3, seed=5)), theirs)


@pytest.mark.parametrize("method", ["linear", "dare_linear"])
def test_bfloat16_checkpoints_are_merged_in_float32_and_rounded_once(method, tmp_path):
    pair = llamas(tmp_path, dtype=torch.bfloat16)
    theirs = mergekits(tmp_path / "merged", pair, method, 0.7, 0.2)
    ours = merged(pair, 0.7, settings(method))
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    same(ours, {name: tensor.bfloat16() for name, tensor in theirs.items()})
    same(merged(pair, 0.7, settings(method), dtype="float32"), theirs)


def test_alphas_in_any_order_give_the_same_weights(tmp_path):
    pair, merge = llamas(tmp_path), settings("dare_ties", density=0.4)
    model = load_model(pair.reference)
    parameters = dict(model.named_parameters())
    seen = {}
    for alpha in (0.5, 1.0, -2.0, 1.0, 0.5):
        rewrite(model, pair, merge, alpha)
        now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        same(now, seen.setdefault(alpha, now))
    same(seen[0.5], merged(pair, 0.5, merge))
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert not torch.equal(seen[0.5]["lm_head.weight"], seen[1.0]["lm_head.weight"])


@pytest.mark.parametrize("tied", ["policy", "reference"])
def test_where_one_model_ties_its_embeddings_the_merged_one_does_not(tied, tmp_path):
    pair = llamas(tmp_path, *({"tie_word_embeddings": name == tied} for name in ("policy", "reference")))
    ends = {alpha: load_model(name).state_dict() for alpha, name in ((0.0, pair.reference), (1.0, pair.policy))}
    for alpha, expected in ends.items():
        same(merged(pair, alpha, settings()), expected)
    half = merged(pair, 0.5, settings())
    expected = (ends[0.0]["lm_head.weight"] + ends[1.0]["lm_head.weight"]) / 2
    torch.testing.assert_close(half["lm_head.weight"], expected)


@pytest.mark.parametrize("longer", ["policy", "reference"])
def test_vocabularies_of_different_size_are_refused_or_merged_as_far_as_both_go(longer, tmp_path):
    sizes = ({"vocab_size": 48 if name == longer else 40} for name in ("policy", "reference"))
    pair = llamas(tmp_path, *sizes)
    with pytest.raises(EngineError, match=r"^merge: 'model.embed_tokens.weight' is \[4.*merge\.vocabulary=common"):
        merged(pair, 0.5, settings())
    ours = merged(pair, 0.5, settings("ties", vocabulary="common"))
    theirs = mergekits(tmp_path / "merged", pair, "ties", 0.5, 0.2, unsafe_truncate_embeddings=True)
    same({name: tensor[:40] if name in VOCABULARY else tensor for name, tensor in ours.items()}, theirs)
    reference = load_model(pair.reference).state_dict()
    same({name: ours[name][40:] for name in VOCABULARY}, {name: reference[name][40:] for name in VOCABULARY})


@pytest.mark.parametrize(
    ("policy", "reference", "message"),
    [
        ({"intermediate_size": 96}, {}, r"is \[128, 64\] in the reference and \[96, 64\] in the policy$"),
        ({"num_hidden_layers": 3}, {}, r"9 tensors are in one of the two models only, 'model\.layers\.2\."),
        ({"attention_bias": True}, {}, r"8 tensors are in one of the two models only"),
    ],
)
def test_models_that_do_not_correspond_are_refused_before_anything_is_read(policy, reference, message, tmp_path):
    pair = llamas(tmp_path, policy, reference)
    for file in tmp_path.glob("*/*.safetensors"):
        file.unlink()
    tokenizer = save_tokenizer(tmp_path, bos=True)
    with pytest.raises(ConfigError, match=f"^merge: .*{message}"):
        check_merge(pair, settings(), (tokenizer, tokenizer))


def test_other_architectures_and_quantised_weights_are_refused(tmp_path):
    pair = llamas(tmp_path)
    torch.manual_seed(0)
    tf.Qwen2ForCausalLM(tf.Qwen2Config(**BASE)).save_pretrained(tmp_path / "qwen")
    tokenizer = save_tokenizer(tmp_path, bos=True)
    with pytest.raises(ConfigError, match="the policy is a Qwen2ForCausalLM, the reference a LlamaForCausalLM"):
        check_merge(pair.model_copy(update={"policy": str(tmp_path / "qwen")}), settings(), (tokenizer, tokenizer))
    path = Path(pair.policy, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ConfigError, match=r"pair\.policy is quantised"):
        check_merge(pair, settings(), (tokenizer, tokenizer))


def test_a_tensor_that_a_checkpoint_lacks_is_not_made_up(tmp_path):
    pair = llamas(tmp_path)
    file = Path(pair.policy, "model.safetensors")
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"policy: the checkpoint lacks .* model\.layers\.1\.mlp\.up_proj\.weight"):
        merged(pair, 0.5, settings())


def test_tokenizers_may_differ_but_not_in_a_tokens_id(tmp_path):
    tokenizers = save_tokenizer(tmp_path / "a", bos=True), save_tokenizer(tmp_path / "b", bos=False)
    check_merge(llamas(tmp_path), settings(), tokenizers)
    with pytest.raises(ConfigError, match=r"^merge: \d+ tokens have another id in each tokenizer, '.*' \d+ in the pol"):
        check_tokens(tokenizers[0], save_tokenizer(tmp_path / "c", bos=True, specials=("</s>", "<s>")))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_of_every_family_alpha_0_scores_as_the_reference_and_alpha_1_as_the_policy(kind, tmp_path):
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        model = PUBLISHED[kind]()
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
        model.save_pretrained(tmp_path / name)
    pair = Pair(policy=str(tmp_path / "policy"), reference=str(tmp_path / "reference"))
    tokenizer = save_tokenizer(tmp_path, bos=True)
    check_merge(pair, settings(), (tokenizer, tokenizer))
    ids = torch.arange(1, 30)[None]
    ends = []
    for alpha, name in ((0.0, pair.reference), (1.0, pair.policy)):
        ours, expected = load_model(pair.reference), load_model(name)
        rewrite(ours, pair, settings(), alpha)
        assert skeleton(name).state_dict().keys() == ours.state_dict().keys()
        same(ours.state_dict(), expected.state_dict())
        ends.append(logits(ours, ids))
        assert torch.equal(ends[-1], logits(expected, ids))
    assert (ends[0] - ends[1]).abs().max() > 0.01


def test_checkpoints_that_are_read_stay_in_their_files(tmp_path):
    pair = llamas(tmp_path, shards=True)
    model = load_model(pair.reference, dtype="auto")
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path.startswith(pair.reference):
            mapped.append([int(end, 16) for end in span.split("-")])
    for tensor in model.state_dict().values():
        assert any(first <= tensor.data_ptr() < last for first, last in mapped)
    before = _bytes(pair.reference)
    rewrite(model, pair, settings(), 0.5)
    assert _bytes(pair.reference) == before


def _bytes(folder):
    return [file.read_bytes() for file in sorted(Path(folder).glob("*.safetensors"))]
