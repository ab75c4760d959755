"""pa_dist from Python: the examples of its documentation, and what goes wrong."""

import doctest
import json

import polars
import pytest
import ray

import pa_dist
from pa_dist import api
from pa_dist.errors import ConfigError, PaDistError, RunFolderError
from pa_dist.run import RunFolder


class WithoutRay(doctest.OutputChecker):
    """Ray's node writes to standard output when a machine is busy."""

    def check_output(self, want, got, optionflags):
        lines = [line for line in got.splitlines(keepends=True) if "(raylet)" not in line]
        return super().check_output(want, "".join(lines), optionflags)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run folder that the documented examples made."""
    place = str(tmp_path_factory.mktemp("api") / "out")
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    (examples,) = (test for test in doctest.DocTestFinder().find(api, extraglobs={"out": place}) if test.examples)
    failed, tried = doctest.DocTestRunner(WithoutRay()).run(examples)
    yield place
    ray.shutdown()
    assert (failed, tried) == (0, 7)


def test_tables_come_as_arrow_pandas_and_polars(out):
    run = pa_dist.open_run(out)
    table = run.arrow("scores")
    assert run.pandas("scores")["trajectory_id"].tolist() == table["trajectory_id"].to_pylist()
    assert isinstance(run.polars("scores"), polars.DataFrame)
    frame = run.polars("scores").sort("trajectory_id")  # a table's files have no order of their own
    assert frame["reward"].to_list() == [0, 1, 0, 1]
    assert run.metrics == json.loads(RunFolder(out).read("metrics.json"))
    assert run.arrow("comparisons").to_pylist() == json.loads(RunFolder(out).read("comparisons.json"))
    assert run.manifest["stages"]["score"]["rows"] == 4


def test_a_second_call_finds_the_work_done_and_another_is_refused(out):
    rows = [json.loads(line) for line in RunFolder(out).read(inputs(out)).splitlines()]
    before = RunFolder(out).manifest["stages"]["score"]
    pa_dist.score(iter(rows), pair="demo", output=out, score={"dtype": "float32"})
    assert RunFolder(out).manifest["stages"]["score"] == before
    with pytest.raises(RunFolderError, match="made with other settings"):
        pa_dist.score(rows[:2], pair="demo", output=out, score={"dtype": "float32"})
    with pytest.raises(RunFolderError, match=r"score\.dtype: \"float32\" -> \"bfloat16\""):
        pa_dist.score(rows, pair="demo", output=out)


def inputs(out):
    return RunFolder(out).manifest["config"]["trajectories"]["paths"][0].removeprefix(f"{out}/")


@pytest.mark.parametrize(
    ("trajectories", "others", "message"),
    [
        ([{"messages": []}, 3], {}, "trajectories: row 1 is no mapping but int"),
        ([{"messages": {1, 2}}], {}, "trajectories: row 0: Object of type set is not JSON"),
        ([{"messages": []}], {"score": {"dtyp": 1}}, "score.dtyp: unknown key; did you mean 'dtype'?"),
        ([{"messages": []}], {"pair": "dmo"}, "pair: unknown pair 'dmo'; did you mean 'demo'?"),
        ({"format": "tau3", "paths": ["x"]}, {}, "trajectories.format: Input should be"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(trajectories, others, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        pa_dist.score(trajectories, **{"pair": "demo", "output": str(tmp_path / "out"), **others})
    assert str(caught.value).startswith(message)


def test_a_folder_without_a_run_is_none(tmp_path):
    with pytest.raises(PaDistError, match="no run here"):
        pa_dist.open_run(str(tmp_path))
    folder = RunFolder(str(tmp_path / "out"))
    folder.start("ingest", {})
    with pytest.raises(RunFolderError, match="no metrics here yet"):
        pa_dist.open_run(folder.uri).arrow("metrics")
    with pytest.raises(RunFolderError, match="no scores here yet"):
        pa_dist.open_run(folder.uri).arrow("scores")
    with pytest.raises(RunFolderError, match="'scors' is no table; one of"):
        pa_dist.open_run(folder.uri).arrow("scors")
