"""Working on a block so that no row stops the run: what raises, or kills its process again and again, is a reject."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from pa_dist.engine.errors import EngineGone
from pa_dist.engine.protocol import TokenColumns, TokenRow
from pa_dist.errors import Panic, fault, first_line

# A block is tried whole so often, then row by row; a row alone so often, then not again.
BLOCK_TRIES = 2
ROW_TRIES = 3

Row = TypeVar("Row")
Result = TypeVar("Result")
Score = Callable[[Sequence[TokenRow]], list[TokenColumns | None]]
Outcome = TokenColumns | str
"""What became of a row: its columns, or why it has none."""


class Ledger(Protocol):
    """Remembers what was begun where those who begin cannot take the memory with them when they die."""

    def begin(self, keys: Sequence[Hashable]) -> int:
        """Note that these begin; the most often that one of them was begun before and never ended."""
        ...

    def end(self, keys: Sequence[Hashable]) -> None:
        """Note that these ended."""
        ...


class Attempts:
    """The ledger itself. It holds the rows of blocks under way, and those that were given up."""

    def __init__(self) -> None:
        self._begun: Counter[Hashable] = Counter()

    def begin(self, keys: Sequence[Hashable]) -> int:
        """As `Ledger` has it."""
        before = max((self._begun[key] for key in keys), default=0)
        self._begun.update(keys)
        return before

    def end(self, keys: Sequence[Hashable]) -> None:
        """As `Ledger` has it."""
        for key in keys:
            self._begun.pop(key, None)


def outcomes(
    score: Score, ids: Sequence[str], rows: Sequence[TokenRow], ledger: Ledger, *, proven: bool = False
) -> list[Outcome]:
    """Score a block with an engine.

    Args:
      proven: whether the engine has scored rows before.

    Raises:
      Exception: as `attempt`, and where every row of a block raises and the engine is not proven: the fault is hardly
        a row's.
    """
    found = attempt(score, ids, rows, ledger)
    blame_engine(found, proven)
    return [_finite(named(outcome, len(row.ids))) for outcome, row in zip(found, rows, strict=True)]


def blame_engine(found: Sequence[object], proven: bool) -> None:
    """Raise what a block's rows raised where all of them did, and the engine is not proven."""
    failed = [outcome for outcome in found if isinstance(outcome, Exception)]
    if len(failed) == len(found) > 1 and not proven:
        raise failed[0]


def attempt(
    work: Callable[[Sequence[Row]], Sequence[Result]], ids: Sequence[str], rows: Sequence[Row], ledger: Ledger
) -> list[Result | str | Exception]:
    """Do a block's work: whole where that works, row by row where it raised or took its process down.

    Args:
      work: gives a result a row.
      ids: of the rows, unique.

    Returns:
      Each row's result, what it raised alone, or in words that it is given up.

    Raises:
      Exception: as `work`, where the device is in a state that no later call survives.
    """
    found: list[Result | str | Exception] | None = None
    if ledger.begin(ids) < BLOCK_TRIES:
        try:
            found = [*work(rows)]
        except BaseException as raised:  # which row's fault it was shows when they are tried alone
            if device_is_gone(fault(raised)):
                raise
    if found is None:
        found = [_alone(work, row_id, row, ledger) for row_id, row in zip(ids, rows, strict=True)]
    ledger.end(ids)
    return found


def _alone(
    work: Callable[[Sequence[Row]], Sequence[Result]], row_id: str, row: Row, ledger: Ledger
) -> Result | str | Exception:
    key = [("alone", row_id)]
    if ledger.begin(key) >= ROW_TRIES:
        return f"its process died {ROW_TRIES} times of it"
    found: Result | Exception
    try:
        (found,) = work([row])
    except BaseException as raised:  # any library's; the row is rejected with what it says
        found = fault(raised)
        if device_is_gone(found):
            raise
    ledger.end(key)
    return found


def reason(why: str | Exception) -> str:
    """Why a row has no result, in one line."""
    if isinstance(why, str):
        return why
    return first_line(why) if isinstance(why, Panic) else f"{type(why).__name__}: {first_line(why)}"


def device_is_gone(error: Exception) -> bool:
    """Whether a device or engine serves this process no more."""
    import torch  # tasks that score nothing import this module, and torch takes seconds

    return isinstance(error, torch.AcceleratorError | EngineGone)


def named(outcome: Result | str | Exception | None, n_tokens: int) -> Result | str:
    """What became of a row of so many tokens, in words where it has no result."""
    if outcome is None:
        return f"its device has no memory for its {n_tokens} tokens"
    return reason(outcome) if isinstance(outcome, str | Exception) else outcome


def _finite(outcome: Outcome) -> Outcome:
    """Numbers that are not finite are none; self-certainty, which a masked vocabulary has not, is null for the row.

    A token that a head masks may be said all the same, by whoever wrote the text: its -inf costs its step alone.
    """
    if isinstance(outcome, str):
        return outcome
    known = np.where(np.isneginf(outcome.logprob), 0, outcome.logprob)
    needed = [known, *(column for column in (outcome.topk_logprob_mean, outcome.entropy) if column is not None)]
    if lost := np.count_nonzero(~np.isfinite(np.stack(needed)).all(axis=0)):
        return f"no finite number for {lost} of its {len(outcome.logprob)} tokens"
    certainty = outcome.self_certainty
    return outcome if certainty is None or np.isfinite(certainty).all() else outcome._replace(self_certainty=None)
