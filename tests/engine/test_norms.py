"""Norms in one kernel."""

import copy

import pytest
import torch
from test_hf import FAMILIES
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pa_dist.engine.norms import fuse_norms

IDS = torch.arange(40)[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_norms_change_no_number(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    for name, weights in model.named_parameters():
        if "norm" in name:
            weights.data = 1 + torch.randn_like(weights) / 4
    fused = copy.deepcopy(model)
    # qwen3.5 adds one to its weights, in float32: in half precision the sum would be rounded.
    assert fuse_norms(fused) >= 2 * len(model.base_model.layers) * (family != "qwen3_5")
    with torch.no_grad():
        torch.testing.assert_close(fused(IDS).logits, model(IDS).logits, atol=1e-4, rtol=1e-4)
    assert [*fused.state_dict()] == [*model.state_dict()]


def test_a_norm_of_another_kind_stays():
    norms = torch.nn.ModuleList([Gemma2RMSNorm(16), torch.nn.LayerNorm(16), FalconH1RMSNormGated(16)])
    assert fuse_norms(norms) == 0
    assert [type(norm) for norm in norms] == [Gemma2RMSNorm, torch.nn.LayerNorm, FalconH1RMSNormGated]


def test_a_norm_of_a_model_in_several_processes_is_fused_within_what_wraps_it():
    norm = LlamaRMSNorm(16)
    ALL_PARALLEL_STYLES["replicated_with_grad_allreduce"].install_forward(norm, None)
    wrapper = norm.forward
    assert fuse_norms(torch.nn.ModuleList([norm])) == 1
    assert norm.forward is wrapper
    (wrapped,) = [c.cell_contents for c in wrapper.__closure__ if getattr(c.cell_contents, "__self__", None) is norm]
    assert wrapped.__func__ is type(norm).forward
    assert type(norm).__name__ == "FusedLlamaRMSNorm"
