"""Token ids as the text they stand for: a piece a token, or one of several tokens where they share a character."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from pa_dist.errors import fault, first_line


class Piece(NamedTuple):
    """Consecutive tokens and what they say together."""

    text: str
    n_tokens: int


class TokenText:
    """What a tokenizer's tokens say, each remembered."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode = partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # Many tokenizers leave out the space before the first token; behind another one it is there.
        self._before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._lead: str = self._decode(self._before)
        self._known: dict[int, str] = {}

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say behind others."""
        whole: str = self._decode([*self._before, *ids])
        return whole[len(self._lead) :] if whole.startswith(self._lead) else str(self._decode(list(ids)))

    def cut(self, ids: Sequence[int]) -> list[Piece]:
        """Cut a text between its tokens, where that is possible: all pieces together are always `text(ids)`.

        The bytes of a character that is spread over tokens say nothing alone, so these tokens are one piece.
        """
        whole, alone = self.text(ids), [self._one(token) for token in ids]
        if "".join(alone) == whole:
            return [Piece(text, 1) for text in alone]
        for middle in _near_middle(len(ids)):
            if self.text(ids[:middle]) + self.text(ids[middle:]) == whole:
                return self.cut(ids[:middle]) + self.cut(ids[middle:])
        return [Piece(whole, len(ids))]

    def _one(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self.text([token])
        return self._known[token]


# A character has four bytes at most, and so lies on fewer places than these.
_PLACES = 8


def _near_middle(n: int) -> list[int]:
    """Places to cut n tokens in two, those near the middle first."""
    near = range(max(1, n // 2 - _PLACES // 2), min(n, n // 2 + _PLACES // 2 + 1))
    return sorted(near, key=lambda place: abs(2 * place - n))


def policy_pieces(manifest: dict[str, Any]) -> TokenText | str:
    """The pieces of a run's policy, or why its tokenizer cannot be had.

    Args:
      manifest: the run's, with a finished stage `score`.
    """
    scored = manifest["stages"]["score"]
    pair = scored["settings"]["pair"]
    return _pieces(pair["policy"], scored.get("commits", {}).get("policy") or pair.get("policy_revision"))


@cache
def _pieces(name: str, revision: str | None) -> TokenText | str:
    from pa_dist.engine.tokens import load_tokenizer

    try:
        # A folder may come from anybody: whatever its config says, looking at it runs no code that came with a model,
        # and asks nobody for one.
        return TokenText(load_tokenizer(name, revision=revision, local_files_only=True))
    except BaseException as raised:  # whatever is wrong with it, the run can be looked at without
        return f"the policy's tokenizer could not be loaded: {first_line(fault(raised))}"
