"""What truncation cost, counted by hand, and said where the run's figures are."""

import pyarrow as pa

from pa_dist import schema
from pa_dist.store.folder import RunFolder
from pa_dist.truncation import count_cut, in_full, in_short


def _row(key, flags, tokens, reference=None):
    steps = {"step": list(range(len(flags))), "truncated": flags, "token_ids": tokens}
    return {"trajectory_id": key, **steps, "token_ids_reference": reference}


def test_steps_that_lost_some_tokens_and_all_are_told_apart(tmp_path):
    folder = RunFolder(str(tmp_path))
    first = [
        _row("a", [True, True, False], [[], [5], [6, 7]]),  # one lost all, one some
        _row("b", [False, False], [[1], []]),  # the second had no token to lose
        _row("c", [True, True], [[1], [2]], [[], [3]]),  # the reference's tokenizer left nothing of the first
    ]
    folder.write("logprobs", "part-0", pa.Table.from_pylist(first, schema.LOGPROBS))
    folder.write("logprobs", "part-1", pa.Table.from_pylist([_row("d", [False], [[9]])], schema.LOGPROBS))
    folder.write("logprobs", "part-2", schema.LOGPROBS.empty_table())
    found = count_cut(folder, map)
    assert found == {"trajectories": 2, "steps": 4, "whole_steps": 2, "of_steps": 8}
    record = {"rows": 4, "truncated": found, "settings": {"score": {"max_length": 1200}}}
    assert in_full(record) == (
        "truncation at max_length 1,200: 4 of 8 steps, in 2 of 4 trajectories, lost tokens: "
        "2 all of them, which are not scored, 2 some"
    )
    assert in_short(record) == " (4 truncated, 2 of them wholly)"


def test_nothing_is_said_where_nothing_was_cut(tmp_path):
    none = {"trajectories": 0, "steps": 0, "whole_steps": 0, "of_steps": 3}
    assert (
        in_full({"rows": 1, "truncated": none})
        == in_full({"rows": 1})
        == in_short({"rows": 1, "truncated": none})
        == ""
    )
