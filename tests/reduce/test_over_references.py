"""A run with several references reads as one run each: the same columns, under names of their own."""

import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import plain_reduce as plain
import pyarrow as pa
import pytest
from rich.console import Console
from run_folders import corpus, metrics, run_folder

from pa_dist.config import Evaluate
from pa_dist.errors import RunFolderError
from pa_dist.reduce.beside import methods_beside
from pa_dist.reduce.block.methods import OF_REFERENCE, OTHER_TOKENS
from pa_dist.reduce.block.tables import reduce_block
from pa_dist.reduce.evaluate import evaluate
from pa_dist.report.numbers import signed
from pa_dist.report.terminal.top import top
from pa_dist.runtime.targets import reference_target

# As a merged one is called: a dot in a column's name is no path to what lies in it.
NAME = "ties-0.5"
OTHER = reference_target(NAME)


def by_another(rows):
    """The same trajectories by another reference, which reads some as tokens of its own."""
    rng = np.random.default_rng(1)
    found = []
    for i, row in enumerate(rows):
        row = row | {
            "reference_logprob": [[-float(n) / 8 for n in rng.integers(0, 64, len(s))] for s in row["token_ids"]]
        }
        if i % 5 == 0:  # a token more a step, and the first step was cut
            row["reference_logprob"] = [[-0.5, *step] for step in row["reference_logprob"]]
            row["token_ids_reference"] = [[1] * len(step) for step in row["reference_logprob"]]
            row["truncated"] = [cut or j == 0 for j, cut in enumerate(row["truncated"])]
        found.append(row)
    return found


def of_other(rows):
    return pa.Table.from_pylist([{name: row[name] for name in OTHER.schema.names} for row in rows], OTHER.schema)


