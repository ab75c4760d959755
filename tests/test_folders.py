"""A run folder's own address decides nothing about what is in it: names such as `domain=all` are names."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import shared_ray

import pa_dist
from pa_dist import config, schema, stages
from pa_dist.store.folder import CHECKPOINT, RunFolder

pytestmark = pytest.mark.integration

# Each of them a column of some table, with a value that its type has not, and what a URI would end with.
STRANGE = "domain=all/reward=1/task_id=4/trial=0/benchmark=b/trajectory_id=7/messages=x/mistake_step=none/a&b=c d#%20"
TABLES = ("trajectories", "logprobs", "steps", "scores", "selections", "attributions", "metrics")


@pytest.fixture(scope="module")
def run(pair, chat_file):
    def run(out, corpus=chat_file):
        loaded = config.parse(
            {
                "trajectories": {"format": "chat", "paths": [str(corpus)]},
                "pair": pair,
                "score": {"dtype": "float32", "device": "cpu", "rows_per_block": 4},
                "evaluate": {"intervals": "none"},
                "output": str(out),
            }
        )
        stages.run(loaded, print)
        return RunFolder(loaded.output)

    shared_ray.join()
    return run


def rows(folder, table):
    """All of a table, in one order and without the last digits of floats, which depend on how rows met in a batch."""
    found = pa_dist.open_run(folder.uri).arrow(table).to_pylist()
    return sorted(
        json.dumps(row, default=str, sort_keys=True)
        for row in ({name: rounded(value) for name, value in row.items()} for row in found)
    )


def rounded(value):
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) + 0.0 if isinstance(value, float) else value


@pytest.fixture(scope="module")
def both(run, chat_file, tmp_path_factory):
    """A run in a folder of a plain name, one in another, and the latter's corpus."""
    place = tmp_path_factory.mktemp("both")
    corpus = place / "task_id=17" / "messages=x" / chat_file.name
    corpus.parent.mkdir(parents=True)
    shutil.copy(chat_file, corpus)
    return run(place / "plain"), run(place / STRANGE, corpus), corpus


def test_a_folder_of_any_name_holds_what_a_plain_one_does(both):
    plain, strange, _ = both
    assert (Path(strange.uri) / "logprobs").is_dir()
    for table in TABLES:
        assert rows(strange, table) == rows(plain, table), table


def test_a_run_goes_on_in_a_folder_of_any_name(run, both):
    """Ray reads which rows are done from files below such names as well."""
    plain, strange, corpus = both
    manifest, first = strange.manifest, strange.parts("logprobs")[0]
    done = strange.read_table(first, ["trajectory_id"])
    for path in strange.parts("logprobs")[1:]:
        strange.filesystem.delete_file(path)
    strange.write(CHECKPOINT, Path(first).stem.rpartition("-")[0], done)
    manifest["stages"]["score"]["done"] = False
    strange.write_json("manifest.json", manifest)
    strange = run(strange.uri, corpus)
    assert 0 < len(done) == strange.manifest["stages"]["score"]["done_before"] < 12
    for table in TABLES:
        assert rows(strange, table) == rows(plain, table), table


def test_ray_sees_nothing_above_the_folder(tmp_path):
    folder = RunFolder(str(tmp_path / STRANGE))
    folder.write("trajectories", "part-00000", schema.TRAJECTORIES.empty_table())
    (path,) = folder.parts("trajectories")
    assert folder.inside(path) == "trajectories/part-00000.parquet"
    assert folder.rooted.get_file_info(folder.inside(path)).is_file


def test_every_reader_of_parquet_is_told_that_folders_are_no_columns():
    """Of the package and the jobs: what reads a path reads it with `partitioning=None`."""
    root, found, unpinned = Path(pa_dist.__file__).parent, 0, []
    for file in sorted([*root.rglob("*.py"), *(root.parent / "jobs").glob("*.py")]):
        for call in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            name, of = call.func.attr, ast.unparse(call.func.value)
            arrow = name in ("read_table", "dataset", "ParquetDataset") and of in (
                "pq",
                "pads",
                "ds",
                "pyarrow.parquet",
            )
            if arrow or name in ("read_parquet", "scan_parquet", "parquet_dataset"):
                pinned = [each for each in call.keywords if each.arg == "partitioning"]
                found += 1
                if not (pinned and ast.unparse(pinned[0].value) == "None"):
                    unpinned.append(f"{file.name}:{call.lineno}")
    assert (found > 0, unpinned) == (True, [])
