"""Votes against every subset, counted by hand; where answers come from; and both through a whole evaluation."""

import itertools
import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import SETTINGS, metrics, pick, rollout, run_folder

from pa_dist import schema
from pa_dist.reduce.evaluate import evaluate
from pa_dist.reduce.metrics import votes as module
from pa_dist.reduce.metrics.answers import last_messages, normalised
from pa_dist.reduce.metrics.best_of_n import Trials, best_of_n
from pa_dist.reduce.metrics.intervals import Clusters
from pa_dist.reduce.metrics.votes import votes

TRIALS = st.tuples(
    st.one_of(st.none(), st.integers(-1, 2).map(float)),  # score
    st.sampled_from([0.0, 1.0]),  # reward
    st.sampled_from([None, 3, 3, 7, 2**62]),  # answer
)
TASKS = st.lists(st.lists(TRIALS, min_size=1, max_size=5), min_size=1, max_size=4)


def _arrays(tasks):
    flat = [trial for task in tasks for trial in task]
    task = np.repeat(np.arange(len(tasks)), [len(t) for t in tasks])
    score, reward, answer = zip(*flat, strict=True)
    reward = np.array(reward)
    score = np.array([np.nan if s is None else s for s in score])
    return score, np.array([-1 if a is None else a for a in answer]), Trials(task, reward, reward >= 1)


def _found(score, answer, trials):
    clusters = Clusters.of(trials.clusters, 0)
    return {int(n): of for _, n, of in votes(score, answer, trials, clusters, [])}


def _elected(subset, weighted):
    """Success of who is elected among (place, (score, reward, answer)), as fractions: a plain twin."""
    rank = [(-math.inf if score is None else score) for _, (score, _, _) in subset]
    weights = [1 + sum(r < mine for r in rank) + Fraction(sum(r == mine for r in rank) - 1, 2) for mine in rank]
    sums, backers = defaultdict(Fraction), defaultdict(list)
    for (place, (_, reward, answer)), mine, weight in zip(subset, rank, weights, strict=True):
        key = ("alone", place) if answer is None else answer
        sums[key] += 0 if answer is None else weight if weighted else 1
        backers[key].append((-mine, place, reward))
    winners = [key for key in sums if sums[key] == max(sums.values())]
    if weighted:
        return min(trial for key in winners for trial in backers[key])[2]
    # Any of the winners, and any trial of it.
    return np.mean([np.mean([reward for *_, reward in backers[key]]) for key in winners])


@pytest.mark.parametrize("weighted", [False, True])
@settings(deadline=None)
@given(TASKS)
def test_agrees_with_every_subset(weighted, tasks):
    score, answer, trials = _arrays(tasks)
    found = _found(score if weighted else None, answer, trials)
    assert set(found) == set(range(1, max(map(len, tasks)) + 1))
    for n, of in found.items():
        eligible = [list(enumerate(task)) for task in tasks if len(task) >= n]
        assert of.n == len(eligible)
        if weighted and np.isnan(score).all():
            assert of.figure("weighted_vote", n).note.endswith("no trial has a score")
            continue
        of_tasks = [[_elected(s, weighted) for s in itertools.combinations(task, n)] for task in eligible]
        assert math.isclose(of.value, np.mean([np.mean(each) for each in of_tasks]), abs_tol=1e-12)


@settings(deadline=None, max_examples=50)
@given(TASKS)
def test_of_many_trials_all_are_asked_alone(tasks):
    """More than `MOST_TRIALS` have the figure of the largest n, and the same one."""
    score, answer, trials = _arrays(tasks)
    for given_score in (None, score):
        every = _found(given_score, answer, trials)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_TRIALS", trials.largest - 1)
            alone = _found(given_score, answer, trials)
            patch.setattr(module, "MOST_TRIALS", 8)
            patch.setattr(module, "_AT_ONCE", 1)  # subset by subset
            assert [of.value for of in _found(given_score, answer, trials).values()] == pytest.approx(
                [of.value for of in every.values()], nan_ok=True
            )
        assert list(alone) == [trials.largest]
        assert alone[trials.largest].value == pytest.approx(every[trials.largest].value, nan_ok=True)
        assert "trials alone" in alone[trials.largest].notes[-1]


def test_by_hand():
    # Answers a b b c, ranked a > b > b' > c: weights 4, 3, 2, 1. By count b wins, by weight b with 5 against a's 4; its
    # better trial succeeds, the other one fails.
    tasks = [[(4.0, 0.0, 1), (3.0, 1.0, 2), (2.0, 0.0, 2), (1.0, 0.0, 3)]]
    score, answer, trials = _arrays(tasks)
    assert _found(None, answer, trials)[4].value == 0.5
    assert _found(score, answer, trials)[4].value == 1
    # Where the best trial and b' alone agree, a has 4 + 2 and fails.
    answer[2] = 1
    assert _found(score, answer, trials)[4].value == 0
    # Equal scores weigh the same, 2.5 each: a and b tie with 5, and the first trial is a's.
    assert _found(np.zeros(4), np.array([1, 2, 2, 1]), trials)[4].value == 0


