"""CSV files that people open in spreadsheets, which take a text that begins like a formula for one."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

# As OWASP lists them, with the wide forms that some spreadsheets read alike.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a CSV file: numbers as they are, and texts that nothing will calculate."""
    out = BytesIO()
    safe = [{name: cell(value) for name, value in row.items()} for row in rows]
    pacsv.write_csv(pa.Table.from_pylist(safe), out)
    return out.getvalue()


def cell(value: Any) -> Any:
    """A value; of a text that would be a formula, the text behind a quotation mark, which keeps it one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
