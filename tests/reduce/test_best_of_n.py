import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist.reduce.metrics.best_of_n import Trials, baselines, best_of_n, selection_probabilities, tokens_spent
from pa_dist.reduce.metrics.intervals import Clusters, Scale, estimates_of_means

SCORES = st.one_of(st.none(), st.integers(-2, 2).map(float))
TASKS = st.lists(
    st.lists(st.tuples(SCORES, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6), min_size=1, max_size=4
)


def _trials(tasks):
    task = np.repeat(np.arange(len(tasks)), [len(t) for t in tasks])
    reward = np.array([r for t in tasks for _, r in t])
    score = np.array([np.nan if s is None else s for t in tasks for s, _ in t])
    return Trials(task, reward, reward >= 1), score


def _of(trials):
    return Clusters.of(trials.clusters, 0)


def _found(score, trials):
    return {
        (metric, n): of
        for metric, n, of in best_of_n(score, trials, _of(trials), []) + baselines(trials, _of(trials), [])
    }


def _select(subset):
    """Best score; ties, and no score at all, to the lowest trial."""
    return max(subset, key=lambda trial: (-math.inf if trial[1][0] is None else trial[1][0], -trial[0]))[1][1]


@settings(deadline=None)
@given(TASKS)
def test_agrees_with_every_subset(tasks):
    trials, score = _trials(tasks)
    found = _found(score, trials)
    for n in range(1, max(map(len, tasks)) + 1):
        eligible = [task for task in tasks if len(task) >= n]
        subsets = [list(itertools.combinations(enumerate(task), n)) for task in eligible]
        picked = [[_select(subset) for subset in of_task] for of_task in subsets]
        expected = {
            "success": np.mean([np.mean([r >= 1 for r in of_task]) for of_task in picked]),
            "reward": np.mean([np.mean(of_task) for of_task in picked]),
            "mean": np.mean([np.mean([r >= 1 for _, r in task]) for task in eligible]),
            "oracle": np.mean([np.mean([any(r >= 1 for _, (_, r) in s) for s in of_task]) for of_task in subsets]),
        }
        if np.isnan(score).all():
            assert np.isnan(found["success", n].value)
            assert found["success", n].figure("success", n).note == "no trial has a score"
            del expected["success"], expected["reward"]
        for metric, value in expected.items():
            assert found[metric, n].n == len(eligible)
            assert math.isclose(found[metric, n].value, value, abs_tol=1e-12), (metric, n)


def test_by_hand():
    # Ranked a > b > c, of which b succeeds. n=1: 1/3. n=2: subsets ab -> a, ac -> a, bc -> b: 1/3. n=3: a: 0.
    trials, score = _trials([[(3.0, 0.0), (2.0, 1.0), (1.0, 0.0)]])
    found = {name: of.value for name, of in _found(score, trials).items()}
    np.testing.assert_allclose([found["success", n] for n in (1, 2, 3)], [1 / 3, 1 / 3, 0])
    np.testing.assert_allclose([found["oracle", n] for n in (1, 2, 3)], [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose([found["mean", n] for n in (1, 2, 3)], [1 / 3] * 3)


def test_probabilities_stay_exact_for_hundreds_of_trials():
    found = selection_probabilities(400)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    for n, k in ((1, 399), (8, 0), (8, 50), (200, 3), (399, 1), (400, 0)):
        exact = math.comb(400 - 1 - k, n - 1) / math.comb(400, n)
        assert math.isclose(found[n - 1, k], exact, rel_tol=1e-10)


def test_intervals_are_of_tasks():
    rng = np.random.default_rng(0)
    tasks = [[(float(rng.normal()), float(rng.random() < 0.5)) for _ in range(3)] for _ in range(12)]
    trials, score = _trials(tasks)
    found = _found(score, trials)["success", 3]
    picked = np.array([_select(list(enumerate(task))) for task in tasks])
    (expected,) = estimates_of_means(picked[:, None], Clusters.of(np.arange(12), 0))
    assert found.value == picked.mean()
    assert found.interval() == expected.interval()


def test_missing_scores_are_counted():
    trials, score = _trials([[(None, 1.0), (1.0, 0.0)]])
    found = best_of_n(score, trials, _of(trials), ["1 trials without a reward left out"])
    said = ("1 trials without a reward left out", "1 trials without a score rank last")
    assert all(of.notes == said for *_, of in found)
    assert next(of.value for metric, n, of in found if (metric, n) == ("success", 2)) == 0


def test_tokens_that_n_trials_take():
    # Two trials of 10 and 30 tokens, one of 5: one trial takes (20 + 5) / 2, two of the task that has two 40.
    trials, _ = _trials([[(None, 1.0), (None, 0.0)], [(None, 1.0)]])
    found = tokens_spent(np.array([10.0, 30.0, 5.0]), trials, _of(trials), [])
    assert [(metric, n, of.value, of.n) for metric, n, of in found] == [("tokens", 1, 12.5, 2), ("tokens", 2, 40, 1)]


@settings(deadline=None)
@given(TASKS, st.randoms(use_true_random=False))
def test_tokens_agree_with_every_subset(tasks, random):
    trials, _ = _trials(tasks)
    tokens = [[float(random.randrange(100)) for _ in task] for task in tasks]
    found = tokens_spent(np.concatenate(tokens), trials, _of(trials), [])
    for _, n, of in found:
        subsets = [list(itertools.combinations(task, int(n))) for task in tokens if len(task) >= n]
        assert math.isclose(of.value, np.mean([np.mean([sum(s) for s in each]) for each in subsets]), abs_tol=1e-9)


def test_tokens_are_no_share():
    # Twenty tasks of 0 or 1 token a trial would look like one; and where all are alike there is no interval.
    few = np.repeat([0.0, 1.0], 10)
    trials = Trials(np.arange(20), few, few >= 1)
    ((_, _, of),) = tokens_spent(few, trials, _of(trials), [])
    assert of.scale is Scale.FREE
    ((_, _, of),) = tokens_spent(np.full(20, 7.0), trials, _of(trials), [])
    assert of.figure("tokens", 1).note == "no task differs from another: no interval"
