"""Reading a critique: which step each verdict is of, and P(correct) from the log-probs where the verdict begins.

A verdict is `\\boxed{correct}` or `\\boxed{incorrect}`, in any case, with blanks or `\\text{}` inside. It is of step N
where it follows `Step N is`, else where the first step that its line mentions is N, else where the last line since the
verdict before it that begins with a step begins with N, else of the step after the one judged before it. A step judged
more than once keeps its last verdict: critiques correct themselves.

P(correct) is read at the token that holds the verdict's first letter. Of the most likely tokens there, those that begin
the word `correct` (`c`, `correct`, ` Correct}`) are summed, and those that begin `incorrect`; the softmax over both is
P(correct). A side that is not among them has no mass. Where neither is, the verdict itself counts, 1.0 or 0.0.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_VERDICT = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?(?P<word>correct|incorrect)\s*\}", re.IGNORECASE)
_NAMED = re.compile(r"\bstep\s*#?(\d{1,9})[\s*_:.)$]*(?:is)?[\s*_:$(]*$", re.IGNORECASE)
_STEP = re.compile(r"\bstep\s*#?(\d{1,9})\b", re.IGNORECASE)
_HEADING = re.compile(r"^\W*step\s*#?(\d{1,9})\b", re.IGNORECASE | re.MULTILINE)
WORDS = ("correct", "incorrect")


class Critique(NamedTuple):
    """What a model generated."""

    token_ids: list[int]
    top: list[Mapping[int, float]]
    """Log-probs of the most likely tokens at each position, by token."""
    finished: bool
    """Whether it ended by itself."""


class StepVerdict(NamedTuple):
    """One step."""

    score: float | None
    """P(correct); None where the step was never judged."""
    read: str | None
    """`logprob`, `verdict` or None."""


class Verdict(NamedTuple):
    """One verdict in a text."""

    step: int
    """From 1."""
    correct: bool
    at: int
    """Place of its word's first letter in the text."""


def decode(token_ids: Sequence[int], tokenizer: Any) -> tuple[str, list[int]]:
    """A text, and where each token's part of it ends. Control tokens have no part.

    Bytes of a character that several tokens share count with the last of them.
    """
    from tokenizers.decoders import DecodeStream

    stream, text, ends = DecodeStream(skip_special_tokens=True), [], []
    length = 0
    for token in token_ids:
        piece = stream.step(tokenizer.backend_tokenizer, int(token)) or ""
        text.append(piece)
        length += len(piece)
        ends.append(length)
    return "".join(text), ends


def verdicts(text: str) -> list[Verdict]:
    """All verdicts, in the order they stand in."""
    found: list[Verdict] = []
    start = step = 0
    for match in _VERDICT.finditer(text):
        before = text[start : match.start()]
        named = _NAMED.search(before) or _STEP.search(before.rpartition("\n")[2])
        headings = _HEADING.findall(before)
        step = int(named.group(1)) if named else int(headings[-1]) if headings else step + 1
        found.append(Verdict(step, match.group("word").lower() == "correct", match.start("word")))
        start = match.end()
    return found


def judge(critique: Critique, n_steps: int, tokenizer: Any) -> tuple[list[StepVerdict], str]:
    """Each step's score, and the critique as text. Verdicts of steps that do not exist count for nothing."""
    text, ends = decode(critique.token_ids, tokenizer)
    judged = [StepVerdict(None, None)] * n_steps
    for verdict in verdicts(text):
        if not 1 <= verdict.step <= n_steps:
            continue
        token = bisect_right(ends, verdict.at)
        lead = text[ends[token - 1] if token else 0 : verdict.at]
        p = p_correct(critique.top[token], lead, lambda id: tokenizer.decode([id]))
        judged[verdict.step - 1] = (
            StepVerdict(float(verdict.correct), "verdict") if p is None else StepVerdict(p, "logprob")
        )
    return judged, text


def p_correct(top: Mapping[int, float], lead: str, text_of: Callable[[int], str]) -> float | None:
    """Softmax over the tokens that begin either word; None where none does.

    Args:
      top: log-probs by token.
      lead: what the token that was chosen holds before the word, such as `{`; the others must hold it too.
    """
    sides: dict[str, list[float]] = {word: [] for word in WORDS}
    for token, logprob in top.items():
        rest = text_of(token).strip().lower()
        if not rest.startswith(lead.strip().lower()):
            continue
        rest = rest.removeprefix(lead.strip().lower()).lstrip()
        for word in WORDS:
            if _begins(rest, word):
                sides[word].append(logprob)
    highest = max((value for values in sides.values() for value in values), default=-math.inf)
    if highest == -math.inf:
        return None
    correct, incorrect = (math.fsum(math.exp(value - highest) for value in sides[word]) for word in WORDS)
    return correct / (correct + incorrect)


def _begins(text: str, word: str) -> bool:
    """Whether a text is the beginning of a word, or the word and something that is no letter."""
    if len(text) <= len(word):
        return bool(text) and word.startswith(text)
    return text.startswith(word) and not text[len(word)].isalpha()
