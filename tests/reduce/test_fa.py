import math

import numpy as np
import plain_reduce as plain
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.block.predictors import agent_matches
from pa_dist.reduce.block.tables import reduce_block
from pa_dist.reduce.metrics.fa import baseline_outcomes, blamed_outcomes, fa_estimates, metric_names
from pa_dist.reduce.metrics.intervals import Clusters

WITHIN = [1, 3, 5]


def _figures(values, clusters=None):
    numbers = np.arange(len(values)) if clusters is None else np.array(clusters)
    names, found = metric_names(WITHIN), fa_estimates(values, Clusters.of(numbers, 0))
    return {name: of.figure(*name) for name, of in zip(names, found, strict=True)}


def _rows(*cases):
    """Rows of logprobs with (message indexes, agents, mistake_step, mistake_agent)."""
    return plain.table(
        [
            plain.row(
                f"id{i}", [[(-1.0,) * 5]] * len(steps), step=steps, agent=agents, mistake_step=step, mistake_agent=agent
            )
            for i, (steps, agents, step, agent) in enumerate(cases)
        ]
    )


def test_baselines_by_hand():
    table = _rows(
        (
            [1, 3, 5, 9],
            ["Orchestrator (thought)", "WebSurfer", "Orchestrator (to WebSurfer)", "Coder"],
            3,
            "Orchestrator",
        ),
        ([2, 4], ["Coder", "Coder"], 4, "Coder"),
    )
    outcomes = baseline_outcomes(table, WITHIN, np.array([True, False]))
    random, first, last = (_figures(outcomes[name]) for name in ("random", "first_step", "last_step"))
    # Distances to 3: 2, 0, 2, 6; to 4: 2, 0. Exactly right: 1/4 and 1/2. Within 3: 3/4 and 1. Mean: 10/4 and 1.
    assert random["step_accuracy", None].value == (1 / 4 + 1 / 2) / 2
    assert random["step_accuracy_within", 3].value == (3 / 4 + 1) / 2
    assert random["mae", None].value == (10 / 4 + 1) / 2
    assert random["agent_accuracy", None].value == (2 / 4 + 1) / 2
    # Of the first trajectory alone: the label of the second was said to be on no scored step.
    assert [f["step_accuracy_reachable", None].value for f in (random, first, last)] == [1 / 4, 0, 0]
    assert (random["step_accuracy_reachable", None].n, random["step_accuracy", None].n) == (1, 2)
    assert (first["step_accuracy", None].value, first["mae", None].value) == (0, 2)
    assert (last["step_accuracy", None].value, last["mae", None].value) == (1 / 2, 3)
    assert (first["agent_accuracy", None].value, last["agent_accuracy", None].value) == (1, 1 / 2)


def test_baselines_of_a_trajectory_without_actions_and_of_none():
    rows = _rows(([], [], 3, "Coder"), ([3], ["Coder"], 3, "Coder"))
    outcomes = baseline_outcomes(rows, WITHIN, np.array([False, True]))
    for values in outcomes.values():
        found = _figures(values)
        assert (found["step_accuracy", None].value, found["step_accuracy", None].n) == (0.5, 2)
        assert (found["mae", None].value, found["mae", None].n) == (0, 1)
        assert "1 trajectories without a prediction" in found["mae", None].note
    for values in baseline_outcomes(_rows(), WITHIN, np.array([], bool)).values():
        assert all(f.value is None and f.note for f in _figures(values).values())


@settings(max_examples=40, deadline=None)
@given(plain.corpora())
def test_figures_agree_with_loops(rows):
    blamed = reduce_block(plain.table(rows), Evaluate()).attributions
    cell = [
        a
        for a in blamed.to_pylist()
        if (a["method"], a["token_agg"], a["predictor"]) == ("entropy", "mean", "sharpest_abs_drop")
    ]
    mistake = np.array([a["mistake_step"] for a in cell], float)
    found = _figures(blamed_outcomes(pa.Table.from_pylist(cell, schema.ATTRIBUTIONS), mistake, WITHIN))
    distances = [None if a["step"] is None else abs(a["step"] - a["mistake_step"]) for a in cell]
    for k, name in [(0, ("step_accuracy", None)), *((k, ("step_accuracy_within", k)) for k in WITHIN)]:
        _same(found[name], [d is not None and d <= k for d in distances])
    _same(found["mae", None], [d for d in distances if d is not None])
    _same(found["agent_accuracy", None], [a["agent_correct"] for a in cell if a["mistake_agent"] is not None])


def _same(figure, values):
    assert figure.n == len(values)
    if values:
        assert math.isclose(figure.value, sum(values) / len(values), abs_tol=1e-12)
    else:
        assert figure.value is None
        assert figure.note


def test_metric_names_follow_the_config():
    assert [at for metric, at in metric_names([2, 4]) if metric == "step_accuracy_within"] == [2.0, 4.0]


def test_intervals_are_of_questions():
    # Two trajectories of one question count as one that could be different, not as two.
    values = np.array([[1.0] * 7, [1.0] * 7, [0.0] * 7, *[[float(k % 2)] * 7 for k in range(8)]])
    figure = _figures(values, clusters=[0, 0, 1, *range(2, 10)])["step_accuracy", None]
    apart = _figures(values)["step_accuracy", None]
    assert figure.value == apart.value == 6 / 11
    assert figure.ci_low < apart.ci_low < apart.ci_high < figure.ci_high


NAMES = st.lists(st.tuples(*[st.one_of(st.none(), st.text("ab", max_size=3))] * 2), max_size=20)


@given(NAMES)
def test_agents_match_by_prefix(pairs):
    agents, labels = (pa.array([pair[side] for pair in pairs], pa.string()) for side in (0, 1))
    expected = [a is not None and b is not None and a.startswith(b) for a, b in pairs]
    assert agent_matches(agents, labels).tolist() == expected
