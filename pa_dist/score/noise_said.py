"""The noise that was measured of a run, in words; without what measures it, which is slow to import."""

from collections.abc import Mapping
from typing import Any

# Why nothing is measured, where nobody has to be told.
NOT_ASKED, EXACT, EMPTY = "score.noise_rows is 0", "all is scored in float32", "nothing is scored"
# A share of the spread from which the noise is a warning.
LOUD = 0.2


def computed_in(place: Mapping[str, Any]) -> str:
    """What an actor computed in: a dtype, and of packed weights by what they are. `place`: its facts."""
    dtype, packed = str(place.get("dtype", "")), place.get("packed_by")
    return dtype if packed is None else f"{dtype} with {packed}"


def in_words(record: Mapping[str, Any]) -> str:
    """What was measured of a stage `score`, in a sentence; nothing where all is in float32, or it was not asked for.

    Args:
      record: of the manifest.
    """
    found = record.get("noise") or {}
    if found.get("share") is None:
        silent = found.get("reason") in (None, NOT_ASKED, EXACT, EMPTY)
        return "" if silent else f"noise of {record['settings']['score']['dtype']}: not measured: {found['reason']}"
    cure = "" if any(" with " in dtype for dtype in found["dtypes"]) else ", and score.dtype=float32 has none"
    loud = "" if found["share"] <= LOUD else f"; that is much{cure}"
    correlation = "" if found["correlation"] is None else f", correlation {found['correlation']:.3f}"
    return (
        f"noise of {' and '.join(found['dtypes']) or 'half precision'}: the advantage of a {found['of']} is off by "
        f"{found['share']:.1%} of its spread{correlation} (standard deviations, {found['rows']} trajectories again in "
        f"float32, {found['n']:,} {found['of']}s){loud}"
    )
