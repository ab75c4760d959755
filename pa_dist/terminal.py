"""Untrusted text in a terminal: nothing in it is markup or an escape sequence, and what cannot be seen is named."""

import re

from rich.console import Console
from rich.style import Style
from rich.text import Text

# Off a terminal rich takes 80 columns, which would cut names and figures; a log has no such edge.
LOG_WIDTH = 120
_INVISIBLE = "\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_UNSEEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_INVISIBLE}]")
# Of a colour cube that every terminal of today has; the page's blue and orange.
_MORE = ("#d0e1f2", "#94c0e4", "#5a9bd4")
_LESS = ("#fbe0c3", "#f5b97a", "#e08e3a")


def console_for(console: Console | None) -> Console:
    """The console to print on: the one given, else standard output's."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


def visible(text: str) -> str:
    """A text with control characters, marks of direction and invisible ones as their pictures or numbers."""
    return _UNSEEN.sub(lambda found: _mark(found[0]), text)


def _mark(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"


def line(text: str, most: int = 60) -> str:
    """A text on one line, its beginning if it is long."""
    squeezed = " ".join(visible(text[: 20 * most]).split())
    return squeezed if len(squeezed) <= most else f"{squeezed[: most - 1]}…"


def coloured(text: str, value: float | None, scale: float) -> Text:
    """A text on a ground that tells its advantage: blue above zero, orange below."""
    if value is None or abs(value) < scale / 6:
        return Text(visible(text))
    strength = min(2, int(3 * abs(value) / scale))
    return Text(visible(text), Style(color="#101010", bgcolor=(_LESS if value < 0 else _MORE)[strength]))


def bar(value: float, largest: float, width: int = 12) -> str:
    """A bar of eighths, as long as a value's share of the largest."""
    eighths = round(8 * width * abs(value) / largest) if largest else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
