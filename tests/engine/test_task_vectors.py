"""Each method on single tensors, against mergekit's own code and against sums done by hand."""

import pytest
import torch

from pa_dist.engine.task_vectors import drop, merge, seed_of, trim

SHAPES = [(), (1,), (7,), (0, 4), (5, 3), (33, 17), (2, 3, 4)]
SEED = 11


def pair_of(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    reference, change = (torch.randn(shape, generator=generator) for _ in range(2))
    return reference.to(dtype), (reference + 0.1 * change).to(dtype)


def mergekits(method, reference, policy, alpha, density):
    """The same by mergekit; its random numbers begin at SEED."""
    base = pytest.importorskip("mergekit.merge_methods.base", reason="mergekit is not installed")
    from mergekit.merge_methods import get

    # mergekit's batches have no tensors without an axis.
    group = base.TensorGroup.from_tensors(
        [reference.reshape(reference.shape or (1,)), policy.reshape(policy.shape or (1,))], base_index=0
    )
    torch.manual_seed(SEED)
    if method == "linear":
        parameters = {"weight": [1 - alpha, alpha]}
    else:
        parameters = {"weight": 1.0, "lambda": alpha, "density": density}
    (merged,) = get(method)([group], parameters=parameters, dtype=torch.float32)
    return merged.reshape(reference.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties"])
def test_tensors_equal_mergekits(method, density, shape):
    reference, policy = pair_of(shape)
    for alpha in (0.0, 0.3, 1.0, 1.7, -0.5):
        ours = merge(reference, policy, method=method, alpha=alpha, density=density, seed=SEED)
        torch.testing.assert_close(ours, mergekits(method, reference, policy, alpha, density), rtol=0, atol=0)


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5])
def test_of_equal_magnitudes_ties_keeps_as_many_as_mergekit_and_the_first(density):
    reference, policy = (tensor.float() for tensor in pair_of((50, 40), torch.bfloat16))
    ours = merge(reference, policy, method="ties", alpha=1.0, density=density, seed=SEED) - reference
    theirs = mergekits("ties", reference, policy, 1.0, density) - reference
    assert torch.equal(ours.abs().flatten().sort().values, theirs.abs().flatten().sort().values)
    tau = torch.tensor([[1.0, -2.0, 2.0], [0.5, 2.0, -3.0]])
    assert trim(tau.clone(), 0.5).tolist() == [[0, -2, 2], [0, 0, -3]]
    assert trim(torch.zeros(9), 0.5).tolist() == [0] * 9


def test_by_hand():
    reference, policy = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([2.0, 2.0, 7.0, 1.0, 5.5])
    # tau = [1, 0, 4, -3, 0.5]; floor(0.4 * 5) = 2 of them are kept: 4 and -3.
    ties = merge(reference, policy, method="ties", alpha=0.5, density=0.4, seed=0)
    assert ties.tolist() == [1, 2, 5, 2.5, 5]
    linear = [merge(reference, policy, method=m, alpha=0.5, density=0.4, seed=0).tolist() for m in ("linear", "emr")]
    assert linear == [[1.5, 2, 5, 2.5, 5.25]] * 2
    # What is left of tau has the sum of magnitudes of all of it, 8.5.
    dare = merge(reference, policy, method="dare_linear", alpha=1.0, density=0.5, seed=1) - reference
    assert 0 < len(dare.nonzero()) < 4
    assert dare.abs().sum().item() == pytest.approx(8.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("method", ["linear", "emr"])
def test_linear_is_exact_at_both_ends(method, dtype):
    reference, policy = pair_of((40, 30), dtype)
    for alpha, end in ((0.0, reference), (1.0, policy)):
        merged = merge(reference, policy, method=method, alpha=alpha, density=0.2, seed=0)
        assert torch.equal(merged.to(dtype), end)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_where_all_is_kept_alpha_1_is_the_policy(method):
    reference, policy = pair_of((40, 30))
    merged = merge(reference, policy, method=method, alpha=1.0, density=1.0, seed=0)
    torch.testing.assert_close(merged, policy, rtol=0, atol=1e-6)


def test_in_expectation_dare_changes_nothing():
    reference, policy = pair_of((30, 20))
    drawn = [merge(reference, policy, method="dare_linear", alpha=1.0, density=0.5, seed=s) for s in range(2000)]
    error = torch.stack(drawn).mean(0) - policy
    # A kept element is about doubled: its deviation is that of a fair coin times 2|tau|, over sqrt(2000) draws.
    assert (error.abs() < 6 * (policy - reference).abs() / 2000**0.5 + 1e-3).all()


def test_inputs_are_left_alone():
    for method in ("linear", "ties", "dare_ties"):
        reference, policy = pair_of((5, 3))
        before = reference.clone(), policy.clone()
        merge(reference, policy, method=method, alpha=0.4, density=0.2, seed=0)
        assert torch.equal(reference, before[0])
        assert torch.equal(policy, before[1])


def test_what_is_dropped_depends_on_seed_and_name_alone():
    ones = torch.ones(64, 64)
    first = drop(ones.clone(), 0.2, seed_of(0, "a"))
    drop(ones.clone(), 0.2, seed_of(0, "b"))
    torch.rand(3)
    assert torch.equal(drop(ones.clone(), 0.2, seed_of(0, "a")), first)
    others = seed_of(0, "b"), seed_of(1, "a")
    assert not any(torch.equal(drop(ones.clone(), 0.2, seed), first) for seed in others)
    assert 0.15 < (first != 0).float().mean().item() < 0.25
