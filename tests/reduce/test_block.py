import math

import plain_reduce as plain
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.errors import PaDistError
from pa_dist.reduce.block.methods import OTHER_TOKENS, cells
from pa_dist.reduce.block.tables import reduce_block

ORIENTATION = {"entropy": -1, "perplexity": -1}
NO_BLAME = ("deepconf_tail", "deepconf_bottom10", "sequence_probability", "fewest_steps", "fewest_tokens")


@settings(max_examples=60, deadline=None)
@given(plain.corpora(), st.sampled_from(["published", "paper"]), st.sampled_from([1.0, 0.25]))
def test_block_agrees_with_loops(rows, preset, beta):
    reduced = reduce_block(plain.table(rows), Evaluate(preset=preset, beta=beta))
    _check_scores(rows, reduced.scores.to_pylist(), preset, beta)
    _check_steps(rows, reduced.steps.to_pylist(), beta)
    _check_attributions(rows, reduced.attributions.to_pylist(), preset, beta)
    _check_suspects(rows, reduced.suspects.to_pylist(), preset, beta)


def _check_scores(rows, scores, preset, beta):
    assert [s["trajectory_id"] for s in scores] == [r["trajectory_id"] for r in rows]
    for row, score in zip(rows, scores, strict=True):
        assert score["n_steps"] == len(row["step"])
        for method, token_agg, step_agg in plain.cells():
            steps = plain.step_values(row, method, token_agg, preset, beta)
            _same(score[f"{method}__{token_agg}__{step_agg}"], plain.step_agg(step_agg, steps))


def _check_steps(rows, steps, beta):
    expected = [(row, i) for row in rows for i in range(len(row["step"]))]
    for (row, i), step in zip(expected, steps, strict=True):
        assert (step["trajectory_id"], step["step"]) == (row["trajectory_id"], row["step"][i])
        assert step["n_tokens"] == len(row["policy_logprob"][i])
        assert step["text_hash"] == row["text_hash"][i]
        for method in ("progress_advantage", "progress_advantage_per_token"):
            for agg in schema.TOKEN_AGGS:
                # Never the preset's 0.0 on disk.
                _same(step[f"{method}__{agg}"], plain.step_values(row, method, agg, "published", beta)[i])
        why = None if row["token_ids_reference"] is None else OTHER_TOKENS
        assert step["reason"] == (why if row["policy_logprob"][i] else "truncated")


def _check_attributions(rows, attributions, preset, beta):
    found = {(a["trajectory_id"], a["method"], a["token_agg"], a["predictor"]): a for a in attributions}
    assert len(found) == len(attributions) == 36 * 3 * sum(row["mistake_step"] is not None for row in rows)
    for row in (row for row in rows if row["mistake_step"] is not None):
        for method, token_agg in dict.fromkeys((m, t) for m, t, _ in plain.cells() if m not in NO_BLAME):
            values = plain.step_values(row, method, token_agg, preset, beta, fa=True)
            oriented = [None if v is None else ORIENTATION.get(method, 1) * v for v in values]
            for predictor, position in plain.predict(oriented).items():
                blamed = found[row["trajectory_id"], method, token_agg, predictor]
                step = None if position is None else row["step"][position]
                assert blamed["step"] == step
                assert blamed["labelled"]
                _check_place(blamed, oriented, position)
                assert blamed["fallback"] == (None if step is None else plain.fell_back(oriented)[predictor])
                assert blamed["agent"] == (None if step is None else "assistant")
                assert blamed["correct"] == (step == row["mistake_step"])
                agent = row["mistake_agent"]
                right = None if agent is None else step is not None and "assistant".startswith(agent)
                assert blamed["agent_correct"] == right


def _check_suspects(rows, suspects, preset, beta):
    """Of what has no label the headline cell alone."""
    unlabelled = [row for row in rows if row["mistake_step"] is None]
    found = {(a["trajectory_id"], a["method"], a["token_agg"], a["predictor"]): a for a in suspects}
    assert len(found) == len(suspects) == len(schema.PREDICTORS) * len(unlabelled)
    for row in unlabelled:
        values = plain.step_values(row, *schema.HEADLINE, preset, beta, fa=True)
        for predictor, position in plain.predict(values).items():
            blamed = found[row["trajectory_id"], *schema.HEADLINE, predictor]
            assert blamed["step"] == (None if position is None else row["step"][position])
            assert [blamed[name] for name in ("mistake_step", "unreachable", "correct", "label")] == [None] * 4
            assert not blamed["labelled"]
            _check_place(blamed, values, position)


def _check_place(blamed, values, position):
    assert blamed["number"] == (None if position is None else position + 1)
    _same(blamed["stands_out"], None if position is None else plain.stands_out(values, position))


def _same(found, expected):
    if expected is None:
        assert found is None
    else:
        assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-12)


