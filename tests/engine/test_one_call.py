"""Attention in one call a layer, against plain passes and against a look at each pair of tokens."""

import numpy as np
import pytest
import torch
from test_hf import FAMILIES, branching, check
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

from pa_dist.engine import one_call
from pa_dist.engine.forward import Forward
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.one_call import BLOCK, TreeMask
from pa_dist.engine.prefix_tree import prefix_tree
from pa_dist.engine.schedule import Schedule


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_equal_the_full_forward_pass(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    sequences = list(branching(np.random.default_rng(2)))[:10]
    engine = HFEngine(model, top_k=5, batch_tokens=300, worthwhile=0, at_once=True)
    assert (engine.in_pieces, engine.apart) == (None, None)
    assert engine.facts()["attention_in_pieces"] is None
    for _ in range(2):  # the second time after what the first one left
        check(model, sequences, engine.score(sequences))
    plainly = HFEngine(model, top_k=5, batch_tokens=300, worthwhile=0)
    assert plainly.in_pieces == "as asked"
    for _ in range(2):
        plainly.score(sequences)
    assert plainly.work.flops == pytest.approx(engine.work.flops, rel=0.02)


def passes(sequences, budget):
    """Of each pass of a tree: where its segments stand, and how many tokens there are."""
    schedule = Schedule(prefix_tree(sequences), rows=False, cut=True)
    while segments := schedule.take(budget):
        ends = np.cumsum([0, *(len(segment.ids) for segment in segments)]).tolist()
        # Pads between some of them, as where each has a row of its own.
        gaps = np.cumsum([0, *([7, 0] * len(segments))])[: len(segments)].tolist()
        places = {s: slice(a + g, b + g) for s, a, b, g in zip(segments, ends, ends[1:], gaps, strict=False)}
        yield places, ends[-1] + gaps[-1] + 3


@pytest.mark.parametrize("window", [None, 50, 200])
@pytest.mark.parametrize("budget", [90, 700, 5000])
def test_blocks_are_those_of_the_pairs(window, budget):
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 9, 300)
    sequences = [np.concatenate([trunk[:n], rng.integers(0, 9, m)]) for n in (20, 150, 300) for m in (5, 130, 400)]
    seen = 0
    for places, tokens in passes([ids.astype(np.int32) for ids in sequences], budget):
        mask = TreeMask(places, tokens, torch.device("cpu"))
        block = mask.of(window)
        memory = sum(len(segment.ids) for segment in mask.before)
        queries, keys = torch.meshgrid(torch.arange(tokens), torch.arange(memory + tokens), indexing="ij")
        pairs = block.mask_mod(None, None, queries, keys).numpy()
        # By hand: a token sees those of its segment and of the ones above that stand no later, and no further back.
        where = {s: memory + np.arange(p.start, p.stop) for s, p in places.items()}
        starts = np.cumsum([0, *(len(s.ids) for s in mask.before)])
        where |= {s: np.arange(a, a + len(s.ids)) for s, a in zip(mask.before, starts, strict=False)}
        expected = np.zeros_like(pairs)
        for segment in places:
            for above in (segment, *segment.ancestors()):
                at, of = np.arange(segment.start, segment.end)[:, None], np.arange(above.start, above.end)
                sees = (of <= at) & (at - of < (window or np.inf))
                expected[np.ix_(where[segment] - memory, where[above])] = sees
        real = np.concatenate([where[s] for s in places]) - memory
        np.testing.assert_array_equal(pairs[real], expected[real])
        pads = np.setdiff1d(np.arange(tokens), real)
        assert (pairs[pads].sum(axis=1) == 1).all()
        assert mask.pairs(window) == expected.sum()
        padded = np.zeros([-(-n // BLOCK) * BLOCK for n in pairs.shape], bool)
        padded[: pairs.shape[0], : pairs.shape[1]] = pairs
        tiles = padded.reshape(len(padded) // BLOCK, BLOCK, -1, BLOCK).transpose(0, 2, 1, 3)
        some, full = tiles.any((2, 3)), tiles.all((2, 3))
        held = block.to_dense().numpy()[0, 0]
        np.testing.assert_array_equal(held, some)
        assert block.full_kv_num_blocks.sum() == full.sum()
        seen += full.sum()
    assert seen or budget < 700 or window


def test_what_one_call_cannot_do_falls_back_and_is_named(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no kernel image is available\nfor this device")

    torch.manual_seed(0)
    model = FAMILIES["llama"]().eval()
    monkeypatch.setattr(one_call, "_kernel", lambda device: broken)
    engine = HFEngine(model, top_k=5, at_once=True, worthwhile=0)
    assert engine.apart is None
    assert (
        engine.in_pieces == "LlamaForCausalLM does not run on a prefix tree: RuntimeError: no kernel image is available"
    )
    sequences = list(branching(np.random.default_rng(2)))[:6]
    check(model, sequences, engine.score(sequences))
    monkeypatch.setattr(one_call, "_kernel", lambda device: lambda q, k, v, **_: q)
    assert "gives other numbers" in HFEngine(model, at_once=True).in_pieces


def test_a_gpu_attends_at_once_by_default(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pa_dist.engine.hf.reason_to_stay_apart", lambda model, at_once=False, linear=None: asked.append(at_once)
    )
    model = FAMILIES["llama"]()
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    HFEngine(model)
    assert asked == [True]
    assert Forward(model, together=True).at_once is False


def test_passes_of_other_shapes_compile_no_more_kernels(monkeypatch):
    """Of each window one that is first compiled for its shapes, and one for all with keys from before and without."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(flex_attention, dynamic=True, backend="aot_eager")
    monkeypatch.setattr(one_call, "_kernel", lambda device: compiled)
    torch.manual_seed(0)
    model = FAMILIES["olmo3"]().eval()
    sequences = list(branching(np.random.default_rng(2)))[:10]
    engine, made = HFEngine(model, top_k=5, worthwhile=0, at_once=True), []
    for budget, n in ((900, 10), (900, 6), (700, 9), (400, 3), (500, 10)):
        engine.batch_tokens = engine._most_tokens = budget
        check(model, sequences[:n], engine.score(sequences[:n]))
        made.append(counters["stats"]["unique_graphs"])
    assert made[1:] == made[1:2] * 4
    assert made[1] <= 2 * 3
