"""Kernels that are not installed are named."""

import pytest
from test_hf import FAMILIES

from pa_dist.engine import kernels
from pa_dist.engine.kernels import lost_kernels_in_words, missing_kernels


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_linear_layers_name_what_they_lack(family, monkeypatch):
    config = FAMILIES[family]().config
    for held, lacking in ((set(), ["flash-linear-attention", "causal-conv1d"]), ({"fla"}, ["causal-conv1d"])):
        monkeypatch.setattr(kernels, "find_spec", lambda module, held=held: module if module in held else None)
        assert missing_kernels(config) == (lacking if family == "qwen3_5" else [])
    assert lost_kernels_in_words(["a", "b"]).endswith("for want of a and b; `pip install 'pa-dist[gpu]'`")
