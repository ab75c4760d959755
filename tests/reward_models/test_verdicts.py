"""Critiques of every shape, written out, and P(correct) by hand."""

import math

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from pa_dist.reward_models.verdicts import Critique, StepVerdict, judge, p_correct, verdicts

NEVER = StepVerdict(None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As ThinkPRM writes, one line a step.
        (
            "Step 1: Fine.\nStep 1 is \\boxed{correct}\n\nStep 2: No.\nStep 2 is \\boxed{incorrect}",
            [(1, True), (2, False)],
        ),
        ("Step 2 is \\boxed{incorrect}, while step 1 is \\boxed{correct}.", [(2, False), (1, True)]),
        # Blanks, capitals, mark-up.
        ("**Step 3** is **\\boxed{Correct}**", [(3, True)]),
        ("Step 3 is: $\\boxed{\\text{incorrect}}$", [(3, False)]),
        ("step #4 is \\boxed { INCORRECT }", [(4, False)]),
        ("Step 5: \\boxed{correct}", [(5, True)]),
        ("Step 12 is\n\\boxed{correct}", [(12, True)]),
        # Named on its line, or above it.
        ("Step 2 looks up order 7 in step 1's way: \\boxed{correct}", [(2, True)]),
        ("Step 2:\nThe order is there.\nThe step is \\boxed{correct}", [(2, True)]),
        ("### Step 1\nStep 0 is no step.\nStep 4\nHence: \\boxed{correct}", [(4, True)]),
        # Named nowhere.
        ("\\boxed{correct}\nThen \\boxed{incorrect}\nand \\boxed{correct}", [(1, True), (2, False), (3, True)]),
        ("Step 3 is \\boxed{correct}. The next is \\boxed{incorrect}.", [(3, True), (4, False)]),
        # A critique that corrects itself.
        ("Step 1 is \\boxed{correct}\nWait.\nStep 1 is \\boxed{incorrect}", [(1, True), (1, False)]),
        # No verdicts.
        ("", []),
        ("Step 1 is correct, the total is \\boxed{42}, and \\boxed{correctly} so; \\boxed{incorr", []),
    ],
)
def test_verdicts_and_their_steps(text, expected):
    assert [(verdict.step, verdict.correct) for verdict in verdicts(text)] == expected
    for verdict in verdicts(text):
        assert text[verdict.at :].lower().startswith("correct" if verdict.correct else "incorrect")


PIECES = [
    *("Step", " 1", " 2", " 3", " is", "\n", " \\", "boxed", "{", "{correct", "{in", "}", "é", "日"),
    *("correct", "incorrect", "in", "c", " Correct}", "correction", "<end>", "?"),
]


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="?"))
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", unk_token="?")


def critique(*tokens, finished=True):
    """A token is a piece, or a piece with the probabilities of pieces in its place."""
    tokens = [token if isinstance(token, tuple) else (token, {token: 1.0}) for token in tokens]
    top = [{PIECES.index(piece): math.log(p) for piece, p in others.items()} for _, others in tokens]
    return Critique([PIECES.index(piece) for piece, _ in tokens], top, finished)


def test_steps_are_read_from_the_token_after_the_brace(tokenizer):
    found, text = judge(
        critique(
            *("é", "日", "Step", " 1", " is", " \\", "boxed", "{"),
            ("correct", {"correct": 0.6, "incorrect": 0.2, "}": 0.1}),
            *("}", "\n", "Step", " 2", " is", " \\", "boxed", "{"),
            # Both tokens of `correct` count, a word that only begins like it does not: (0.1 + 0.05) / 0.6.
            ("in", {"in": 0.45, "c": 0.1, " Correct}": 0.05, "correction": 0.3}),
            *("correct", "}", "<end>"),
        ),
        3,
        tokenizer,
    )
    assert text == "é日Step 1 is \\boxed{correct}\nStep 2 is \\boxed{incorrect}"
    assert [step.read for step in found] == ["logprob", "logprob", None]
    assert math.isclose(found[0].score, 0.6 / 0.8)
    assert math.isclose(found[1].score, 0.15 / 0.6)
    assert found[2] == NEVER


def test_a_brace_and_a_word_may_be_one_token(tokenizer):
    found, _ = judge(
        critique(
            *("Step", " 1", " is", " \\", "boxed"), ("{correct", {"{correct": 0.7, "{in": 0.1, "incorrect": 0.2}), "}"
        ),
        1,
        tokenizer,
    )
    assert math.isclose(found[0].score, 0.7 / 0.8)


def test_where_no_likely_token_is_a_verdict_the_verdict_counts(tokenizer):
    box = (" is", " \\", "boxed", "{")
    found, _ = judge(
        critique(
            *("Step", " 1", *box, ("correct", {"é": 0.9}), "}", "Step", " 2", *box, ("incorrect", {"}": 0.9}), "}"),
        ),
        2,
        tokenizer,
    )
    assert found == [StepVerdict(1.0, "verdict"), StepVerdict(0.0, "verdict")]


def test_the_last_verdict_of_a_step_wins_and_steps_that_do_not_exist_have_none(tokenizer):
    box = (" is", " \\", "boxed", "{")
    found, _ = judge(
        critique(
            *("Step", " 1", *box, "correct", "}", "Step", " 3", *box, "correct", "}"),
            *("Step", " 1", *box, ("incorrect", {"incorrect": 0.75, "correct": 0.25}), "}"),
        ),
        2,
        tokenizer,
    )
    assert math.isclose(found[0].score, 0.25)
    assert found[1] == NEVER


def test_a_side_without_a_likely_token_has_no_mass():
    assert p_correct({0: -0.1}, "", lambda token: "correct") == 1.0
    assert p_correct({0: -0.1}, "", lambda token: " in") == 0.0
    assert p_correct({0: -0.1}, "", lambda token: "  ") is None
    assert p_correct({}, "", str) is None
