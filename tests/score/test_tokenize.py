"""Spans and truncation, against positions counted by hand."""

import numpy as np
import pytest
from tiny_models import save_tokenizer

from pa_dist.engine.tokens import fingerprint
from pa_dist.render.plain import Rendered
from pa_dist.score.tokenize import tokenize


class Letters:
    """One token a character, so that spans can be counted."""

    def __init__(self, bos):
        self.bos_token_id = bos

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


RENDERED = Rendered(["ab", "cde", "f", "gh"], [1, 3], ["x", "y"])


@pytest.mark.parametrize(
    ("bos", "max_length", "positions", "lengths", "truncated"),
    [
        (1, 99, [3, 4, 5, 7, 8], [3, 2], [False, False]),  # bos a b C D E f G H
        (None, 99, [2, 3, 4, 6, 7], [3, 2], [False, False]),  # a b C D E f G H
        (1, 6, [1, 2, 4, 5], [2, 2], [False, False]),  # C D E f G H: C is whole but has no log-prob
        (1, 5, [1, 3, 4], [1, 2], [True, False]),  # D E f G H
        (1, 3, [1, 2], [0, 2], [True, False]),  # f G H
        (1, 2, [1], [0, 1], [True, False]),  # G H
    ],
)
def test_spans(bos, max_length, positions, lengths, truncated):
    got = tokenize(RENDERED, Letters(bos), max_length)
    assert got.sequence.positions.tolist() == positions
    assert got.step_lengths.tolist() == lengths
    assert got.truncated == truncated
    assert got.sequence.ids.tolist() == ([*([] if bos is None else [bos]), *map(ord, "abcdefgh")])[-max_length:]


def test_an_action_at_the_very_start_without_bos_loses_its_first_token():
    got = tokenize(Rendered(["a", "bc"], [0, 1], ["x", "x"]), Letters(None), 99)
    assert got.sequence.positions.tolist() == [1, 2]
    assert got.step_lengths.tolist() == [0, 2]
    assert got.truncated == [False, False]


def test_fingerprint_tells_tokenizers_apart(tmp_path):
    one, same = (save_tokenizer(tmp_path / name, bos=True) for name in ("one", "same"))
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(save_tokenizer(tmp_path / "no_bos", bos=False))
    assert fingerprint(one) != fingerprint(save_tokenizer(tmp_path / "small", bos=True, vocabulary=280))
    assert np.array_equal(one.encode("order"), same.encode("order"))
