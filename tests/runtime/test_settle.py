"""Whatever workers left behind: every trajectory once, in `logprobs` or in `rejects`."""

import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from pa_dist import schema
from pa_dist.runtime.actors import write_rejects
from pa_dist.runtime.settle import Settled, mend, n_left, settle, settle_again
from pa_dist.store.folder import CHECKPOINT, RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write("trajectories", "part-00000", rows(schema.TRAJECTORIES, "abcdef"))
    return folder


def rows(of, ids, **values):
    return pa.Table.from_pylist([{"trajectory_id": i, "place": i, **values} for i in ids], of)


def wrote(folder, stem, ids, committed=True):
    """What Ray's checkpoint leaves of a block."""
    folder.write("logprobs", f"{stem}-0", rows(schema.LOGPROBS, ids))
    mark = folder.path(CHECKPOINT, f"{stem}{'' if committed else '.pending'}.parquet")
    table = rows(schema.LOGPROBS, ids).select(["trajectory_id"])
    folder.write(CHECKPOINT, mark.rpartition("/")[2].removesuffix(".parquet"), table)


def rejected(folder, ids, reason="why"):
    write_rejects(folder, rows(schema.REJECTS, ids, stage="score", reason=reason))


def found(folder):
    """The ids of `logprobs` and of `rejects`."""
    names = [name for name in ("logprobs", "rejects") if folder.parts(name)]
    return [sorted(folder.dataset(n).to_table(columns=["trajectory_id"])["trajectory_id"].to_pylist()) for n in names]


def test_an_undisturbed_run_is_left_alone(folder):
    wrote(folder, "x_000000", "abc")
    wrote(folder, "x_000001", "de")
    rejected(folder, "f")
    before = {path: folder.filesystem.get_file_info(path).mtime_ns for path in folder.parts("logprobs")}
    assert n_left(folder) == 0
    assert settle(folder) == settle(folder) == Settled(5, 1)
    assert before == {path: folder.filesystem.get_file_info(path).mtime_ns for path in folder.parts("logprobs")}
    assert found(folder) == [list("abcde"), ["f"]]


def test_files_never_committed_are_dropped(folder):
    wrote(folder, "x_000000", "abc")
    wrote(folder, "y_000000", "cd", committed=False)
    folder.write("logprobs", "z_000000-0", rows(schema.LOGPROBS, "ab"))
    assert n_left(folder) == 3
    wrote(folder, "v_000000", "def")
    assert settle(folder) == Settled(6, 0)


def test_rows_of_two_committed_files_are_kept_once(folder):
    wrote(folder, "x_000000", "abcd")
    wrote(folder, "y_000000", "cde")
    wrote(folder, "y_000001", "f")
    wrote(folder, "z_000000", "dcba")
    assert n_left(folder) == 0
    assert settle(folder) == Settled(6, 0)
    assert found(folder)[0] == list("abcdef")


def test_a_row_rejected_twice_is_one_and_a_row_scored_after_all_is_none(folder):
    wrote(folder, "x_000000", "abcd")
    rejected(folder, "ef")
    rejected(folder, "fa", "another")
    folder.write("rejects", "ingest-00000", rows(schema.REJECTS, [None], stage="ingest", reason="not JSON"))
    assert settle(folder) == settle(folder) == Settled(4, 2)
    assert folder.count("rejects") == 3


def test_lost_rows_are_counted(folder):
    wrote(folder, "x_000000", "abc")
    rejected(folder, "d")
    assert settle(folder) == Settled(3, 1, lost=2)


def test_ids_committed_without_their_rows_are_scored_again(folder):
    wrote(folder, "x_000000", "abc")
    wrote(folder, "x_000001", "def")
    folder.clear("logprobs", "x_000001")
    assert n_left(folder) == 0
    assert settle(folder) == Settled(3, 0, lost=3)
    assert n_left(folder) == 3


def test_before_it_goes_on_a_run_is_rid_of_what_was_half_done(folder):
    wrote(folder, "x_000000", "abc")
    wrote(folder, "x_000001", "de", committed=False)
    for name in ("x_000000.pending.parquet", ".score-1.parquet.0f"):
        folder.filesystem.copy_file(folder.path(CHECKPOINT, "x_000000.parquet"), folder.path(CHECKPOINT, name))
    mend(folder)
    left = [f.base_name for f in folder.filesystem.get_file_info(pafs.FileSelector(folder.path(CHECKPOINT)))]
    assert sorted(left) == ["x_000000.parquet", "x_000001.pending.parquet"]


def test_rows_written_after_the_checkpoint_is_gone_are_dropped(folder):
    wrote(folder, "x_000000", "abcd")
    rejected(folder, "ef")
    assert settle(folder) == Settled(4, 2)
    folder.clear(CHECKPOINT)
    folder.write("logprobs", "z_000000-0", rows(schema.LOGPROBS, "cdf"))
    rejected(folder, "a")
    assert settle_again(folder) == Settled(5, 1)
    assert found(folder) == [list("abcdf"), ["e"]]


def test_where_nothing_could_be_scored_the_table_is_empty(folder):
    rejected(folder, "abcdef")
    assert settle(folder) == Settled(0, 6)
    assert folder.count("logprobs") == 0
    assert len(folder.parts("logprobs")) == 1
