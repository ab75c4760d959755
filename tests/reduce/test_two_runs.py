"""Two small runs, of which four trajectories are shared: every figure by hand."""

import io
import json

import pyarrow as pa
import pytest
from rich.console import Console

from pa_dist import schema
from pa_dist.errors import RunFolderError
from pa_dist.reduce.choice.two_runs import AGREEMENT, compare
from pa_dist.report.facts import names
from pa_dist.report.terminal.compare import show_comparison
from pa_dist.store.folder import RunFolder

COLUMNS = ["progress_advantage__mean__mean", "entropy__mean__mean"]


def _run(path, ids, scores, blamed, beta=1.0, reward=None):
    """A run folder as an evaluation leaves it; even trajectories succeed, odd ones fail at message 3."""
    folder = RunFolder(str(path))
    folder.start("evaluate", {"evaluate": {"resamples": 50, "beta": beta}})
    folder.finish("evaluate")
    rows, blame = [], []
    for i, score, step in zip(ids, scores, blamed, strict=True):
        row = {"trajectory_id": f"id{i}", "benchmark": "desk", "task_id": f"t{i // 2}", "trial": i % 2}
        fails = i % 2 == 1
        labels = {"reward": float(not fails) if reward is None else reward, "mistake_step": 3 if fails else None}
        rows.append(row | labels | {COLUMNS[0]: score, COLUMNS[1]: -score if i else None})
        cell = {"method": "progress_advantage", "token_agg": "mean", "predictor": "sharpest_drop"}
        blame.append(row | cell | {"mistake_step": labels["mistake_step"], "step": step})
    folder.write("scores", "part-0", pa.Table.from_pylist(rows[::-1], schema.scores(COLUMNS)))
    folder.write("attributions", "part-0", pa.Table.from_pylist(blame, schema.ATTRIBUTIONS))
    return folder


@pytest.fixture
def runs(tmp_path):
    first = _run(tmp_path / "first", [0, 1, 2, 3, 8], [4.0, 3.0, 2.0, 1.0, 0.0], [1, 3, 1, 3, 1])
    second = _run(tmp_path / "second", [3, 2, 1, 0, 5, 7], [2.0, 3.0, 1.0, 4.0, 9.0, 9.0], [3, 1, 1, None, 1, 1], 2)
    return first, second


def test_figures_by_hand(runs):
    found = compare(*runs, map)
    assert (found.shared, found.only_first, found.only_second) == (4, 1, 2)
    assert found.differences == ["evaluate.evaluate.beta: 1.0 -> 2"]
    sides = {(s.scenario, s.method, s.metric): s for s in found.sides}
    # Of pairs (0 or 2, 1 or 3) the first run has 3 of 4 in order, the second all.
    auroc = sides["uq", "progress_advantage", "auroc"]
    assert (auroc.first, auroc.second, auroc.value, auroc.n) == (0.75, 1, -0.25, 4)
    # Entropy of trajectory 0 is null; it is minus the score, and lower is better: 2 over 1 but not over 3; all.
    auroc = sides["uq", "entropy", "auroc"]
    assert (auroc.first, auroc.second, auroc.n) == (0.5, 1, 3)
    # In both tasks the first run picks the success, 4 over 3 and 2 over 1; so does the second.
    success = sides["best_of_n", "progress_advantage", "success"]
    assert (success.first, success.second, success.value, success.at, success.p_value) == (1, 1, 0, 2, None)
    # Two tasks say nothing of how sure that is.
    assert all((s.ci_low, s.ci_high, s.p_value) == (None,) * 3 for s in found.sides)
    assert all("fewer than ten tasks: no interval" in s.note for s in found.sides if s.value is not None)
    # Failures 1 and 3: the first run blames 3 in both, the second in one.
    blame = sides["fa", "progress_advantage", "step_accuracy"]
    assert (blame.first, blame.second, blame.value, blame.n) == (1, 0.5, 0.5, 2)
    # Trajectories 2 and 3 are blamed alike, 1 is not, and of 0 one run alone says anything.
    assert sides[AGREEMENT, "progress_advantage", "same_step"].value == 0.5
    # Ranks 4 3 2 1 and 4 1 3 2: 1 - 6 (0 + 4 + 1 + 1) / (4 * 15).
    assert sides[AGREEMENT, "progress_advantage", "rank_correlation"].value == pytest.approx(0.4)
    json.dumps(found.as_json(), allow_nan=False)


def test_labels_that_differ_take_no_part(tmp_path):
    runs = [
        _run(tmp_path / name, [0, 1], [2.0, 1.0], [1, 3], reward=reward) for name, reward in (("a", 1.0), ("b", None))
    ]
    found = compare(*runs, map)
    (auroc,) = (s for s in found.sides if (s.method, s.metric) == ("progress_advantage", "auroc"))
    assert (auroc.value, auroc.n) == (None, 1)
    assert "1 trajectories whose reward differs between the runs left out" in auroc.note
    assert "one class only" in auroc.note


def test_a_run_beside_itself_is_no_different(runs):
    found = compare(runs[0], runs[0], map)
    assert found.differences == []
    assert {s.value for s in found.sides if s.scenario != AGREEMENT} <= {0.0, None}
    assert {s.value for s in found.sides if s.scenario == AGREEMENT} == {1.0}


def test_what_cannot_be_compared_is_one_line(runs, tmp_path):
    apart = _run(tmp_path / "apart", [20], [1.0], [1])
    with pytest.raises(RunFolderError, match="share no trajectory_id: 5 and 1 apart"):
        compare(runs[0], apart, map)
    with pytest.raises(RunFolderError, match="nothing evaluated here yet"):
        compare(runs[0], RunFolder(str(tmp_path / "nothing")), map)


def test_the_terminal_shows_both_and_the_difference(runs):
    out = io.StringIO()
    show_comparison(compare(*runs, map), ["small", "[/x]\x1b"], Console(file=out))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[:2] == ["settings, small -> [/x]␛:", "evaluate.evaluate.beta: 1.0 -> 2"]
    assert "trajectories: 4 in both, 1 in small alone, 2 in [/x]␛ alone" in lines
    assert "method figure small [/x]␛ small minus [/x]␛ p" in lines
    assert any(line.startswith("progress_advantage auroc 0.750 1.000 -0.250 -") for line in lines)
    assert any(line.startswith("progress_advantage same_step sharpest_drop +0.500") for line in lines)


def test_a_run_is_called_as_its_config_or_its_folder_has_it(runs):
    assert names(runs) == ["first", "second"]
    runs[0].remember(config={"name": "mine\n"})
    assert names(runs) == ["mine\ufffd", "second"]
    runs[1].remember(config={"name": "mine\n"})
    assert names(runs) == [f"mine\ufffd ({run})" for run in runs]