@pytest.fixture(scope="module", params=["published", "paper"])
def runs(request, tmp_path_factory):
    """Of one reference, of the other, and of both, whose second table lies in another order."""
    place, settings = tmp_path_factory.mktemp("runs"), Evaluate(resamples=10, preset=request.param)
    rows = [
        row
        | {"step_labels": [None, 1, None, -1] * (len(row["step"]) // 2)}
        | {"messages": [{"role": "assistant", "content": "x"}] * (2 * len(row["step"]))}
        for row in corpus()
    ]
    one, two = run_folder(place / "one", rows), run_folder(place / "two", by_another(rows))
    both, theirs = run_folder(place / "both", rows, per_file=7), of_other(by_another(rows)[::-1])
    for start in range(0, len(theirs), 10):
        both.write(OTHER.table, f"part-{start:05d}", theirs.slice(start, 10))
    both.start(OTHER.stage, {})
    both.finish(OTHER.stage)
    both.start("reference begun", {})
    for run in (one, two, both):
        found = evaluate(settings, run, map, methods_beside(run.manifest["stages"], settings.preset))
        run.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
        run.finish("evaluate", **asdict(found))
    both.remember(config={"pair": {"references": {"base": "a", NAME: "b"}}})
    return one, two, both


def renamed(name):
    """What a method of the other run, or its column, is called in the run of both."""
    method, *rest = name.split("__")
    return "__".join([f"{method}@{NAME}", *rest]) if method in OF_REFERENCE else name


@pytest.mark.parametrize("name", ["steps", "scores", "prefixes"])
def test_every_column_is_that_of_a_run_of_its_own(runs, name):
    keys = [("trajectory_id", "ascending"), *([("step", "ascending")] if name == "steps" else [])]
    one, two, both = (run.dataset(name).to_table().sort_by(keys) for run in runs)
    assert both.select(one.column_names).equals(one)
    columns = {column: renamed(column) for column in two.column_names if renamed(column) != column}
    columns |= {"reason": f"reason@{NAME}"} if name == "steps" else {}
    assert both.select(columns.values()).equals(two.select(columns).rename_columns(list(columns.values())))
    assert set(both.column_names) == {*one.column_names, *columns.values()}


def of_rows(rows, dropped=()):
    """Rows as texts, in an order of their own."""
    return sorted(json.dumps({name: value for name, value in row.items() if name not in dropped}) for row in rows)


@pytest.mark.parametrize("name", ["selections", "attributions", "metrics", "comparisons"])
def test_every_row_is_that_of_a_run_of_its_own(runs, name):
    # Of more differences a family is larger, and Holm's p-values with it.
    dropped = ("p_holm", "comparisons") if name == "comparisons" else ()
    one, two, both = (
        json.loads(Path(run.path(f"{name}.json")).read_text())
        if name in ("metrics", "comparisons")
        else run.dataset(name).to_table().to_pylist()
        for run in runs
    )
    plainly = [row for row in both if "@" not in row["method"] and "@" not in (row.get("against") or "")]
    assert of_rows(plainly, dropped) == of_rows(one, dropped)
    theirs = [row | {"method": renamed(row["method"])} for row in two if row["method"] in OF_REFERENCE]
    theirs = [row for row in theirs if row.get("against") is None]
    assert theirs
    assert of_rows(row for row in both if "@" in row["method"]) == of_rows(theirs)


def test_the_first_reference_is_held_against_the_others(runs):
    against = {row["against"] for row in json.loads(Path(runs[2].path("comparisons.json")).read_text())}
    # Not against what is another aggregation of one of these.
    assert {name for name in against if name and "@" in name} == {
        f"progress_advantage@{NAME}",
        f"reference_logprob@{NAME}",
    }


def test_what_a_reference_lost_or_reads_otherwise_is_null_with_the_reason(tmp_path):
    steps = [[(-1.0, -2.0, -1.0, 1.0, 1.0)]]
    rows = [plain.row("a", steps), plain.row("b", steps)]
    theirs = by_another(rows[:1]) + rows[1:]
    block = reduce_block(
        plain.table(rows), Evaluate(), references={"dpo": of_other(theirs[1:]), "sft": of_other(theirs)}
    )
    table = block.steps.to_pydict()
    assert table["progress_advantage__mean"] == table["progress_advantage__sum"] == [1.0, 1.0]
    assert table["progress_advantage@dpo__mean"] == [None, 1.0]
    assert table["reason@dpo"] == ["the reference did not score the trajectory; rejects say why", None]
    assert table["progress_advantage@sft__mean"] == [None, 1.0]
    assert table["reason@sft"] == [OTHER_TOKENS, None]
    assert block.scores["reference_logprob@dpo__mean__mean"].to_pylist() == [None, -2.0]


def test_a_reference_that_reads_everything_otherwise_has_metrics_that_say_so(tmp_path):
    rows = corpus(9)
    folder = run_folder(tmp_path, rows)
    apart = [row | {"token_ids_reference": [[1] * len(step) for step in row["token_ids"]]} for row in rows]
    folder.write(OTHER.table, "part-0", of_other(apart))
    folder.start(OTHER.stage, {})
    folder.finish(OTHER.stage)
    found = evaluate(Evaluate(resamples=10), folder, map, methods_beside(folder.manifest["stages"], "published"))
    assert (found.apart, found.apart_of) == (0, {NAME: 9})
    notes = {row["note"] for row in metrics(folder) if row["method"] == f"progress_advantage_per_token@{NAME}"}
    assert notes == {OTHER_TOKENS}
    assert OTHER_TOKENS not in {row["note"] for row in metrics(folder) if "@" not in row["method"]}


def test_top_ranks_by_the_advantage_over_one(runs):
    def printed(reference):
        console = Console(file=io.StringIO(), width=160)
        top(runs[2], 3, console, reference=reference)
        return " ".join(console.file.getvalue().split())  # titles are broken to their table's width

    assert "by progress_advantage__mean__mean" in printed(None)
    assert printed("base") == printed(None)
    said = printed(NAME)
    assert f"by progress_advantage@{NAME}__mean__mean" in said
    assert f"by progress_advantage@{NAME}__mean:" in said
    lowest = min(filter(None, runs[1].dataset("scores").to_table()["progress_advantage__mean__mean"].to_pylist()))
    assert signed(lowest) in said
    with pytest.raises(RunFolderError, match=rf"evaluated with no reference 'dpo'; base, {re.escape(NAME)}$"):
        printed("dpo")
