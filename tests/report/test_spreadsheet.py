"""Texts from trajectories are no formulas, and numbers stay numbers."""

import csv
import io

import pytest

from pa_dist.report.tables.spreadsheet import as_csv, cell


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_a_text_that_begins_like_a_formula_is_text(first):
    text = f'{first}HYPERLINK("http://example.com";"a,b")'
    rows = list(csv.DictReader(io.StringIO(as_csv([{"group": text, "value": -0.5}]).decode(), newline="")))
    assert rows == [{"group": f"'{text}", "value": "-0.5"}]


def test_what_is_no_formula_stays():
    assert [cell(value) for value in ("a=b", "", None, -1, -0.5, "orders")] == ["a=b", "", None, -1, -0.5, "orders"]
