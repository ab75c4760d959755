"""A short run of the broken inputs; `python tests/hostile.py` is the long one."""

import hostile
import pytest

pytestmark = pytest.mark.integration


def test_no_broken_input_raises_or_loses_a_row(monkeypatch):
    monkeypatch.setattr(hostile, "HANG_SECONDS", 120)
    hostile.main(inputs=160, seed=1, with_large=False)