def test_answers_that_all_differ_are_no_votes():
    rng = np.random.default_rng(0)
    reward = rng.integers(0, 2, 60).astype(float)
    trials = Trials(np.repeat(np.arange(12), 5), reward, reward >= 1)
    score, clusters = rng.normal(size=60), Clusters.of(np.arange(12), 0)
    best = {int(n): of.value for metric, n, of in best_of_n(score, trials, clusters, []) if metric == "success"}
    for answer in (np.arange(60), np.full(60, -1)):
        weighted, plain_vote = _found(score, answer, trials), _found(None, answer, trials)
        assert {n: of.value for n, of in weighted.items()} == pytest.approx(best)
        assert [of.value for of in plain_vote.values()] == pytest.approx([reward.mean()] * 5)
    assert all("60 trials without an answer do not vote" in of.notes for of in plain_vote.values())


def _message(role, content):
    return {"role": role, "content": content}


def test_the_last_message_that_the_assistant_wrote():
    conversations = [
        [_message("user", "q"), _message("assistant", "first"), _message("assistant", " 42. "), _message("user", "ok")],
        [_message("user", "nothing said")],
        [],
        None,
        [
            _message("assistant", "kept"),
            _message("assistant", None),
            _message("assistant", "  "),
            _message("tool", "x"),
        ],
    ]
    column = pa.array(conversations, pa.list_(schema.MESSAGE))
    assert last_messages(column).to_pylist() == ["42.", None, None, None, "kept"]
    assert last_messages(column.slice(1)).to_pylist() == [None, None, None, "kept"]


def test_answers_are_equal_but_for_how_they_are_written():
    assert normalised("  Forty\n TWO. ") == normalised("forty two") == "forty two"
    assert normalised("\uff14\uff12") == normalised("42")  # wide digits
    assert normalised("4.2") != normalised("42")


def _voting_rows():
    """Two tasks of three trials: the best-scored fails, the other two agree and succeed."""
    rows = []
    for task in ("t", "u"):
        for trial, (answer, said) in enumerate([("17", "no"), ("Yes.", "17"), (" yes", "17.")]):
            messages = [_message("user", "q"), _message("assistant", said)]
            row = rollout("b", task, trial, float(trial > 0), 2.0 - trial)
            rows.append(row | {"answer": answer, "messages": messages})
    return rows


@pytest.mark.parametrize("answers", ["auto", "last_message", "none"])
def test_votes_of_a_run(tmp_path, answers):
    folder = run_folder(tmp_path, _voting_rows())
    evaluate(SETTINGS.model_copy(update={"answers": answers}), folder, map)
    records = metrics(folder)
    weighted = pick(records, metric="weighted_vote", method="progress_advantage")
    asked = answers != "none"
    counted = [(r["method"], r["at"], r["value"]) for r in pick(records, metric="vote")]
    assert counted == (
        [("baseline", n, pytest.approx(v)) for n, v in ((1, 2 / 3), (2, 2 / 3), (3, 1))] if asked else []
    )
    # Of two that differ the better-scored one, which fails in two of three pairs. Of three the majority, 2 + 1, ties
    # with the best one's 3, and ties are the best-scored trial's.
    assert [r["value"] for r in weighted] == (pytest.approx([2 / 3, 1 / 3, 0]) if asked else [])
    assert {(r["token_agg"], r["step_agg"]) for r in weighted} == ({("mean", "mean")} if asked else set())


def test_groups_without_an_answer_have_no_vote(tmp_path):
    rows = _voting_rows()
    other = [
        row | {"trajectory_id": f"o{i}", "domain": "other", "answer": None, "messages": []}
        for i, row in enumerate(rows)
    ]
    folder = run_folder(tmp_path, rows + other)
    # Where they are asked for, their lack is said.
    evaluate(SETTINGS.model_copy(update={"answers": "last_message"}), folder, map)
    (none,) = pick(metrics(folder), metric="vote", domain="other")
    assert (none["value"], none["note"]) == (None, "no trial with a reward ends in a message of the assistant")
    assert len(pick(metrics(folder), metric="vote", domain=None)) == 3
    folder.write("trajectories", "part-1", pa.table({"trajectory_id": ["of another version"]}))  # has no such column
    evaluate(SETTINGS, folder, map)
    voted = [r for r in metrics(folder) if "vote" in r["metric"]]
    assert {r["domain"] for r in voted} == {None}
    assert len(pick(voted, metric="vote")) == 3
