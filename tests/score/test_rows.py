"""Blocks of trajectories to token rows: what cannot be scored is a reject, and labels follow their rows."""

import pyarrow as pa
import pytest
from tiny_models import save_tokenizer

from pa_dist import schema
from pa_dist.score.rows import tokenize_rows, tokens_schema

RARE = "{'fields': ['status', 'total']}"
LONG = "The order has shipped already, so I cannot cancel it."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=True)


def block(*texts):
    rows = [
        {
            "trajectory_id": text,
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}],
            "reward": 1.0,
        }
        for text in texts
    ]
    return pa.Table.from_pylist(rows, schema.TRAJECTORIES)


def test_token_ids_that_a_model_lacks_are_rejects(tokenizer):
    scored, _ = tokenize_rows(block("aa", RARE), [tokenizer], [10_000], "assistant", 100)
    largest = {row["trajectory_id"]: max(row["policy_ids"]) for row in scored.to_pylist()}
    known = largest[RARE]
    assert largest["aa"] < known
    scored, rejects = tokenize_rows(block("aa", RARE), [tokenizer], [known], "assistant", 100)
    assert scored["trajectory_id"].to_pylist() == ["aa"]
    assert scored.schema == tokens_schema(shared=True)
    (reject,) = rejects.to_pylist()
    assert reject["trajectory_id"] == RARE
    assert reject["reason"] == f"token id {known} is outside the model's vocabulary of {known}"


def test_a_step_is_truncated_where_either_model_lost_tokens(tokenizer, tmp_path):
    coarse = save_tokenizer(tmp_path, bos=True, vocabulary=400)
    table = block(LONG)
    long = len(tokenizer(f"\n[assistant]: {LONG}")["input_ids"])
    short = len(coarse(f"\n[assistant]: {LONG}")["input_ids"])
    assert short < long
    scored, _ = tokenize_rows(table, [coarse, tokenizer], [10_000] * 2, "assistant", long - 1)
    assert scored["truncated"].to_pylist() == [[True]]
    scored, _ = tokenize_rows(table, [coarse], [10_000], "assistant", long - 1)
    assert scored["truncated"].to_pylist() == [[False]]
