"""What is known before a trajectory ends: running scores against loops, alarms by hand, intervals against resamples."""

import math
from functools import partial

import numpy as np
import plain_reduce as plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import metrics, pick, run_folder
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.block.methods import cells
from pa_dist.reduce.block.tables import reduce_block
from pa_dist.reduce.evaluate import evaluate
from pa_dist.reduce.metrics.alarms import alarm_estimates, median, thresholds
from pa_dist.reduce.metrics.beyond_length import beyond_length
from pa_dist.reduce.metrics.intervals import FOLDS, Clusters
from pa_dist.reduce.metrics.uq import Outcomes

K = [1, 2, 12]


@settings(max_examples=25, deadline=None)
@given(plain.corpora(), st.sampled_from(["published", "paper"]))
def test_running_scores_agree_with_loops(rows, preset):
    reduced = reduce_block(plain.table(rows), Evaluate(preset=preset, prefix_steps=K))
    _check(rows, reduced, preset)


def test_running_scores_of_long_trajectories_agree_with_loops():
    rng = np.random.default_rng(0)
    rows = []
    for n in (1, 9, 10, 11, 37):
        steps = [[(*(-rng.integers(64, size=3) / 8), 1.0, 2.0)] * int(rng.integers(3)) for _ in range(n)]
        rows.append(plain.row(f"id{n}", steps))
    for preset in ("published", "paper"):
        _check(rows, reduce_block(plain.table(rows), Evaluate(preset=preset, prefix_steps=K)), preset)


def _check(rows, reduced, preset):
    found = reduced.prefixes.to_pylist()
    assert [f["trajectory_id"] for f in found] == [r["trajectory_id"] for r in rows]
    first = {}
    for cell in cells(preset):
        first.setdefault(cell.method, cell)
    for row, prefix, score in zip(rows, found, reduced.scores.to_pylist(), strict=True):
        n = len(row["step"])
        ends = [*(math.ceil(n * share) for share in schema.PREFIX_SHARES), *K]
        for cell in first.values():
            steps = plain.step_values(row, cell.method, cell.token_agg, preset)
            # Of other tokens no mean is defined, though the steps have a sum.
            expected, worst = plain.prefix(cell.step_agg, steps, ends, cell.orientation)
            names = schema.prefix_columns(cell.method, K)
            for name, value in zip(names, expected, strict=True):
                assert prefix[name] == (None if value is None else pytest.approx(value, rel=1e-12)), name
            assert prefix[names[3]] == score[cell.column]  # to the last bit
            found_worst = zip(prefix[f"{cell.method}__worst_step"], prefix[f"{cell.method}__worst"], strict=True)
            assert list(found_worst) == [(t, pytest.approx(value, rel=1e-12)) for t, value in worst]


def test_figures_are_those_of_the_running_scores(tmp_path):
    rng = np.random.default_rng(1)
    rows = [_rollout(i, rng, i % 3 > 0) for i in range(120)]
    folder = run_folder(tmp_path, rows, per_file=50)
    asked = Evaluate(prefix_steps=[3, 1], false_alarms=0.2, resamples=10)
    evaluate(asked, folder, map)
    records = pick(metrics(folder), scenario="prefix", method="progress_advantage")
    success = [row["reward"] for row in rows]
    advantage = [[step[0] + 2.0 for step in row["policy_logprob"]] for row in rows]
    for end, names, at in (
        (lambda n: math.ceil(n / 2), ("auroc_at", "auprc_at"), 0.5),
        (lambda n: min(n, 3), ("auroc_after", "auprc_after"), 3),
    ):
        scores = [np.mean(steps[: end(len(steps))]) for steps in advantage]
        for name, expected in zip(names, (roc_auc_score, average_precision_score), strict=True):
            (figure,) = pick(records, metric=name, at=at)
            assert figure["value"] == pytest.approx(expected(success, scores))
            assert figure["ci_low"] < figure["value"] < figure["ci_high"]
    uq = pick(metrics(folder), scenario="uq", method="progress_advantage", token_agg="mean", step_agg="mean")
    (whole,) = pick(records, metric="auroc_at", at=1)
    assert pick(uq, metric="auroc")[0]["value"] == whole["value"]

    # The alarm, as a loop has it.
    clusters = Clusters.of(np.array([int(row["task_id"]) for row in sorted(rows, key=_id)]), 0)
    ordered = sorted(zip(rows, advantage, strict=True), key=lambda pair: _id(pair[0]))
    running = [np.cumsum(steps) / np.arange(1, len(steps) + 1) for _, steps in ordered]
    flagged, when = [], []
    for k, (row, _) in enumerate(ordered):
        lowest = sorted(
            of.min()
            for of, (other, _), fold in zip(running, ordered, clusters.folds, strict=True)
            if other["reward"] and fold != clusters.folds[k]
        )
        below = np.flatnonzero(running[k] < lowest[int(0.2 * (len(lowest) + 1)) - 1])
        flagged.append((row["reward"], len(below) > 0))
        if len(below) and not row["reward"]:
            when.append((below[0] + 1, (below[0] + 1) / len(running[k])))
    value = {r["metric"]: r for r in records if r["at"] == 0.2}
    assert value["false_alarms"]["value"] == pytest.approx(np.mean([of for won, of in flagged if won]))
    assert value["caught"]["value"] == pytest.approx(np.mean([of for won, of in flagged if not won]))
    assert value["caught_step"]["value"] == np.median([step for step, _ in when])
    assert value["caught_share"]["value"] == pytest.approx(np.median([share for _, share in when]))
    for name in ("caught", "caught_step", "caught_share"):
        assert value[name]["ci_low"] <= value[name]["value"] <= value[name]["ci_high"]