@settings(max_examples=15, deadline=None)
@given(plain.corpora())
def test_chunks_and_slices_change_nothing(rows):
    settings_ = Evaluate(scenarios=["fa"])
    whole = reduce_block(plain.table(rows), settings_)
    padded = plain.table([plain.row("before", [[(-1.0,) * 5] * 3]), *rows, plain.row("after", [[], [(-2.0,) * 5]])])
    assert reduce_block(padded.slice(1, len(rows)), settings_) == whole
    chunked = pa.concat_tables([plain.table([row]) for row in rows] or [schema.LOGPROBS.empty_table()])
    assert reduce_block(chunked, settings_) == whole
    one_by_one = [reduce_block(plain.table([row]), settings_).scores for row in rows]
    assert pa.concat_tables([*one_by_one, whole.scores.slice(0, 0)]) == whole.scores.combine_chunks()


def test_by_hand():
    # Two tokens: policy -1, -3; reference -2, -2. mean: -2 - -2 = 0; min: -3 - -2 = -1; max: -1 - -2 = 1.
    # Per token: 1, -1, so min -1 and max 1 too. Second step, -4 and -1: aggregated min -4 - -2 = -2 but per token
    # (reference -2, -1): -2, 0: min -2, max 0, where aggregated max is -1 - -1 = 0.
    steps = [[(-1, -2, -5, 1, 2), (-3, -2, -7, 3, 4)], [(-4, -2, -6, 1, 2), (-1, -1, -6, 1, 2)]]
    (score,) = reduce_block(plain.table([plain.row("a", steps)]), Evaluate()).scores.to_pylist()
    assert score["progress_advantage__min__sum"] == -1 + -2
    assert score["progress_advantage__max__sum"] == 1 + 0
    assert score["progress_advantage_per_token__min__last"] == -2
    # Confidence is minus the mean top-k log-prob: 5, 7 and 6, 6; of the last step 6; lowest step by minimum 5.
    assert score["deepconf_tail__mean__last"] == 6
    assert score["deepconf_bottom10__min__bottom10"] == 5
    assert score["self_certainty__max__max"] == 4
    # exp(-mean log-prob): mean -2 and -2.5.
    assert math.isclose(score["perplexity__mean__max"], math.exp(2.5))


def test_presets_differ_in_sign_names_and_empty_steps():
    rows = plain.table([plain.row("a", [[(-1, -2, -5, 1, 2)], []])])
    (published,) = reduce_block(rows, Evaluate(preset="published")).scores.to_pylist()
    (paper,) = reduce_block(rows, Evaluate(preset="paper")).scores.to_pylist()
    assert list(published) == list(paper)
    assert (published["deepconf_tail__mean__last"], paper["deepconf_tail__mean__last"]) == (5, -5)
    assert (published["self_certainty__mean__mean"], paper["self_certainty__mean__mean"]) == (2, -5)
    # One step of 1, and one truncated away: skipped, or counted as 0.
    assert (published["progress_advantage__mean__mean"], paper["progress_advantage__mean__mean"]) == (1, 0.5)
    assert (published["progress_advantage__mean__last"], paper["progress_advantage__mean__last"]) == (1, 0)
    # Certainty methods skip it under both.
    assert paper["topk_logprob_mean__mean__mean"] == -5
    assert [cell.column for cell in cells("paper")] == ["__".join(cell) for cell in plain.cells()]


def test_reasons():
    rows = [
        plain.row(
            "a", [[], [], [(-1.0,) * 5], [(-math.inf, -1.0, -1.0, 1.0, 1.0)]], truncated=[True, False, True, False]
        )
    ]
    steps = reduce_block(plain.table(rows), Evaluate()).steps.to_pylist()
    reasons = ["truncated", "no token has a log-prob", None, "a log-prob is not finite"]
    assert [step["reason"] for step in steps] == reasons
    assert [step["progress_advantage__mean"] for step in steps] == [None, None, 0, None]


def test_a_step_without_log_probs_of_a_model_is_left_out_and_is_no_truncated_one():
    """As scoring leaves a step with a token that a model gives no probability: top-k and entropy are there."""
    for model in ("policy", "reference"):
        row = plain.row("a", [[(-1.0, -2.0, -5.0, 1.0, 2.0)], [(-4.0, -1.0, -3.0, 2.0, 2.0)] * 2], mistake_step=3)
        row[f"{model}_logprob"][1] = None
        for preset in ("published", "paper"):
            reduced = reduce_block(plain.table([row]), Evaluate(preset=preset))
            steps, (score,) = reduced.steps.to_pylist(), reduced.scores.to_pylist()
            assert [step["reason"] for step in steps] == [None, "a model gives one of its tokens no probability"]
            assert [step["n_tokens"] for step in steps] == [1, 2]
            assert [step["progress_advantage__mean"] for step in steps] == [1, None]
            assert [step["progress_advantage_per_token__sum"] for step in steps] == [1, None]
            assert (score["n_steps"], score["n_scored_steps"], score["n_tokens"]) == (2, 1, 3)
            assert (score["progress_advantage__mean__mean"], score["topk_logprob_mean__mean__mean"]) == (1, -4)
            other = "reference" if model == "policy" else "policy"
            assert score[f"{other}_logprob__sum__last"] == (-2 if model == "policy" else -8)
            why = {a["method"]: a["unreachable"] for a in reduced.attributions.to_pylist()}
            assert (why["progress_advantage"], why["topk_logprob_mean"]) == ("not scored", None)


