"""`pa-dist table`: the figures are those of the runs' tables, and nothing in a name is markup."""

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import corpus, run_folder

from pa_dist import cli
from pa_dist.config import Evaluate
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.reduce.choice.differences import METHOD
from pa_dist.reduce.evaluate import evaluate
from pa_dist.report.numbers import figure
from pa_dist.report.tables.markup import as_latex, as_markdown, latex, markdown
from pa_dist.report.tables.side_by_side import Column, SideBySide, side_by_side
from pa_dist.report.terminal.table import FORMATS, show_table
from pa_dist.report.wording import MAIN
from pa_dist.store.folder import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two over some of the same trajectories, of which one has a name; too few tasks for an interval of uq."""
    place, settings = tmp_path_factory.mktemp("runs"), Evaluate(resamples=10)
    folders = [run_folder(place / name, corpus(n)) for name, n in (("small", 36), ("large", 60))]
    for folder in folders:
        folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
        folder.finish("evaluate", **asdict(evaluate(settings, folder, map)))
    folders[1].remember(config={"name": "my_run"})
    return folders


def records(folder, name, **wanted):
    rows = json.loads(Path(folder.path(f"{name}.json")).read_text())
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_each_run_has_its_columns_beside_the_others(runs):
    (table,) = side_by_side(runs, "uq")
    assert table.title == "uq: tau airline"
    assert [column.run for column in table.columns] == ["small"] * 5 + ["my_run"] * 5
    assert [column.head for column in table.columns[:5]] == ["AUROC", "Spearman", "given steps", "AUPRC", "AURC"]
    texts = dict(table.texts())
    for place, run in enumerate(runs):
        for at, metric in enumerate(("auroc", "spearman", "spearman_given_steps", "auprc", "aurc")):
            found = records(run, "metrics", scenario="uq", metric=metric, token_agg="mean", step_agg="mean")
            (row,) = (row for row in found if row["method"] == METHOD)
            assert table.lines[METHOD][5 * place + at] == row
            assert texts[METHOD][5 * place + at] == figure(row)
            assert table.columns[5 * place + at].n == row["n"] > 0
    small, large = table.below
    assert small.startswith("small: any order: AUPRC ")
    assert large.startswith("my_run: any order: AUPRC ")
    assert small.count("fewer than ten tasks") == 1


@pytest.mark.parametrize("choice", ["cross_fitted", "hindsight"])
@pytest.mark.parametrize("scenario", ["uq", "best_of_n", "fa"])
def test_cells_may_be_chosen_otherwise(runs, scenario, choice):
    (table,) = side_by_side(runs[:1], scenario, choice)
    rows = records(runs[0], "comparisons", scenario=scenario, choice=choice, metric=MAIN[scenario], against=None)
    assert {method: found for method, (found,) in table.lines.items()} == {row["method"]: row for row in rows}
    heads = {"uq": "AUROC", "best_of_n": f"best of {max(row['at'] or 0 for row in rows):g}", "fa": "step accuracy"}
    assert [column.head for column in table.columns] == [heads[scenario]]
    said = "Cross-fitted: what the choice" if choice == "cross_fitted" else "The best of each method's aggregations"
    assert any(line.startswith(said) for line in table.below)


def test_a_figure_of_fewer_rows_says_so_and_intervals_are_explained(runs):
    tables = side_by_side(runs)
    assert [table.title.partition(":")[0] for table in tables] == ["uq", "prefix", "best_of_n", "fa"]
    prefix, fa = tables[1], tables[-1]
    at, n = next(
        (at, row["n"])
        for rows in prefix.lines.values()
        for at, row in enumerate(rows)
        if row and row["value"] is not None and row["n"] < prefix.columns[at].n
    )
    assert any(cells[at].endswith(f" (n = {n})") for _, cells in prefix.texts())
    assert fa.below[0] == "In brackets: 95% intervals"
    assert any(re.fullmatch(r"0\.\d{3} \[0\.\d\d, 0\.\d\d\]", cell) for _, cells in fa.texts() for cell in cells)
    assert "random 0." in " ".join(fa.below)


def printed(runs, capsysbinary, **options):
    show_table(runs, **options)
    return capsysbinary.readouterr().out.decode()


def test_a_csv_has_a_row_for_every_figure(runs, capsysbinary):
    rows = list(csv.DictReader(io.StringIO(printed(runs, capsysbinary, format="csv", scenario="fa"))))
    assert {row["run"] for row in rows} == {"small", "my_run"}
    for run, folder in zip(("small", "my_run"), runs, strict=True):
        found = records(folder, "metrics", scenario="fa", metric="step_accuracy", token_agg="mean")
        mine = [row for row in rows if row["run"] == run]
        for name in ("method", "predictor"):
            assert [row[name] for row in mine] == [row[name] for row in found]
        for name in ("value", "ci_low", "n"):
            assert [row[name] and float(row[name]) for row in mine] == [row[name] or 0 for row in found]


def test_text_is_never_cut(runs):
    for width in (60, 120):
        console = Console(file=io.StringIO(), force_terminal=True, width=width, no_color=True)
        show_table(runs, scenario="prefix", console=console)
        text = console.file.getvalue()
        assert "…" not in text
        (table,) = side_by_side(runs, "prefix")
        parts = [line.split() for line in text.splitlines() if line.strip().startswith("progress_advantage ")]
        assert [word for part in parts for word in part[1:]] == " ".join(dict(table.texts())[METHOD]).split()
        assert len(parts) > 1


NAME = "*[a](http://x)|`<b>_$\\&@{}^~%#\n!"


@pytest.fixture
def hostile():
    row = {"value": 0.5, "ci_low": None, "n": 3}
    lines = {NAME: [row, {**row, "value": None}], "plain": [None, {**row, "n": 2}]}
    return [SideBySide(NAME, [Column(NAME, NAME, 3), Column("b", "B", 3)], lines, [NAME], several=True)]


def test_names_are_no_markdown(hostile):
    lines = as_markdown(hostile).split("\n")
    safe = "\\*\\[a\\](http\\://x)\\|\\`\\<b\\>\\_\\$\\\\\\&\\@{}^\\~%\\#\ufffd\\!"
    assert markdown(NAME) == safe
    assert (
        lines
        == [
            f"### {safe}",
            "",
            f"| method | {safe}<br>{safe}<br>n = 3 | b<br>B<br>n = 3 |",
            "| --- | ---: | ---: |",
            f"| {safe} | 0.500 | - |",
            "| plain |  | 0.500 (n = 2) |",
            "",
            safe,
            "",
        ][: len(lines)]
    )
    assert len(lines) >= 8


def test_names_are_no_latex(hostile):
    text = as_latex(hostile)
    safe = (
        "{*}{[}a{]}(http://x)\\textbar{}\\textasciigrave{}\\textless{}b\\textgreater{}\\_\\$\\textbackslash{}\\&@\\{\\}"
        "\\textasciicircum{}\\textasciitilde{}\\%\\#\ufffd!"
    )
    assert latex(NAME) == safe
    lines = text.splitlines()
    assert f"\\caption{{{safe}. {safe}.}}" in lines
    assert f" & \\multicolumn{{1}}{{c}}{{{safe}}} & \\multicolumn{{1}}{{c}}{{b}} \\\\" in lines
    assert f"method & {safe} & B \\\\" in lines
    assert " & n = 3 & n = 3 \\\\" in lines
    assert f"{safe} & 0.500 & - \\\\" in lines
    assert "plain &  & 0.500 (n = 2) \\\\" in lines


def test_names_are_no_escapes_in_a_terminal(runs, tmp_path, capsysbinary):
    runs[0].remember(config={"name": "[/x]\x1b[2J"})
    try:
        out = printed(runs, capsysbinary, scenario="uq")
    finally:
        runs[0].remember(config={})
    assert "[/x]\ufffd[2J" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("format", FORMATS)
def test_the_command(runs, format, capsysbinary, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["pa-dist", "table", *map(str, runs), "--format", format, "--scenario", "best_of_n"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    out = capsysbinary.readouterr().out.decode()
    assert "best of 2" in out or '"best_of_n"' in out


def test_what_cannot_be_shown_is_one_line(runs, tmp_path):
    for options, why in (
        ({"format": "html"}, "table: unknown --format 'html'; one of text, latex, markdown, csv"),
        ({"scenario": "tts"}, "table: unknown --scenario 'tts'; one of uq, prefix, best_of_n, fa"),
        ({"cell": "best"}, "table: unknown --cell 'best'; one of headline, cross_fitted, hindsight"),
    ):
        with pytest.raises(ConfigError) as caught:
            show_table(runs, **options)
        assert str(caught.value) == why
    with pytest.raises(RunFolderError, match="small: no cross-fitted figures of prefix here"):
        show_table(runs[:1], scenario="prefix", cell="cross_fitted")
    with pytest.raises(RunFolderError, match="nothing evaluated here yet"):
        show_table([runs[0], RunFolder(str(tmp_path / "none"))])
