"""Keys that nobody wrote: a column of structs has every key of every row, null where a row has none of its own.

An Arrow type tells which these are. Where rows of such a column were written as JSON (`to_json` and `to_list` of a
Hugging Face dataset), only that all look alike can: then nulls are taken for padding as well, and counted.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def unpadded(value: Any, type: pa.DataType) -> Any:
    """A value of an Arrow column without the nulls of its structs, at any depth.

    The type tells padding from what was written: a struct's null may be either, and is taken for padding; the nulls of
    maps, of lists, and of JSON that is kept as text were written.

    Args:
      value: as Python has it, maps as dicts.
      type: the column's; of a Hugging Face dataset, a field's type in `dataset.features.arrow_schema`.
    """
    if pa.types.is_struct(type) and isinstance(value, dict):
        return {f.name: unpadded(value[f.name], f.type) for f in type if value.get(f.name) is not None}
    if pa.types.is_map(type) and isinstance(value, dict):
        return {key: unpadded(inner, type.item_type) for key, inner in value.items()}
    if _is_list(type) and isinstance(value, list):
        return [unpadded(inner, type.value_type) for inner in value]
    return value


def unpad_arguments(history: Any) -> int:
    """Leave the nulls out of the arguments of calls, in place, where messages look like rows of a column of structs.

    They do where all have the same keys, one of them null in some and not in others, and all arguments, the calls'
    of whichever tools, have the same keys too. Arguments that are text are as the model wrote them.

    Returns:
      Of how many calls.
    """
    if not _alike(history):
        return 0
    holders = list(_holders(history))
    if any(holder["arguments"].keys() != holders[0]["arguments"].keys() for holder in holders):
        return 0
    count = 0
    for holder in holders:
        kept = without_nulls(holder["arguments"])
        count += kept != holder["arguments"]
        holder["arguments"] = kept
    return count


def unpadded_tools(tools: Any) -> Any:
    """Schemas of tools without nulls where one has a parameter that is null, which no schema has: those are padding."""
    return without_nulls(tools) if isinstance(tools, list) and any(map(_has_null_parameter, tools)) else tools


def _has_null_parameter(tool: Any) -> bool:
    for key in ("function", "parameters", "properties"):
        tool = tool.get(key, tool if key == "function" else None) if isinstance(tool, dict) else None
    return isinstance(tool, dict) and None in tool.values()


def without_nulls(value: Any) -> Any:
    """A value without the nulls of its objects, at any depth; those of lists were written."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _alike(history: Any) -> bool:
    if not isinstance(history, list) or not all(isinstance(message, dict) for message in history):
        return False
    first, *others = history or [{}]
    if any(message.keys() != first.keys() for message in others):
        return False
    return any(0 < sum(message[key] is None for message in history) < len(history) for key in first)


def _holders(history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What holds the arguments of each call, where these are an object."""
    for message in history:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            holder = function if isinstance(function, dict) else call
            if isinstance(holder, dict) and isinstance(holder.get("arguments"), dict):
                yield holder


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))
