"""With commits and without, the same corpus is scored; only with them a killed run could go on."""

from pa_dist.benchmark.checkpoint import compare
from pa_dist.run import CHECKPOINT, RunFolder


def test_only_the_commits_differ(tmp_path):
    seconds = compare(tmp_path, 16, 8, 1)
    assert all(len(each) == 1 and each[0] > 0 for each in seconds.values())
    runs = [RunFolder(str(tmp_path / f"{way}-0")) for way in seconds]
    assert [run.count("logprobs") for run in runs] == [16, 16]
    # Ids of two blocks, and of none.
    assert [len(run.parts(CHECKPOINT)) for run in runs] == [2, 0]
