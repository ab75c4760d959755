"""Reasoning that a log holds apart and a rendering shows nowhere: the policy generated it, and it is in no text that is
scored. How many messages that is, is counted once and said."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pa_dist import schema
from pa_dist.config import Render
from pa_dist.mapper import Mapper
from pa_dist.render.chat import ChatTemplate, role_of
from pa_dist.render.thoughts import without
from pa_dist.store.folder import RunFolder
from pa_dist.trajectory import Message

_REASONING = "messages.list.element.reasoning"


def left_out(folder: RunFolder, templates: Sequence[ChatTemplate], map_tasks: Mapper) -> dict[str, int]:
    """Of each model whose text leaves out reasoning, how many messages of `trajectories` that is of.

    Args:
      templates: of policy and reference; none for the plain rendering.
    """
    plain, with_calls = count_thoughts(folder, map_tasks)
    if not plain + with_calls:
        return {}
    if not templates:
        return dict.fromkeys(schema.MODELS, plain + with_calls)
    found = {
        model: plain * (not template.shows_reasoning(calls=False))
        + with_calls * (not template.shows_reasoning(calls=True))
        for model, template in zip(schema.MODELS, templates, strict=True)
    }
    return {model: n for model, n in found.items() if n}


def lost_in_words(render: Render, lost: Mapping[str, int]) -> str | None:
    """The same, for the user."""
    if not lost:
        return None
    n = max(lost.values())
    who = "the plain rendering shows"
    if render.style == "chat":
        own = render.template_from == "own"
        who = f"the chat template of the {' and the '.join(lost)} shows" if own else "the chat template shows"
    return f"{who} no reasoning: that of {n:,} messages is in no text that was scored"


def count_thoughts(folder: RunFolder, map_tasks: Mapper) -> tuple[int, int]:
    """Assistants' messages of `trajectories` that have reasoning apart from their content: without calls, and with."""
    counts = np.array([[0, 0], *map_tasks(partial(_count, folder), folder.shares("trajectories"))])
    plain, with_calls = counts.sum(axis=0).tolist()
    return plain, with_calls


def _count(folder: RunFolder, paths: Sequence[str]) -> list[int]:
    found = [0, 0]
    for path in paths:
        with folder.filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                reasoning = file.read_row_group(group, columns=[_REASONING])["messages"]
                lists = reasoning.combine_chunks()
                if not pc.any(pc.is_valid(pc.struct_field(pc.list_flatten(lists), "reasoning"))).as_py():
                    continue
                for row in file.read_row_group(group, columns=["messages"])["messages"]:
                    for message in row.as_py() or []:
                        found[bool(message["tool_calls"])] += _apart(message)
    return found


def _apart(message: Message) -> bool:
    reasoning = (message.get("reasoning") or "").strip()
    apart = reasoning and without(message["content"] or "", reasoning) is None
    return bool(apart) and role_of(message["role"]) == "assistant"
