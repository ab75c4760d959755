"""Reward models as methods: values by hand, from the join to the metrics."""

import io
import json
import pickle
from pathlib import Path

import plain_reduce as plain
import pyarrow as pa
import pytest
from rich.console import Console

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce import evaluate as stage
from pa_dist.reduce.block.methods import RewardMethod
from pa_dist.reduce.block.rewards import Judged
from pa_dist.reduce.block.tables import reduce_block
from pa_dist.reduce.evaluate import evaluate
from pa_dist.report.terminal.metrics import show_metrics
from pa_dist.store.folder import RunFolder

STEPWISE, WHOLE = RewardMethod("prm", judges_steps=True), RewardMethod("wild", judges_steps=False)
TOKEN = (-1.0, -2.0, -1.0, 1.0, 1.0)


def rewards(rows):
    return pa.Table.from_pylist(rows, schema.REWARDS)


def judged_steps(**of):
    """Step scores by trajectory, of the messages 1, 3, 5 and so on."""
    return [
        {"trajectory_id": key, "step": [2 * i + 1 for i in range(len(scores))], "step_score": scores}
        for key, scores in of.items()
    ]


def block(*ids, n_steps=3):
    return plain.table([plain.row(key, [[TOKEN]] * n_steps, mistake_step=3) for key in ids])


def blamed(scores, **settings):
    found = reduce_block(block("a"), Evaluate(**settings), judged=[Judged(STEPWISE, rewards(judged_steps(a=scores)))])
    rows = [row for row in found.attributions.to_pylist() if row["method"] == "prm"]
    assert {row["token_agg"] for row in rows} == {"none"}
    return {row["predictor"]: row["step"] for row in rows}


@pytest.mark.parametrize(
    ("scores", "threshold", "cumulative", "drop", "abs_drop", "earliest"),
    [
        # Minus 0.5: 0.1, -0.1, -0.4; sums 0.1, 0, -0.4; falls 0.2, 0.3.
        ([0.6, 0.4, 0.1], 0.5, 5, 5, 5, 3),
        # None below the threshold: the lowest step. Sums 0.4, 0.5, 0.8.
        ([0.9, 0.6, 0.8], 0.5, 1, 1, 3, 3),
        # Minus 0.7: 0.2, -0.1, 0.1; sums 0.2, 0.1, 0.2.
        ([0.9, 0.6, 0.8], 0.7, 3, 3, 3, 3),
        # A step that was never judged is no step; the threshold itself is not below it.
        ([0.5, None, 0.1], 0.5, 5, 5, 5, 5),
        ([None, None, None], 0.5, None, None, None, None),
    ],
)
def test_blamed_steps_by_hand(scores, threshold, cumulative, drop, abs_drop, earliest):
    assert blamed(scores, reward_threshold=threshold) == {
        "min_cumulative": cumulative,
        "sharpest_drop": drop,
        "sharpest_abs_drop": abs_drop,
        "earliest_below": earliest,
    }


def test_step_scores_are_aggregated_and_other_methods_left_alone():
    table = block("a", "b", "c")
    judged = Judged(STEPWISE, rewards(judged_steps(z=[0.3] * 3, b=[0.9, None, 0.2], a=[0.25, 0.75, 0.5])))
    found, without = reduce_block(table, Evaluate(), judged=[judged]), reduce_block(table, Evaluate())
    a, b, c = found.scores.select([f"prm__none__{agg}" for agg in schema.STEP_AGGS]).to_pylist()
    assert list(a.values()) == [0.5, 1.5, 0.5, 0.75, 0.25, 0.25]
    assert list(b.values()) == pytest.approx([0.55, 1.1, 0.2, 0.9, 0.2, 0.2])
    assert set(c.values()) == {None}
    assert found.scores.select(without.scores.column_names).equals(without.scores)
    others = [row for row in found.attributions.to_pylist() if row["method"] != "prm"]
    assert others == without.attributions.to_pylist()


def test_steps_are_joined_by_their_messages():
    table = rewards([{"trajectory_id": "a", "step": [7, 5, 1], "step_score": [0.1, 0.2, 0.3]}])
    (row,) = reduce_block(block("a"), Evaluate(), judged=[Judged(STEPWISE, table)]).scores.to_pylist()
    assert (row["prm__none__sum"], row["prm__none__last"]) == (0.5, 0.2)


def test_scores_of_whole_trajectories():
    table = rewards([{"trajectory_id": key, "score": score} for key, score in (("c", 2.5), ("x", 9.0), ("a", -1.0))])
    found = reduce_block(block("a", "b", "c"), Evaluate(), judged=[Judged(WHOLE, table)])
    assert found.scores["wild__none__none"].to_pylist() == [-1.0, None, 2.5]
    assert "wild" not in found.attributions["method"].to_pylist()
    for nothing in (rewards([]), rewards([]).slice(0, 0)):
        judged = [Judged(WHOLE, nothing), Judged(STEPWISE, nothing)]
        row, *_ = reduce_block(block("a"), Evaluate(), judged=judged).scores.to_pylist()
        assert (row["wild__none__none"], row["prm__none__mean"]) == (None, None)


