"""Totals of a corpus from those of runs of its blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Figures = Mapping[str, float]
"""Of a run of blocks, by name; `rows` and `size` among them."""


@dataclass(frozen=True)
class Estimate:
    """A total."""

    value: float
    standard_error: float | None = 0.0
    """0 where everything was counted, None where the runs do not tell."""

    def times(self, factor: float) -> "Estimate":
        """The same of `factor` times as much."""
        return Estimate(self.value * factor, None if self.standard_error is None else self.standard_error * factor)


def total(runs: Sequence[Figures], name: str, by: str, whole: float) -> Estimate:
    """The ratio estimate of a total: what the runs have for each unit of another figure, times all of that.

    Its standard error is that of n runs drawn without replacement from as many as there are, by the residuals of the
    ratio; of runs that are spread evenly over a sorted table it is rather too large.

    Args:
      by: the other figure.
      whole: its total in the whole corpus, which is known.

    Source: Cochran, Sampling Techniques, 3rd edition, section 6.3.
    """
    x = np.array([run[by] for run in runs], float)
    y = np.array([run.get(name, 0.0) for run in runs], float)
    if x.sum() == 0:
        return Estimate(0.0)
    ratio = float(y.sum() / x.sum())
    left = 1 - x.sum() / whole
    if abs(left) <= 1e-9:
        return Estimate(float(y.sum()))
    if left < 0 or len(runs) == 1:  # a limit keeps fewer than were counted, and nobody knows which
        return Estimate(ratio * whole, None)
    spread = float(np.sum((y - ratio * x) ** 2) / (len(runs) - 1))
    return Estimate(ratio * whole, float(whole / x.mean() * np.sqrt(left * spread / len(runs))))
