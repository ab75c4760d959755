"""Tables side by side as Markdown and as LaTeX (with booktabs); nothing in a name from a file is markup."""

import re
from collections.abc import Sequence
from itertools import groupby

from pa_dist.report.tables.side_by_side import SideBySide
from pa_dist.report.wording import plain

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    # Behind the end of a line these would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{mark: f"\\{mark}" for mark in "{}$&#_%"},
}


def latex(text: str) -> str:
    """A text that LaTeX prints as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))


def markdown(text: str) -> str:
    """A text that Markdown shows as it is: no emphasis, cell, link, mention, HTML or formula."""
    return re.sub(r"([\\`*_\[\]<>|~#&$@!]|:(?=\S))", r"\\\1", plain(text))


def as_markdown(tables: Sequence[SideBySide]) -> str:
    """A heading, a table and what is to be said below, of each."""
    return "\n".join(line for table in tables for line in _markdown(table))


def _markdown(table: SideBySide) -> list[str]:
    heads = ["method", *("<br>".join(map(markdown, column.above(table.several))) for column in table.columns)]
    rows = [heads, ["---", *["---:"] * len(table.columns)], *([markdown(of), *cells] for of, cells in table.texts())]
    below = [line for said in table.below for line in (markdown(said), "")]
    return [f"### {markdown(table.title)}", "", *(f"| {' | '.join(row)} |" for row in rows), "", *below]


def as_latex(tables: Sequence[SideBySide]) -> str:
    """An environment `table` each, with its caption."""
    return "\n".join(line for table in tables for line in _latex(table))


def _latex(table: SideBySide) -> list[str]:
    caption = ". ".join(map(latex, [table.title, *table.below]))
    spans = [(run, len(list(of))) for run, of in groupby(table.columns, lambda column: column.run)]
    over = [f"\\multicolumn{{{n}}}{{c}}{{{latex(run)}}}" for run, n in spans]
    above = [column.above(False) for column in table.columns]
    heads = [["method", *(head for head, *_ in above)], ["", *("".join(n) for _, *n in above)]]
    rows = [*heads, *([method, *cells] for method, cells in table.texts())]
    lines = [f"{' & '.join(map(latex, row))} \\\\" for row in rows]
    return [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption}.}}",
        f"\\begin{{tabular}}{{l{'r' * len(above)}}}",
        "\\toprule",
        *([f" & {' & '.join(over)} \\\\"] if table.several else []),
        *lines[: len(heads)],
        "\\midrule",
        *lines[len(heads) :],
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
