"""pa_dist from Python: the examples of its documentation, and what goes wrong."""

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pandas
import polars
import pyarrow.parquet as pq
import pytest
import ray
import shared_ray

import pa_dist
from pa_dist import api
from pa_dist import inputs as from_python
from pa_dist.errors import ConfigError, PaDistError, RunFolderError
from pa_dist.store.folder import RunFolder


class WithoutRay(doctest.OutputChecker):
    """Ray's node writes to standard output when a machine is busy."""

    def check_output(self, want, got, optionflags):
        lines = [line for line in got.splitlines(keepends=True) if "(raylet)" not in line]
        return super().check_output(want, "".join(lines), optionflags)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run folder that the documented examples made."""
    place = str(tmp_path_factory.mktemp("api") / "out")
    shared_ray.join()
    (examples,) = (test for test in doctest.DocTestFinder().find(api, extraglobs={"out": place}) if test.examples)
    failed, tried = doctest.DocTestRunner(WithoutRay()).run(examples)
    assert (failed, tried) == (0, 7)
    return place


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


def test_labels_come_later(out):
    run = pa_dist.open_run(out)
    before = {name: run.arrow(name) for name in ("trajectories", "logprobs", "scores", "metrics")}
    later = pandas.DataFrame({"id": ["run-1"], "success": ["fail"]})
    scores = run.evaluate(labels=later).arrow("scores").sort_by("trajectory_id")
    assert scores["reward"].to_pylist() == [0, 0, 0, 1]
    assert run.arrow("labels")["reward"].to_pylist() == [0]
    assert run.arrow("metrics") != before["metrics"]
    run.evaluate()
    assert {name: run.arrow(name) for name in before} == before


def test_a_second_call_finds_the_work_done_and_another_is_refused(out):
    rows = [json.loads(line) for line in RunFolder(out).read(inputs(out)).splitlines()]
    before = RunFolder(out).manifest["stages"]["score"]
    pa_dist.score_trajectories(iter(rows), pair="demo", output=out, score={"dtype": "float32"})
    assert RunFolder(out).manifest["stages"]["score"] == before
    with pytest.raises(RunFolderError, match="made with other settings"):
        pa_dist.score_trajectories(rows[:2], pair="demo", output=out, score={"dtype": "float32"})
    with pytest.raises(RunFolderError, match=r"score\.dtype: \"float32\" -> \"auto\""):
        pa_dist.score_trajectories(rows, pair="demo", output=out)


def inputs(out):
    return RunFolder(out).manifest["config"]["trajectories"]["paths"][0].removeprefix(f"{out}/")


@pytest.mark.parametrize(
    ("trajectories", "others", "message"),
    [
        ([{"messages": []}, 3], {}, "trajectories: row 1 is no mapping but int"),
        ([{"messages": {1, 2}}], {}, "trajectories: row 0, messages: set is no JSON"),
        ([{"messages": []}], {"score": {"dtyp": 1}}, "score.dtyp: unknown key; did you mean 'dtype'?"),
        ([{"messages": []}], {"pair": "dmo"}, "pair: unknown pair 'dmo'; did you mean 'demo'?"),
        ({"format": "tau3", "paths": ["x"]}, {}, "trajectories.format: Input should be"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(trajectories, others, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        pa_dist.score_trajectories(trajectories, **{"pair": "demo", "output": str(tmp_path / "out"), **others})
    assert str(caught.value).startswith(message)


def test_ray_datasets_and_paths_that_are_paths(out, tmp_path):
    rows = [json.loads(line) for line in RunFolder(out).read(inputs(out)).splitlines()]
    section = from_python.section(ray.data.from_items(rows), RunFolder(str(tmp_path / "out")))
    read = pq.read_table(section["paths"][0])
    assert (section["format"], sorted(read["id"].to_pylist())) == ("parquet", [row["id"] for row in rows])
    assert pa_dist.open_run(Path(out)).manifest == RunFolder(out).manifest


SCRIPT = """
import sys, inspect, pydoc
import pa_dist
print([m for m in ("torch", "ray", "transformers", "pyarrow", "pydantic") if m in sys.modules])
print(inspect.signature(pa_dist.score_trajectories))
print([m for m in ("torch", "ray", "transformers") if m in sys.modules])
print("Ingest, score and evaluate" in pydoc.render_doc(pa_dist), "score_trajectories" in dir(pa_dist))
import pa_dist.score.tokenize
print(inspect.ismodule(pa_dist.score), hasattr(pa_dist, "scoer"))
"""


def test_the_public_names_are_what_they_seem():
    """Light until one is used; with their own signatures and documentation; the subpackage keeps its name."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        str(inspect.signature(api.score_trajectories)),
        "[]",
        "True True",
        "True False",
    ]
    assert list(inspect.signature(pa_dist.score_trajectories).parameters)[:4] == [
        "trajectories",
        "pair",
        "output",
        "fresh",
    ]


def test_type_checkers_see_the_signature(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "import pa_dist\n"
        'run = pa_dist.score_trajectories([], pair="demo", output="x", evaluate={})\n'
        "rows: list[dict[str, object]] = run.metrics\n"
        'pa_dist.score_trajectories([], pair=3, output="x")\n'
        'pa_dist.score_trajectories([], pair="demo")\n'
    )
    # Of what pa_dist imports nothing is followed: that would take a minute.
    package = Path(pa_dist.__file__).parent
    files = ["user.py", str(package / "__init__.py"), str(package / "api.py")]
    options = ["--config-file=", "--follow-imports=skip", f"--cache-dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("user.py") and " error: " in line]
    assert [line.partition(" error: ")[::2] for line in said] == [
        (
            "user.py:4:",
            'Argument "pair" to "score_trajectories" has incompatible type "int"; expected "str | Mapping[str, Any]"'
            "  [arg-type]",
        ),
        ("user.py:5:", 'Missing named argument "output" for "score_trajectories"  [call-arg]'),
    ]
    assert (package / "py.typed").exists()


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
