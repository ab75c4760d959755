"""Rows of `rewards` and `rejects`: what was not shown, not judged, not finite or not known."""

import math

import pyarrow as pa
import pytest
from tiny_models import CRITIQUE, LOG_ODDS, PANICS, save_critic, save_panicking_tokenizer
from transformers import AutoTokenizer

from pa_dist import schema
from pa_dist.config import ThinkPRM, WildReward
from pa_dist.reward_models.rows import prompt_rows, reward_rows
from pa_dist.reward_models.verdicts import Critique


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic")
    save_critic(folder)
    return AutoTokenizer.from_pretrained(folder)


def trajectories(*ids, actions=3):
    messages = [{"role": "user", "content": "Cancel my order."}]
    messages += [{"role": "assistant", "content": f"Looking, time {i}."} for i in range(actions)]
    return pa.Table.from_pylist([{"trajectory_id": key, "messages": messages} for key in ids], schema.TRAJECTORIES)


def critique(tokenizer, n=6):
    """The critic's own, cut after so many tokens."""
    ids = tokenizer.convert_tokens_to_ids(CRITIQUE)
    correct, incorrect = tokenizer.convert_tokens_to_ids(["correct", "incorrect"])
    top = [{token: 0.0} for token in ids]
    for place, log_odds in LOG_ODDS.items():
        top[place + 1] = {correct: log_odds - 1, incorrect: -1.0}
    return Critique(ids[:n], top[:n], finished=n == len(ids))


def judged(tokenizer, outcome, **settings):
    settings = ThinkPRM(kind="thinkprm", **settings)
    prompts, _ = prompt_rows(trajectories("a"), "prm", settings, tokenizer, 320, "assistant")
    (row,), rejects = (table.to_pylist() for table in reward_rows(prompts, "prm", [outcome], tokenizer))
    assert rejects == []
    assert row["step"] == [1, 2, 3]
    assert row["score"] is None
    return row


def test_steps_without_a_verdict_are_null_with_the_reason(tokenizer):
    row = judged(tokenizer, critique(tokenizer))
    assert row["step_score"] == [pytest.approx(0.8), pytest.approx(0.1), None]
    assert row["step_read"] == ["logprob", "logprob", None]
    assert row["step_reason"] == [None, None, "never judged"]
    assert row["critique"] == "".join(CRITIQUE[:-1])
    row = judged(tokenizer, critique(tokenizer, 3))
    assert row["step_score"] == [pytest.approx(0.8), None, None]
    assert row["step_reason"] == [None, *["the critique ended at its limit of tokens before"] * 2]


def test_a_verdict_of_a_step_that_was_not_shown_is_a_guess(tokenizer):
    whole = judged(tokenizer, critique(tokenizer))
    row = judged(tokenizer, critique(tokenizer), max_length=whole["n_tokens"] + 99, max_new_tokens=100)
    assert row["truncated"]
    assert row["n_tokens"] < whole["n_tokens"]
    assert row["step_score"] == [None, pytest.approx(0.1), None]
    assert row["step_read"] == [None, "logprob", None]
    assert row["step_reason"] == ["not shown: the trajectory is too long", None, "never judged"]


def test_what_has_no_score_is_a_reject_and_leaves_its_trajectory_alone(tokenizer):
    settings = WildReward(kind="wildreward", input="plain")
    prompts, none = prompt_rows(trajectories("a", "b", "c"), "wild", settings, tokenizer, 320, "assistant")
    assert len(none) == 0
    rows, rejects = reward_rows(prompts, "wild", [3.5, math.nan, "no memory"], tokenizer)
    assert [(row["trajectory_id"], row["score"], row["step"]) for row in rows.to_pylist()] == [("a", 3.5, None)]
    assert rejects.select(["place", "trajectory_id", "stage", "reason"]).to_pylist() == [
        {"place": "b", "trajectory_id": None, "stage": "reward", "reason": "wild: its score is not finite"},
        {"place": "c", "trajectory_id": None, "stage": "reward", "reason": "wild: no memory"},
    ]


def test_what_cannot_be_shown_is_a_reject(tokenizer):
    settings = WildReward(kind="wildreward", max_length=50)
    for table, vocabulary, reason in (
        (trajectories("a"), 320, "wild: max_length leaves -"),
        (trajectories("a"), 3, "wild: token id "),
        (trajectories("a", actions=0), 320, "wild: no message is an action"),
    ):
        chosen = settings.model_copy(update={"input": "plain"}) if vocabulary == 3 else settings
        prompts, rejects = prompt_rows(table, "wild", chosen, tokenizer, vocabulary, "assistant")
        assert len(prompts) == 0
        assert rejects["reason"][0].as_py().startswith(reason)


def test_a_row_that_makes_the_tokenizer_panic_is_a_reject(tmp_path):
    panics = {"role": "user", "content": PANICS}
    table = pa.Table.from_pylist(
        [
            *trajectories("a").to_pylist(),
            {"trajectory_id": "b", "messages": [panics, *trajectories("b")["messages"][0].as_py()]},
        ],
        schema.TRAJECTORIES,
    )
    settings, tokenizer = WildReward(kind="wildreward", input="plain"), save_panicking_tokenizer(tmp_path)
    prompts, rejects = prompt_rows(table, "wild", settings, tokenizer, 320, "assistant")
    assert prompts["trajectory_id"].to_pylist() == ["a"]
    (reject,) = rejects.to_pylist()
    assert reject["place"] == "b"
    assert reject["reason"].startswith("wild: PanicException: ")
