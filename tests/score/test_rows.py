"""Blocks of trajectories to token rows: what cannot be scored is a reject, and labels follow their rows."""

import numpy as np
import pyarrow as pa
import pytest
from tiny_models import PANICS, save_panicking_tokenizer, save_tokenizer

from pa_dist import schema
from pa_dist.engine.protocol import TokenColumns
from pa_dist.score.rows import split_lost, tokenize_rows, tokens_schema, with_columns

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


def test_a_row_that_makes_the_tokenizer_panic_is_a_reject(tmp_path):
    tokenizer = save_panicking_tokenizer(tmp_path)
    scored, rejects = tokenize_rows(block("aa", PANICS, LONG), [tokenizer], [10_000], "assistant", 100)
    assert scored["trajectory_id"].to_pylist() == ["aa", LONG]
    (reject,) = rejects.to_pylist()
    assert reject["trajectory_id"] == PANICS
    assert reject["reason"].startswith("PanicException: ")


def test_what_was_not_scored_is_a_reject(tokenizer):
    table, _ = tokenize_rows(block("aa", LONG, "bb"), [tokenizer], [10_000], "assistant", 100)
    lengths = [len(ids) for ids in table["policy_positions"].to_pylist()]
    columns = [TokenColumns(*np.full((4, n), n, np.float32)) for n in lengths]
    kept, scored, rejects = split_lost(table, "reference", [columns[0], "no memory", columns[2]])
    assert kept["trajectory_id"].to_pylist() == ["aa", "bb"]
    assert rejects["trajectory_id"].to_pylist() == [LONG]
    assert rejects["reason"].to_pylist() == ["reference: no memory"]
    table = with_columns(kept, "reference", "policy", scored)
    assert [np.concatenate(row)[0] for row in table["reference_entropy"].to_pylist()] == [lengths[0], lengths[2]]


def test_a_column_is_null_in_the_rows_that_lack_it_alone(tokenizer):
    table, _ = tokenize_rows(block("aa", "bb"), [tokenizer], [10_000], "assistant", 100)
    first, second = (
        TokenColumns(*np.full((4, len(ids)), 1, np.float32)) for ids in table["policy_positions"].to_pylist()
    )
    table = with_columns(table, "policy", "policy", [first._replace(self_certainty=None), second])
    assert table["policy_self_certainty"].to_pylist() == [[None], [[1.0] * len(second.logprob)]]
    assert table["policy_entropy"].null_count == 0
    assert [len(step) for row in table["policy_entropy"].to_pylist() for step in row] == [len(first[0]), len(second[0])]


def test_a_step_with_a_token_of_no_probability_has_no_logprobs_and_the_others_have(tokenizer):
    table, _ = tokenize_rows(block("aa", LONG), [tokenizer], [10_000], "assistant", 100)
    first, second = (
        TokenColumns(*np.full((4, len(ids)), -1, np.float32)) for ids in table["policy_positions"].to_pylist()
    )
    first.logprob[0] = -np.inf
    table = with_columns(table, "policy", "policy", [first._replace(self_certainty=None), second])
    assert table["policy_logprob"].to_pylist() == [[None], [[-1.0] * len(second.logprob)]]
    assert table["policy_topk_logprob_mean"].to_pylist()[0] == [[-1.0] * len(first.logprob)]
    assert table["policy_self_certainty"].to_pylist() == [[None], [[-1.0] * len(second.logprob)]]