def test_trajectories_without_steps_or_scores_keep_their_row():
    rows = [plain.row("none", []), plain.row("cut", [[], []]), plain.row("unscored", [[(-1.0,) * 5]])]
    rows[2]["reference_logprob"] = None
    for preset in ("published", "paper"):
        scores = reduce_block(plain.table(rows), Evaluate(preset=preset)).scores.to_pylist()
        counts = [(s["n_steps"], s["n_scored_steps"], s["n_tokens"]) for s in scores]
        assert counts == [(0, 0, 0), (2, 0, 0), (1, 0, 1)]
        values = [s["progress_advantage__mean__sum"] for s in scores]
        # Under `paper` a truncated step counts as 0.0; a trajectory never scored by the reference does not.
        assert values == [None, 0.0 if preset == "paper" else None, None]
        assert scores[2]["policy_logprob__mean__sum"] == -1


def test_columns_that_disagree_name_the_trajectory():
    rows = [plain.row("good", [[(-1.0,) * 5]]), plain.row("bad", [[(-1.0,) * 5], [(-1.0,) * 5] * 2])]
    rows[1]["policy_entropy"][1] = [1.0]
    with pytest.raises(PaDistError, match="bad: policy_entropy and policy_logprob differ in the tokens of action 1"):
        reduce_block(plain.table(rows), Evaluate())
    rows[1]["policy_entropy"] = rows[1]["policy_entropy"][:1]
    with pytest.raises(PaDistError, match="bad: policy_entropy has 1 steps, expected 2"):
        reduce_block(plain.table(rows), Evaluate())


def test_models_with_their_own_tokens_may_differ_in_length():
    row = plain.row("a", [[(-1, -2, -1, 1, 1)]])
    row |= {"reference_logprob": [[-2.0, -4.0]], "token_ids_reference": [[1, 2]]}
    reduced = reduce_block(plain.table([row]), Evaluate())
    (score,) = reduced.scores.to_pylist()
    assert score["progress_advantage__sum__sum"] == -1 - -6
    assert score["progress_advantage_per_token__sum__sum"] is None


def test_of_other_tokens_only_sums_of_the_same_text_compare():
    # Three steps: policy -1, -2; -1; -5. The reference in other tokens: -4; -1, -1; -1. Sums differ by 1, 1 and -4, the
    # last of which lost tokens, so that the two sums are of different text.
    steps = [[(-1.0,) * 5, (-2.0,) * 5], [(-1.0,) * 5], [(-5.0,) * 5]]
    row = plain.row("a", steps, truncated=[False, False, True], mistake_step=1)
    row |= {"reference_logprob": [[-4.0], [-1.0, -1.0], [-1.0]], "token_ids_reference": [[9], [1, 2], [3]]}
    same = plain.row("b", steps, mistake_step=1)
    for preset in ("published", "paper"):
        reduced = reduce_block(plain.table([row, same]), Evaluate(preset=preset))
        scores, _ = reduced.scores.to_pylist()
        given_ = {name: value for name, value in scores.items() if name.startswith("progress_advantage") and value}
        # mean, sum, last, max, min and the mean of the lowest of 1 and 1
        expected = {"mean": 1, "sum": 2, "last": 1, "max": 1, "min": 1, "bottom10": 1}
        assert given_ == {f"progress_advantage__sum__{agg}": value for agg, value in expected.items()}
        assert scores["policy_logprob__mean__sum"] == -1.5 - 1 - 5  # each model's own are all there
        assert scores["n_scored_steps"] == 2
        found = reduced.steps.to_pylist()[:3]
        assert [step["progress_advantage__sum"] for step in found] == [1, 1, None]
        assert {step["progress_advantage__mean"] for step in found} == {None}
        assert {step["reason"] for step in found} == {OTHER_TOKENS}
        blamed = {
            (a["token_agg"], a["predictor"]): a["step"]
            for a in reduced.attributions.to_pylist()
            if a["trajectory_id"] == "a" and a["method"] == "progress_advantage"
        }
        assert {step for (agg, _), step in blamed.items() if agg != "sum"} == {None}
        assert {step for (agg, _), step in blamed.items() if agg == "sum"} == {row["step"][0]}


def test_a_column_of_nulls_is_no_steps_fault():
    rows = [plain.row("a", [[(-1.0,) * 5] * 2, [], [(-2.0,) * 5]]), plain.row("none", [])]
    whole = reduce_block(plain.table(rows), Evaluate()).scores
    rows[0]["policy_entropy"] = None
    scores = reduce_block(plain.table(rows), Evaluate()).scores
    lacking = [name for name in scores.column_names if name.startswith("entropy")]
    assert all(scores[name].null_count == 2 for name in lacking)
    assert scores.drop(lacking) == whole.drop(lacking)
