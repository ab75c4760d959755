"""What a model thought before its content, under the names that servers and logs keep it by.

Reasoning that is encrypted, or only summarised, is not what the model thought: it is left behind, and counted.
"""

from collections import Counter
from typing import Any

from pa_dist.ingest.left_behind import holds

# Of a message, the first that holds text is taken: DeepSeek, vLLM and SGLang write `reasoning_content`; OpenRouter and
# later vLLM `reasoning`, and the same as `reasoning_details`; Ollama `thinking`; LiteLLM Anthropic's `thinking_blocks`.
KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
# Types of the parts of a content list: inspect_ai's, Anthropic's and Mistral's.
PARTS = ("reasoning", "thinking", "redacted_thinking")
# Where a part has its text.
_TEXTS = ("thinking", "reasoning", "text")


def of(message: dict[str, Any], thought: list[str], left: Counter[str]) -> str | None:
    """The reasoning of one message, null where it has none.

    Args:
      thought: what the reasoning parts of its content hold.
      left: gets a count for each key that holds another text than the one taken, or none that can be read.
    """
    found = {}
    for key in KEYS:
        value = message.get(key)
        pieces = _texts(value, key, left)
        if pieces:
            found[key] = "\n".join(pieces)
        elif holds(value) and not isinstance(value, str | list):
            left[key] += 1
    if thought:
        found["content.reasoning"] = "\n".join(thought)
    taken = next(iter(found.values()), None)
    # Two logs of one text differ in how they join its pieces.
    left.update(key for key, written in found.items() if taken is None or _bare(written) != _bare(taken))
    return taken


def of_part(part: dict[str, Any], left: Counter[str]) -> list[str]:
    """Texts of a reasoning part of a content list."""
    return _texts([part], "content", left)


def _texts(value: Any, key: str, left: Counter[str]) -> list[str]:
    """The texts in a string, or in a list of strings and parts, that are not blank."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if not isinstance(value, list):
        return []
    found: list[str] = []
    for part in value:
        if isinstance(part, str):
            found += _texts(part, key, left)
        elif isinstance(part, dict):
            found += _of_part(part, key, left)
        elif holds(part):
            left[key] += 1
    return found


def _of_part(part: dict[str, Any], key: str, left: Counter[str]) -> list[str]:
    name = next((name for name in _TEXTS if holds(part.get(name))), None)
    pieces = [] if name is None or part.get("redacted") is True else _texts(part[name], key, left)
    read = ("type", "index", "id", "format", name if pieces else None)
    left.update(f"{key}.{other}" for other, value in part.items() if other not in read and holds(value))
    return pieces


def _bare(written: str) -> str:
    return "".join(written.split())
