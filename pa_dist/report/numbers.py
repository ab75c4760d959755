"""How numbers of the tables are written, in pages and in the terminal."""

from typing import Any


def number(value: float | None) -> str:
    """0.865; a dash where it is null."""
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """+0.865, of what may be on either side of 0."""
    return "-" if value is None else f"{value:+.3f}"


def figure(row: dict[str, Any]) -> str:
    """A row's value with its interval, where it has one: 0.865 [0.75, 0.98]."""
    if row["value"] is None or row["ci_low"] is None:
        return number(row["value"])
    return f"{number(row['value'])} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def difference(value: float | None, low: float | None, high: float | None) -> str:
    """What is small, and on either side of 0, with its interval: +0.012 [-0.011, +0.035]."""
    return signed(value) if low is None else f"{signed(value)} [{signed(low)}, {signed(high)}]"
