"""`pa-dist table`: the headline figures of runs side by side, for a terminal, a paper or a spreadsheet."""

import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.errors import ConfigError
from pa_dist.reduce.choice.differences import CHOICES
from pa_dist.report.tables.markup import as_latex, as_markdown
from pa_dist.report.tables.side_by_side import SideBySide, csv, side_by_side
from pa_dist.report.wording import SCENARIOS
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import console_for, visible

# What a run's name may widen a column to, and what lies between columns.
_NAME, _GAP = 24, 3
FORMATS = ("text", "latex", "markdown", "csv")


def show_table(
    folders: Sequence[RunFolder],
    *,
    format: str = "text",
    scenario: str | None = None,
    cell: str = CHOICES[0],
    console: Console | None = None,
) -> None:
    """Print the tables in one of `FORMATS`.

    Raises:
      ConfigError: an option that is none of those there are.
      RunFolderError: nothing evaluated, or no such figures.
    """
    options = {"--format": (format, FORMATS), "--scenario": (scenario, SCENARIOS), "--cell": (cell, CHOICES)}
    for option, (given, known) in options.items():
        if given is not None and given not in known:
            raise ConfigError(f"table: unknown {option} {given!r}; one of {', '.join(known)}")
    tables = side_by_side(folders, scenario, cell)
    if format == "text":
        console = console_for(console)
        for table in tables:
            for part in _printed(table, console.width):
                console.print(part)
            for said in table.below:
                console.print(Text(visible(said)), soft_wrap=True)
            console.print()
        return
    written = {"latex": as_latex, "markdown": as_markdown}
    text = written[format](tables).encode() if format in written else csv(tables)
    sys.stdout.buffer.write(text)


def _printed(table: SideBySide, width: int) -> Iterator[Table]:
    """The table, or as many below each other as it takes for nothing to be cut."""
    lines = [(visible(method), cells) for method, cells in table.texts()]
    methods = max(len("method"), *(len(method) for method, _ in lines))
    heads = [visible("\n".join(column.above(table.several))) for column in table.columns]
    widths = [
        max(len(column.head), *(len(cells[at]) for _, cells in lines), min(_NAME, max(map(len, heads[at].split("\n")))))
        for at, column in enumerate(table.columns)
    ]
    parts: list[list[int]] = [[]]
    for at in range(len(widths)):
        if parts[-1] and methods + _GAP + sum(widths[i] + _GAP for i in (*parts[-1], at)) > width:
            parts.append([])
        parts[-1].append(at)
    for part in parts:
        # Text: names come from files, and square brackets in them are no markup.
        title = Text(visible(table.title))
        shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False)
        shown.add_column("method", no_wrap=True)
        for at in part:
            shown.add_column(Text(heads[at]), overflow="fold", width=widths[at])
        for method, cells in lines:
            shown.add_row(Text(method), *(Text(cells[at]) for at in part))
        yield shown
