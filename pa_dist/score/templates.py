"""The chat templates that a config renders with."""

from collections.abc import Sequence
from typing import Any

from pa_dist import schema
from pa_dist.config import Render, ScoreSections
from pa_dist.models.loaded import tokenizer
from pa_dist.render.chat import ChatTemplate, control_tokens


def templates_of(sections: ScoreSections) -> list[ChatTemplate]:
    """What renders the text of policy and reference; none for the plain rendering."""
    if sections.render.style != "chat":
        return []
    return chat_templates(sections.render, [tokenizer(sections.pair, model) for model in schema.MODELS])


def chat_templates(settings: Render, tokenizers: Sequence[Any]) -> list[ChatTemplate]:
    """What renders the text that each tokenizer reads.

    Args:
      tokenizers: the policy's first.

    Raises:
      Exception: a template that is not there, or that raises on a plain question and answer.
    """
    owners = tokenizers if settings.template_from == "own" else [tokenizers[0]] * len(tokenizers)
    controls, options, end = control_tokens(*tokenizers), settings.template_options, settings.end_of_turn
    return [ChatTemplate(owner, controls, options=options, end_of_turn=end) for owner in owners]
