"""Tokenizers that make millions of tokens of a word: a reject of the rows that hold it, before it is all made."""

import itertools

import pyarrow as pa
import pytest
from chat_templates import save_chat_tokenizer
from tiny_models import save_tokenizer
from tokenizers import Regex, normalizers

from pa_dist import config, schema
from pa_dist.config import WildReward
from pa_dist.models.growth import SLACK, TIMES, Growth
from pa_dist.render.unrenderable import Unrenderable
from pa_dist.reward_models.rows import prompt_rows
from pa_dist.score.rows import tokenize_rows
from pa_dist.score.templates import chat_templates

WORDS = "word " * 200_000
# Each letter becomes ten of the next: 10 ** 12 of the last.
LAUGHS = [normalizers.Replace(a, b * 10) for a, b in itertools.pairwise("ABCDEFGHIJKLM")]
NORMALIZERS = {
    "a word that becomes many": normalizers.Replace("BOMB", WORDS),
    "in steps": normalizers.Sequence([normalizers.NFC(), normalizers.Sequence(LAUGHS)]),
    "by a pattern": normalizers.Replace(Regex("BO?MB|A"), WORDS),
}
TEXT = "BOMB ABOUT"


def block(*texts):
    rows = [
        {
            "trajectory_id": str(i),
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "of course"}],
        }
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, schema.TRAJECTORIES)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_word_that_becomes_millions_is_a_reject(tmp_path, name):
    plain, chat = save_tokenizer(tmp_path / "plain", bos=True), save_chat_tokenizer(tmp_path / "chat", "chatml")
    for tokenizer in (plain, chat):
        tokenizer.backend_tokenizer.normalizer = NORMALIZERS[name]
    table = block("the order", TEXT, "cancel")
    found = [
        tokenize_rows(table, [plain], [10_000], "assistant", 4096),
        tokenize_rows(table, [chat], [10_000], "assistant", 4096, chat_templates(config.Render(style="chat"), [chat])),
        prompt_rows(table, "wild", WildReward(kind="wildreward", input="plain"), plain, 10_000, "assistant"),
    ]
    for made, rejects in found:
        assert made["trajectory_id"].to_pylist() == ["0", "2"]
        (reject,) = rejects.to_pylist()
        assert reject["place"] == "1"
        assert "its tokenizer makes " in reject["reason"]
        assert " of a text of " in reject["reason"]


def test_what_is_put_before_each_text_counts(tmp_path):
    tokenizer = save_tokenizer(tmp_path, bos=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend(WORDS)
    made, rejects = tokenize_rows(block("the order"), [tokenizer], [10_000], "assistant", 4096)
    assert (len(made), len(rejects)) == (0, 1)


class Many:
    """A tokenizer of somebody's own, without a normalizer that could be asked."""

    bos_token_id = None

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[0] * (TIMES * len(text) + SLACK + (text == "many")) for text in texts]}


def test_tokens_are_counted_where_nothing_is_known_before():
    grown = Growth(Many())
    grown.check("many")
    ids = Many()(["four", "many"], add_special_tokens=False)["input_ids"]
    assert grown.checked("four", ids[0]) is ids[0]
    with pytest.raises(Unrenderable, match=rf"^its tokenizer makes {len(ids[1])} tokens of a text of 4 bytes$"):
        grown.checked("many", ids[1])


@pytest.mark.parametrize(
    "normalizer",
    [None, normalizers.NFKD(), normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])],
)
def test_ordinary_tokenizers_are_not_held_up(tmp_path, normalizer):
    tokenizer = save_tokenizer(tmp_path, bos=True)
    if normalizer is not None:
        tokenizer.backend_tokenizer.normalizer = normalizer
    made, rejects = tokenize_rows(block("\ufdfa" * 5_000, " " * 50_000), [tokenizer], [10_000], "assistant", 4096)
    assert (len(made), len(rejects)) == (2, 0)  # the longest ligature there is, eleven times its bytes
