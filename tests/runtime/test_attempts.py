"""A block is scored whatever its rows do: what raises, kills or gives no number is a reject, the others are not."""

import numpy as np
import pytest
import torch

from pa_dist.engine.protocol import TokenColumns, TokenRow
from pa_dist.errors import Panic
from pa_dist.runtime.attempts import BLOCK_TRIES, ROW_TRIES, Attempts, outcomes

IDS = ["a", "b", "c"]
ROWS = [TokenRow(*(np.arange(k, n, dtype=np.int32) for k in (0, 1)), np.array([n], np.int32)) for n in (3, 4, 5)]


def scored(sequences):
    return [TokenColumns(*np.full((4, len(s.positions)), -1.0, np.float32)) for s in sequences]


def with_fault(length, fault):
    """An engine that meets a fault at sequences of a length."""

    def score(sequences):
        if any(len(s.ids) == length for s in sequences):
            return fault(sequences)
        return scored(sequences)

    return score


def raising(error):
    def fault(_):
        raise error

    return fault


def test_a_row_that_raises_is_a_reject_and_the_others_are_scored():
    found = outcomes(with_fault(4, raising(ValueError("no such token"))), IDS, ROWS, Attempts())
    assert found[1] == "ValueError: no such token"
    assert [len(found[i].logprob) for i in (0, 2)] == [2, 4]


def test_a_fault_of_every_row_is_no_rows_fault():
    with pytest.raises(RuntimeError, match="no kernel"):
        outcomes(raising(RuntimeError("no kernel")), IDS, ROWS, Attempts())
    assert outcomes(raising(RuntimeError("odd")), IDS[:1], ROWS[:1], Attempts()) == ["RuntimeError: odd"]
    found = outcomes(raising(RuntimeError("odd")), IDS, ROWS, Attempts(), proven=True)
    assert found == ["RuntimeError: odd"] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_a_reject(value):
    def fault(sequences):
        columns = scored(sequences)
        columns[1].entropy[1] = value
        return columns

    found = outcomes(fault, IDS, ROWS, Attempts())
    assert found[1] == "no finite number for 1 of its 3 tokens"
    assert not isinstance(found[0], str)


def test_a_token_that_a_head_masks_costs_no_row():
    def fault(sequences, value):
        columns = scored(sequences)
        columns[1].logprob[1] = value
        return columns

    found = outcomes(lambda sequences: fault(sequences, -np.inf), IDS, ROWS, Attempts())
    assert found[1].logprob.tolist() == [-1, -np.inf, -1]
    for value in (np.nan, np.inf):
        found = outcomes(lambda sequences, value=value: fault(sequences, value), IDS, ROWS, Attempts())
        assert found[1] == "no finite number for 1 of its 3 tokens"


def test_what_memory_does_not_hold_says_so():
    def fault(sequences):
        return [None if len(s.ids) == 4 else c for s, c in zip(sequences, scored(sequences), strict=True)]

    assert outcomes(fault, IDS, ROWS, Attempts())[1] == "its device has no memory for its 4 tokens"


class Killed(SystemExit):
    """Stands for the end of the process: nothing of it catches this."""


class PanicException(BaseException):
    """As Rust code's panics reach Python: no `Exception`."""


def test_a_panic_is_of_its_row_like_any_other_fault():
    found = outcomes(with_fault(4, raising(PanicException("retry-limit\nat line 1"))), IDS, ROWS, Attempts())
    assert found[1] == "PanicException: retry-limit"
    assert [len(found[i].logprob) for i in (0, 2)] == [2, 4]
    # One that all rows meet is no row's; what ends a process is let through.
    with pytest.raises(Panic, match=r"^PanicException: no kernel$"):
        outcomes(raising(PanicException("no kernel")), IDS, ROWS, Attempts())
    for end in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(end):
            outcomes(with_fault(4, raising(end())), IDS, ROWS, Attempts())


@pytest.mark.parametrize("end", [Killed(), torch.AcceleratorError("device-side assert")])
def test_a_row_that_kills_its_actor_is_given_up_after_bounded_tries(end):
    ledger, deaths = Attempts(), 0
    while True:
        try:
            found = outcomes(with_fault(4, raising(end)), IDS, ROWS, ledger)
            break
        except (Killed, torch.AcceleratorError):
            deaths += 1
            assert deaths < 20
    assert deaths == BLOCK_TRIES + ROW_TRIES
    assert found[1] == f"its process died {ROW_TRIES} times of it"
    assert [len(found[i].logprob) for i in (0, 2)] == [2, 4]


def test_the_ledger_holds_what_is_under_way():
    ledger = Attempts()
    assert ledger.begin(["a", "b"]) == 0
    assert ledger.begin(["b"]) == 1
    ledger.end(["a", "b"])
    assert ledger.begin(["b"]) == 0
    ledger.end(["b"])
    assert not ledger._begun