# Two tasks of two trials, and one trajectory that no reward model judged.
RUN = [
    # id, task, trial, reward, score, P(correct) of two steps
    ("a", "t0", 0, 0.0, 1.0, [0.9, 0.3]),
    ("b", "t0", 1, 1.0, 3.0, [0.8, 0.9]),
    ("c", "t1", 0, 1.0, 2.0, [0.2, 0.9]),
    ("d", "t1", 1, 0.0, 2.5, [0.6, None]),
    ("e", "t1", 2, 0.0, None, None),
]


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(str(tmp_path))
    rows = [
        plain.row(key, [[TOKEN]] * 2, task_id=task, trial=trial, reward=reward, mistake_step=3)
        for key, task, trial, reward, _, _ in RUN
    ]
    folder.write("logprobs", "part-0", plain.table(rows[:2]))
    folder.write("logprobs", "part-1", plain.table(rows[2:]))
    judged = [row for row in RUN if row[4] is not None]
    folder.write("rewards/wild", "part-0", rewards([{"trajectory_id": row[0], "score": row[4]} for row in judged]))
    folder.write("rewards/prm", "part-0", rewards(judged_steps(**{row[0]: row[5] for row in reversed(judged)})))
    return folder


def pickled(function, items):
    return (pickle.loads(pickle.dumps((function, item)))[0](item) for item in items)


@pytest.mark.parametrize("row_groups", [False, True])
def test_a_part_reads_the_files_that_hold_its_rows(tmp_path, row_groups, monkeypatch):
    monkeypatch.setattr(stage, "_TASK_BYTES", 1)  # a part is a file, or a row group of several
    folder, whole, said = RunFolder(str(tmp_path)), "abcde", {key: [i / 10, 0.5] for i, key in enumerate("abcd")}
    logprobs = plain.table([plain.row(key, [[TOKEN]] * 2) for key in whole])
    if row_groups:
        folder.write("logprobs", "part-0", logprobs, row_group_size=2)
    else:
        for start in (0, 2, 4):
            folder.write("logprobs", f"part-{start}", logprobs.slice(start, 2))
    for part, names in enumerate(("bz", "da", "c")):
        rows = judged_steps(**{key: said.get(key, [9.0]) for key in names})
        folder.write("rewards/prm", f"part-{part}", rewards(rows))
    bz, da, c = folder.parts("rewards/prm")
    tables = stage._tables([STEPWISE, WHOLE])
    parts = stage._find_beside(folder, tables, stage._plan(folder))
    assert [list(part.beside.values()) for part in parts] == [[[bz, da], []], [[da, c], []], [[], []]]

    evaluate(Evaluate(intervals="none"), folder, pickled, [STEPWISE, WHOLE])
    scores = folder.dataset("scores").to_table(columns=["trajectory_id", "prm__none__sum", "wild__none__none"])
    expected = {key: (sum(said[key]) if key in said else None) for key in whole}
    assert {row["trajectory_id"]: row["prm__none__sum"] for row in scores.to_pylist()} == pytest.approx(expected)
    assert scores["wild__none__none"].null_count == len(whole)


def test_metrics_by_hand(folder):
    evaluate(Evaluate(resamples=10), folder, pickled, [WHOLE, STEPWISE])
    records = json.loads(Path(folder.path("metrics.json")).read_text())

    def value(method, metric, **where):
        (record,) = (
            r for r in records if (r["method"], r["metric"]) == (method, metric) and where.items() <= r.items()
        )
        return record["value"], record["n"]

    # Of the successes b and c against a and d: b is above both, c above a only.
    assert value("wild", "auroc", token_agg="none", step_agg="none") == (0.75, 4)
    # Lowest steps: b 0.8 and c 0.2, against a 0.3 and d 0.6: b is above both, c above none.
    assert value("prm", "auroc", step_agg="min") == (0.5, 4)
    # Of the two trials of t0 b is picked, a success; of the three of t1 d, none.
    assert value("wild", "success", at=3.0) == (0.0, 1)
    picked = [row for row in folder.dataset("selections").to_table().to_pylist() if row["method"] == "wild"]
    assert [(row["task_id"], row["trajectory_id"], row["score"]) for row in picked] == [
        ("t0", "b", 3),
        ("t1", "d", 2.5),
    ]
    # Earliest below 0.5: a message 3; b none, so the lowest, 1; c 1; d 1; e has no prediction. All labelled 3.
    assert value("prm", "step_accuracy", predictor="earliest_below") == (1 / 5, 5)
    assert value("prm", "mae", predictor="earliest_below") == (6 / 4, 4)
    assert not [r for r in records if r["method"] == "wild" and r["scenario"] == "fa"]


def test_the_tables_in_the_terminal_show_them(folder):
    evaluate(Evaluate(resamples=10), folder, pickled, [WHOLE, STEPWISE])
    console = Console(record=True, width=200, file=io.StringIO())
    show_metrics(str(folder), console)
    text = console.export_text()
    assert text.count("wild ") == 2
    assert text.count("prm ") == 3
    assert "earliest_below" in text
