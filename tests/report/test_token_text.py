"""TokenText of token ids against plain decoding, with tokenizers of several kinds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pa_dist.engine.tokens import load_tokenizer
from pa_dist.pairs import SHIPPED
from pa_dist.report.viewer.token_text import TokenText, policy_pieces


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Spaces as U+2581, bytes for what it does not know, and a decoder that drops the first space, as Llama's does."""
    words = ["▁", "▁the", "▁order", "s", "a", "o", "r", "d", "e", "t", "h"]
    vocabulary = {word: i for i, word in enumerate([*(f"<0x{i:02X}>" for i in range(256)), "<unk>", *words])}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def wordpiece_like() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "order": 2, "##ed": 3, "the": 4}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("bytes"), bos=True)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_bytes_of_a_character_are_one_piece_and_all_pieces_are_the_text(byte_level, text):
    ids = byte_level(text, add_special_tokens=False)["input_ids"]
    pieces = TokenText(byte_level).cut(ids)
    assert "".join(piece.text for piece in pieces) == byte_level.decode(ids, clean_up_tokenization_spaces=False) == text
    assert sum(piece.n_tokens for piece in pieces) == len(ids)
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece.text for piece in pieces)


def test_a_piece_has_no_more_tokens_than_its_character(byte_level):
    ids = byte_level("a😀é", add_special_tokens=False)["input_ids"]
    assert [tuple(piece) for piece in TokenText(byte_level).cut(ids)] == [("a", 1), ("😀", 4), ("é", 2)]


def test_a_step_that_begins_in_the_middle_of_a_character_still_adds_up(byte_level):
    ids = byte_level("😀 ok", add_special_tokens=False)["input_ids"][2:]
    pieces = TokenText(byte_level).cut(ids)
    assert "".join(piece.text for piece in pieces) == byte_level.decode(ids)
    assert sum(piece.n_tokens for piece in pieces) == len(ids)


def test_the_space_before_a_first_token_is_kept():
    tokenizer = sentencepiece_like()
    ids = tokenizer.convert_tokens_to_ids(["▁the", "▁order", "s", "▁", "<0xE4>", "<0xB8>", "<0xAD>"])
    assert [tuple(piece) for piece in TokenText(tokenizer).cut(ids)] == [
        (" the", 1), (" order", 1), ("s", 1), (" ", 1), ("中", 3),
    ]  # fmt: skip
    assert tokenizer.decode(ids) == "the orders 中"


def test_pieces_of_words_are_joined_as_their_decoder_does():
    pieces = TokenText(wordpiece_like()).cut([4, 2, 3])
    assert [piece.text for piece in pieces] == [" the", " order", "ed"]


def test_the_demos_own():
    tokenizer = load_tokenizer(str(SHIPPED / "policy"))
    text = "\n[assistant]: tool_call(stock, {'warehouse': 'north'})"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = TokenText(tokenizer).cut(ids)
    assert len(pieces) == len(ids)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids) == text


def test_a_tokenizer_that_is_not_there_is_a_reason(tmp_path):
    pair = {"policy": str(tmp_path / "gone"), "policy_revision": None}
    manifest = {"stages": {"score": {"settings": {"pair": pair}, "commits": {"policy": None}}}}
    assert str(policy_pieces(manifest)).startswith("the policy's tokenizer could not be loaded: ")
