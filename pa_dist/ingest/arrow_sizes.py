"""How large each row of an Arrow array is as text, known before it is made."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Bytes = NDArray[np.int64]


def sizes(array: pa.Array) -> Bytes:
    """[rows] bytes of each value; of dictionaries, as if each row held its own copy."""
    kind = array.type
    found: Bytes
    if isinstance(kind, pa.BaseExtensionType):
        found = sizes(array.storage)
    elif pa.types.is_dictionary(kind):
        each = np.append(sizes(array.dictionary), 0)
        found = each[array.indices.fill_null(len(array.dictionary)).to_numpy(zero_copy_only=False)]
    elif pa.types.is_struct(kind):
        found = total([array.field(i) for i in range(kind.num_fields)], len(array))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = np.concatenate([[0], np.cumsum(sizes(array.values))])
        found = np.diff(ends[array.offsets.to_numpy()])
    elif _is_text(kind):
        found = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        found = np.full(len(array), array.nbytes // max(len(array), 1), np.int64)
    return found


def total(arrays: Sequence[pa.Array], rows: int) -> Bytes:
    """[rows] bytes of several arrays' values together."""
    found = np.zeros(rows, np.int64)
    for array in arrays:
        found += sizes(array)
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )
