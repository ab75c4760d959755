"""Chat texts as tokens where a tokenizer ties a text to where it stands, as those do that put a space before it.

What is true of a server and a model: the state is tokenised as one string, and the action's tokens are made after it.
So each state is what the tokenizer makes of the whole text up to there, and an action's tokens are those that follow
when it is tokenised together with its state. Where a token would cross from the state into the action, the state keeps
the tokens that a server gave, and the action gets those of its text alone, without a space before it. Where the next
state, as one string, does not begin with these tokens, it begins another sequence; the prefix tree runs once what both
share.
"""

from collections.abc import Callable
from re import Pattern
from typing import Any, NamedTuple

from pa_dist.render.chat import MARK
from pa_dist.render.plain import Rendered
from pa_dist.render.unrenderable import Unrenderable

# One of these meets no merge with what follows, whatever that is.
_BEFORE = ("\n", "0", "a", "-")

Plain = Callable[..., list[int]]
"""Text to tokens, all that look like a control token included, or with `split_special_tokens` none."""


class Pieces(NamedTuple):
    """Tokens of one sequence, a list for each state and each action, and which are actions."""

    ids: list[list[int]]
    actions: list[int]


def adds_prefix(tokenizer: Any) -> bool:
    """Whether a tokenizer puts something before a text: then texts apart are not the text as a whole."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        line, letter, both = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "a", "\na"))
        return bool(both != line + letter)
    text = backend.normalizer.normalize_str("a") if backend.normalizer else "a"
    split = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, None)]
    return "".join(word for word, _ in split) != "a"


class Growing:
    """Tokens of texts that begin as the one before, each as the tokenizer makes them of all of it."""

    def __init__(self, tokenizer: Any, plain: Plain, controls: Pattern[str]) -> None:
        self._plain, self._controls, self._id = plain, controls, tokenizer.convert_tokens_to_ids
        self._before: list[int] = []
        self._tail = ""
        """From the last control token on: what stands before one does not decide on what follows it."""

    def grow(self, text: str) -> list[int]:
        """All tokens, with some more text."""
        self._tail += text
        tail = self._encode(self._tail)
        ids = [*self._before, *tail]
        *_, last = [None, *self._controls.finditer(self._tail)]
        if last is not None and last.start():
            at = len(tail) - 1 - tail[::-1].index(self._id(last[0]))
            self._before += tail[:at]
            self._tail = self._tail[last.start() :]
        return ids

    def inside(self, text: str) -> list[int]:
        """Tokens of a text that goes on within another."""
        first = self._controls.search(text)
        words = text[: first.start()] if first else text
        return self._inside(words) + (self._encode(text[first.start() :]) if first else [])

    def _encode(self, text: str) -> list[int]:
        """Where a text holds what only looks like a control token, each part between control tokens by itself."""
        if MARK not in text:
            return self._plain(text)
        ids: list[int] = []
        before, at = "", 0
        for token in [*self._controls.finditer(text), None]:
            words = text[at : token.start() if token else len(text)]
            if MARK not in words:
                ids += self._plain(before + words)
            else:
                ids += self._plain(before)
                ids += self._split(words) if not before or self._starts(before) else self._inside(words)
            if token:
                before, at = token[0], token.end()
        return ids

    def _starts(self, control: str) -> bool:
        """Whether what follows a control token is tokenised like the beginning of a text."""
        return self._plain(f"{control}a")[1:] == self._plain("a")

    def _inside(self, words: str) -> list[int]:
        for before in _BEFORE:
            lead, ids = self._split(before), self._split(before + words)
            if ids[: len(lead)] == lead:
                return ids[len(lead) :]
        raise Unrenderable("its tokenizer ties every text to what stands before it")

    def _split(self, words: str) -> list[int]:
        return self._plain(words.replace(MARK, ""), split_special_tokens=True)


def sequences(text: Rendered, growing: Growing, check: Callable[[int, list[int], list[int]], None]) -> list[Pieces]:
    """The sequences of a text of states and actions.

    Args:
      check: is told of each action which piece it is, the tokens before it and its own.
    """
    found: list[Pieces] = []
    held: list[int] = []  # by the last sequence
    for i, piece in enumerate(text.texts):
        ids = growing.grow(piece)
        goes_on = ids[: len(held)] == held
        if i in text.actions:
            made = ids[len(held) :] if goes_on else growing.inside(piece)
            check(i, held, made)
            found[-1].actions.append(len(found[-1].ids))
        elif goes_on and found:
            made = ids[len(held) :]
        else:
            found.append(Pieces([], []))
            made, held = ids, []
        found[-1].ids.append(made)
        held = [*held, *made]
    return found
