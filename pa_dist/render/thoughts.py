"""What a model thinks before it answers, as texts have it: between tags, of which a generation prompt may write the
first."""

import re
from typing import NamedTuple

_NAME = r"(\w*(?:think|thought|reason)\w*)"
_OPEN = re.compile(rf"<{_NAME}>|\[{_NAME}\]|<\|START_{_NAME}\|>|<\|begin_of_{_NAME}\|>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAME}>|\[/{_NAME}\]|<\|END_{_NAME}\|>|<\|end_of_{_NAME}\|>", re.IGNORECASE)
_CLOSES = ("</{}>", "[/{}]", "<|END_{}|>", "<|end_of_{}|>")


class Opening(NamedTuple):
    """A thought that a text has begun, and not ended."""

    lead: str
    """The text before it."""
    tag: str
    space: str
    """White space behind the tag."""
    close: str
    """The tag that ends it."""


def opening(text: str) -> Opening | None:
    """The thought that a text ends by opening, as some generation prompts do."""
    words = text.rstrip()
    found = _OPEN.fullmatch(words, max(words.rfind("<"), words.rfind("["), 0))
    if found is None:
        return None
    close, name = next((form, name) for form, name in zip(_CLOSES, found.groups(), strict=True) if name)
    return Opening(text[: found.start()], found[0], text[len(words) :], close.format(name))


def squeezed(text: str) -> str:
    """A text without white space, which templates strip and add."""
    return "".join(text.split())


def visible(content: str) -> str:
    """What follows the last thought that ends in a content; templates drop the rest of earlier answers."""
    end = 0
    for found in _CLOSE.finditer(content):
        end = found.end()
    return content[end:]


def split(content: str) -> tuple[str, str]:
    """The thought that a content begins with, without its tags, and what follows it."""
    rest = visible(content)
    head = content[: len(content) - len(rest)].lstrip()
    first, closes = _OPEN.match(head), [found.start() for found in _CLOSE.finditer(head)]
    thought = head[first.end() if first else 0 : closes[-1] if closes else 0]
    return ("", content) if _OPEN.search(thought) else (thought.strip(), rest.lstrip())


def without(content: str, reasoning: str) -> str | None:
    """A content without the reasoning that it begins with, between tags or before the last of them; None where it does
    not. Some logs hold the reasoning apart, and in the content again."""
    for found in _CLOSE.finditer(content):
        head = content[: found.start()].lstrip()
        first = _OPEN.match(head)
        if squeezed(head[first.end() if first else 0 :]) == squeezed(reasoning):
            return content[found.end() :].lstrip()
    return None


def gone_on(begun: Opening, content: str, shown: str, *, begins: bool) -> str:
    """What a model generates to an answer where its generation prompt begins a thought that the template leaves out.

    Args:
      content: the answer's, its thought included.
      shown: what the template makes of it where the prompt has the tag: with it, without the thought, or with only the
        tag that ends one. An answer without a thought ends the one that was begun at once, as the templates have it
        that write it themselves.
      begins: whether the state ends by the tag. After results of tools some templates write no generation prompt.
    """
    shown = shown.lstrip()
    thought = content[: len(content) - len(visible(content))]
    if shown.startswith(begun.tag):
        rest = shown[len(begun.tag) :].lstrip()
        if begins:
            return rest
        shown = rest.removeprefix(begun.close) if not thought else shown
    rest = shown.removeprefix(begun.close).lstrip() if shown.startswith(begun.close) else shown
    end = "\n" if "\n" in begun.space else ""
    if not thought:
        return f"{end}{begun.close}{end * 2}{rest}" if begins else rest
    if begins:
        thought = thought.lstrip().removeprefix(begun.tag).lstrip()
    if squeezed(rest).startswith(squeezed(thought)):
        return rest  # as it was generated
    space = visible(content)
    return thought + space[: len(space) - len(space.lstrip())] + rest


def thinking(begun: Opening, reasoning: str, content: str) -> str:
    """A content with its reasoning before it, between tags, spaced as the prompt spaces the first."""
    end = "\n" if "\n" in begun.space else ""
    return f"{begun.tag}{end}{reasoning.strip()}{end}{begun.close}{end * 2}{content}"


TAGS = Opening("", "<think>", "\n", "</think>")
"""Those of most models."""
