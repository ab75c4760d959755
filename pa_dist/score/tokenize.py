"""Rendered messages to token ids and action spans, one tokenizer at a time."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pa_dist.engine.protocol import Ints, TokenSequence
from pa_dist.models.growth import growth
from pa_dist.render.chat import MARK, RenderedChat, control_tokens
from pa_dist.render.plain import Rendered
from pa_dist.render.unrenderable import Unrenderable
from pa_dist.score.boundaries import Growing, Pieces, adds_prefix, sequences


class TokenizedTrajectory(NamedTuple):
    """One trajectory for one model. The scored tokens of all steps follow each other in `sequence.positions`."""

    sequence: TokenSequence
    """All of the trajectory's sequences, one after the other."""
    step_lengths: Ints
    """[steps] scored tokens of each action."""
    truncated: list[bool]
    """[steps] whether some or all of the action's tokens were cut."""
    lengths: Ints
    """[sequences] tokens of each sequence: one, but where a chat template rewrites history."""


def tokenize(rendered: Rendered, tokenizer: Any, max_length: int) -> TokenizedTrajectory:
    """Tokenise each message on its own, join, truncate on the left, and find the tokens to score.

    A BOS token comes first where the tokenizer has one, and is the first to go when the trajectory is too long. The
    first token that remains has no log-probability and is never scored.

    Source: METHOD.md, published conventions.

    Raises:
      Unrenderable: the tokenizer makes far too much of a text.
    """
    grown = growth(tokenizer)
    for text in rendered.texts:
        grown.check(text)
    pieces = tokenizer(rendered.texts, add_special_tokens=False)["input_ids"]
    for text, ids in zip(rendered.texts, pieces, strict=True):
        grown.checked(text, ids)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return _joined(bos, pieces, rendered.actions, max_length)


def tokenize_chat(rendered: RenderedChat, tokenizer: Any, max_length: int) -> TokenizedTrajectory:
    """Tokenise states and actions as a server and a model make them; truncate each sequence on the left.

    States and actions are tokenised on their own, but by a tokenizer that puts something before each text: see
    `boundaries`.

    Raises:
      Unrenderable: an action's tokens do not decode to its text.
    """
    plain, same = _plain(tokenizer), _normalizer(tokenizer)
    controls = re.compile("|".join(map(re.escape, control_tokens(tokenizer))) or "(?!)")
    plain("\na")  # what it makes of a letter goes for it as well
    prefixed = adds_prefix(tokenizer)
    parts, steps = [], iter(rendered.steps)
    for text in rendered.texts:

        def check(i: int, before: list[int], ids: list[int], text: Rendered = text) -> None:
            step, written = next(steps), same(text.texts[i].replace(MARK, ""))
            decoded = _decoded(tokenizer, before[-1:] if prefixed else [], ids)
            if same(decoded) != written and not (prefixed and same(decoded.removeprefix(" ")) == written):
                raise Unrenderable(f"message {step}: its tokens do not decode to its text")

        if prefixed:
            made = sequences(text, Growing(tokenizer, plain, controls), check)
        else:
            made = [Pieces([_encoded(piece, tokenizer, plain, controls) for piece in text.texts], text.actions)]
            for i in text.actions:
                check(i, [], made[0].ids[i])
        parts += [_joined([], pieces.ids, pieces.actions, max_length) for pieces in made]
    starts = np.cumsum([0, *(len(part.sequence.ids) for part in parts)])
    positions = [part.sequence.positions + start for part, start in zip(parts, starts, strict=False)]
    return TokenizedTrajectory(
        TokenSequence(
            np.concatenate([part.sequence.ids for part in parts]), np.concatenate(positions).astype(np.int32)
        ),
        np.concatenate([part.step_lengths for part in parts]),
        [cut for part in parts for cut in part.truncated],
        np.diff(starts).astype(np.int32),
    )


def _joined(bos: list[int], pieces: Sequence[list[int]], actions: list[int], max_length: int) -> TokenizedTrajectory:
    """Pieces as one sequence, truncated on the left, and the tokens of those that are actions."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ids = np.fromiter((token for piece in [bos, *pieces] for token in piece), dtype=np.int32)
    cut = max(0, len(ids) - max_length)

    ends = np.cumsum(lengths) + len(bos) - cut
    ends, starts = ends[actions], (ends - lengths)[actions]
    first, last = np.maximum(starts, 1), np.maximum(ends, 1)
    positions = [np.arange(a, b, dtype=np.int32) for a, b in zip(first, last, strict=True)]
    return TokenizedTrajectory(
        TokenSequence(ids[cut:], np.concatenate([np.empty(0, np.int32), *positions])),
        (last - first).astype(np.int32),
        (starts < 0).tolist(),
        np.array([len(ids) - cut], np.int32),
    )


def _plain(tokenizer: Any) -> Callable[..., list[int]]:
    """Text to tokens, of which `split_special_tokens` lets none be a control token."""
    grown = growth(tokenizer)
    controls = set(tokenizer.convert_tokens_to_ids(control_tokens(tokenizer))) - {tokenizer.unk_token_id}

    def plain(text: str, **settings: Any) -> list[int]:
        grown.check(text)
        ids = grown.checked(text, tokenizer(text, add_special_tokens=False, **settings)["input_ids"])
        if settings.get("split_special_tokens") and not controls.isdisjoint(ids):
            raise Unrenderable("its tokenizer makes a control token of what only looks like one")
        return ids

    return plain


def _encoded(text: str, tokenizer: Any, plain: Callable[..., list[int]], controls: re.Pattern[str]) -> list[int]:
    """Text to tokens, where only what the template wrote is a control token."""
    if MARK not in text:
        return plain(text)
    ids, at = [], 0
    for token in controls.finditer(text):
        ids += plain(text[at : token.start()].replace(MARK, ""), split_special_tokens=True)
        ids.append(tokenizer.convert_tokens_to_ids(token[0]))
        at = token.end()
    return ids + plain(text[at:].replace(MARK, ""), split_special_tokens=True)


def _decoded(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """What tokens say behind others."""
    lead, whole = (
        tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for some in (before, [*before, *ids])
    )
    if before and not whole.startswith(lead):
        return _decoded(tokenizer, [], ids)
    text: str = whole[len(lead) :]
    return text


def _normalizer(tokenizer: Any) -> Callable[[str], str]:
    """What a tokenizer does to a text before it splits it: no token can tell what that took away."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return (lambda text: text) if normalizer is None else normalizer.normalize_str
