"""Keys that nobody wrote: a column of structs has every key of every row, null where a row has none of its own."""

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


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))