def _id(row):
    return row["trajectory_id"]


def _rollout(i, rng, succeeded):
    """Failures lose their advantage as they go on."""
    steps = [(rng.normal(0 if succeeded else -0.3 * t), -2.0, -3.0, 1.0, 2.0) for t in range(rng.integers(2, 9))]
    steps = [[(step[0] - 2.0, *step[1:])] for step in steps]
    return plain.row(f"id{i:03d}", steps, task_id=str(i // 4), trial=i % 4, reward=float(succeeded))


def test_what_cannot_be_known_early_says_why(tmp_path):
    rng = np.random.default_rng(2)
    few = run_folder(tmp_path / "few", [_rollout(i, rng, i % 3 == 0) for i in range(24)])
    evaluate(Evaluate(scenarios=["prefix"], resamples=10), few, map)
    assert {r["scenario"] for r in metrics(few)} == {"prefix"}
    for name in ("false_alarms", "caught", "caught_step"):
        (figure,) = pick(metrics(few), method="progress_advantage", metric=name)
        assert figure["value"] is None
        assert "too few successes on other tasks: a rate of 0.1 takes 9" in figure["note"]
    failed = run_folder(tmp_path / "failed", [_rollout(i, rng, False) for i in range(24)])
    evaluate(Evaluate(resamples=10), failed, map)
    (figure,) = pick(metrics(failed), scenario="prefix", method="progress_advantage", metric="caught")
    assert "every trajectory failed" in figure["note"]
    bare = run_folder(tmp_path / "bare", [plain.row("a", [[(-1, -2, -3, 1, 2)]])])
    evaluate(Evaluate(scenarios=["prefix"], resamples=10), bare, map)
    assert {r["note"] for r in metrics(bare)} == {"no trajectory has a reward"}
    # Not asked for, nothing is kept.
    evaluate(Evaluate(scenarios=["uq"], resamples=10), bare, map)
    assert len(bare.dataset("prefixes").to_table()) == 0


def test_a_threshold_keeps_its_rate_on_new_successes():
    """Of 19 successes the second lowest score is the threshold at a rate of 0.1: one of twenty equals is below it."""
    lowest, folds = np.arange(40.0), np.repeat([0, 1], 20)
    success = folds == 1
    success[20] = False
    at = thresholds(lowest, success, folds, 0.1)
    assert set(at[folds == 0]) == {22.0}  # 21, 22, ... are the successes
    assert np.isnan(at[folds == 1]).all()  # the other fold has none
    rng, rates = np.random.default_rng(0), []
    for _ in range(200):
        score, folds = rng.normal(size=60), np.arange(60) % FOLDS
        rates.append(np.mean(score < thresholds(score, np.ones(60, bool), folds, 0.1)))
    assert 0.07 < np.mean(rates) <= 0.1  # 4 of 49 on average


def test_intervals_of_the_alarm_hold_the_truth():
    """Successes from N(0, 1), failures from N(-1, 1): at a rate of 0.1 the alarm catches Phi(1 - 1.2816) of them."""
    truth, held, n = stats.norm.cdf(1 + stats.norm.ppf(0.1)), [], 400
    widths = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        success = rng.random(n) < 0.5
        lowest = rng.normal(size=n) - ~success
        clusters = Clusters.of(np.arange(n), seed)
        at = thresholds(lowest, success, clusters.folds, 0.1)
        _, caught = alarm_estimates(lowest, at, success, clusters, 0.1, [])
        low, high = caught.interval()
        held.append(low <= truth <= high)
        widths.append(high - low)
    assert 0.92 < np.mean(held) < 0.985
    assert np.mean(widths) > 0.2  # of the failures alone it would be 0.13


def test_intervals_of_a_median_hold_the_truth():
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        task = rng.normal(size=40)
        values = np.repeat(task, 3) + rng.normal(size=120)
        figure = median("caught_step", 0.1, values, Clusters.of(np.repeat(np.arange(40), 3), 0), [], intervals=True)
        held.append(figure.ci_low <= 0 <= figure.ci_high)
    assert 0.92 < np.mean(held) < 0.985


def _partial(score, reward, length):
    """Correlation of what is left of the ranks when those of the length are taken out by least squares."""
    ranks = [stats.rankdata(of) for of in (score, reward, length)]
    x, y, z = (of - of.mean() for of in ranks)
    return np.corrcoef(x - z * (x @ z) / (z @ z), y - z * (y @ z) / (z @ z))[0, 1]


def test_beyond_length_is_the_partial_rank_correlation():
    rng = np.random.default_rng(0)
    n = 3000
    length = rng.integers(3, 20, n).astype(float)
    reward = (rng.normal(size=n) - 0.1 * length > -1).astype(float)
    score = -length + 3 * reward + rng.normal(size=n)
    clusters = Clusters.of(np.arange(n) // 2, 0)
    outcomes = Outcomes(reward, reward > 0, clusters)
    of = beyond_length(score, length, outcomes)
    assert of.value == pytest.approx(_partial(score, reward, length))
    assert abs(of.parts.sum()) < 1e-9
    # Without one task the figure moves by what that task adds to it.
    for task in range(0, n // 2, 75):
        rows = clusters.bins != clusters.bins[2 * task]
        moved = of.value - _partial(score[rows], reward[rows], length[rows])
        assert moved == pytest.approx(of.parts[clusters.bins[2 * task]], rel=0.02, abs=2e-6)
    # A score that only measures length says nothing beyond it; one with noise of its own next to nothing.
    assert math.isnan(beyond_length(-length, length, outcomes).value)
    low, high = beyond_length(-length + rng.normal(size=n), length, outcomes).interval()
    assert low < 0 < high


def test_length_baselines_measure_length_alone(tmp_path):
    """Of successes of 1, 2 steps against failures of 2, 3: shorter in 3 pairs, a tie in one."""
    rows = [
        plain.row(f"id{k}", [[(-1, -2, -3, 1, 2)] * 2] * n, task_id=str(k // 2), trial=k % 2, reward=reward)
        for k, (n, reward) in enumerate([(1, 1.0), (2, 0.0), (3, 0.0), (2, 1.0)])
    ]
    folder = run_folder(tmp_path, rows)
    evaluate(Evaluate(resamples=10), folder, map)
    of = partial(pick, metrics(folder), token_agg="none", step_agg="none")
    for method in ("fewest_steps", "fewest_tokens"):
        assert of(scenario="uq", method=method, metric="auroc")[0]["value"] == 3.5 / 4
        assert of(scenario="best_of_n", method=method, metric="success", at=2)[0]["value"] == 1
    scores = {row["trajectory_id"]: row for row in folder.dataset("scores").to_table().to_pylist()}
    assert (scores["id2"]["fewest_steps__none__none"], scores["id2"]["fewest_tokens__none__none"]) == (3, 6)
    baseline = {r["metric"]: r["value"] for r in pick(metrics(folder), scenario="uq", method="baseline")}
    assert baseline == {"auprc": 0.5, "majority": 0.5}


def test_numbers_of_steps_are_put_in_order_and_begin_at_one():
    assert Evaluate(prefix_steps=[5, 1, 5]).prefix_steps == [1, 5]
    for wrong in ({"prefix_steps": [0]}, {"false_alarms": 0}, {"false_alarms": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Evaluate(**wrong)
