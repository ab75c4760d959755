"""The short tables a run ends with in the terminal: the cells chosen beforehand, with their intervals.

They show token mean and step mean, which newer published runners fix in advance. The best of all cells in hindsight
would flatter; `metrics.parquet` holds every one.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow.compute as pc
from pyarrow.fs import FileType
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.reduce.choice.differences import CROSS_FITTED, HEADLINE, HINDSIGHT, METHOD
from pa_dist.reduce.metrics.groups import Group, by_name
from pa_dist.report.numbers import difference, figure, number
from pa_dist.report.tables.headline import BUILDERS, Headline, headline
from pa_dist.report.wording import early, titles
from pa_dist.score.noise_said import in_words
from pa_dist.store.folder import RunFolder
from pa_dist.terminal import console_for, visible

Row = dict[str, Any]
# Of a scenario: a terminal is no place for hundreds of tables.
MOST_GROUPS = 12


def show_metrics(
    out: str, console: Console | None = None, only: Collection[tuple[str, str | None]] | None = None
) -> None:
    """Print a run folder's headline tables: rows the methods and baselines, one table a scenario and domain.

    Args:
      only: the scenarios and domains to show; all by default.
    """
    console = console_for(console)
    folder = RunFolder(out)
    groups: dict[tuple[str, Group], list[Row]] = {}
    left_out: set[tuple[str, Group]] = set()
    for metrics in folder.batches("metrics.parquet"):
        for row in metrics.filter(headline(metrics)).to_pylist():
            where = _where(row)
            if only is not None and (row["scenario"], row["domain"]) not in only:
                continue
            if where not in groups and sum(scenario == where[0] for scenario, _ in groups) >= MOST_GROUPS:
                left_out.add(where)
                continue
            groups.setdefault(where, []).append(row)
    compared = _compared(folder, groups)
    named = titles((group for _, group in groups), visible)
    for where, rows in sorted(groups.items(), key=lambda of: (of[0][0], by_name(of[0][1])), reverse=True):
        scenario, group = where
        if scenario == "prefix":
            for line in _early(named[group], rows):
                console.print(line, soft_wrap=True)
            continue
        console.print(_printed(f"{scenario}: {named[group]}", BUILDERS[scenario](rows)))
        for line in _honest(compared, where):
            console.print(line, soft_wrap=True)
    if noise := in_words(folder.manifest["stages"].get("score", {})):
        console.print(Text(visible(noise)), soft_wrap=True)
    for scenario, n in sorted(Counter(scenario for scenario, _ in left_out).items(), reverse=True):
        console.print(Text(f"{scenario}: {n} groups more, in {out}/metrics.parquet"), soft_wrap=True)
    if groups:
        console.print(
            Text(
                f"Shown: token mean and step mean (deepconf: its own steps). All cells: {out}/metrics.parquet; "
                f"chosen on other tasks, and less each other method: {out}/comparisons.parquet"
            ),
            soft_wrap=True,
        )


def _early(name: str, rows: Sequence[Row]) -> list[Text]:
    """What progress advantage, and the policy's log-prob, say before trajectories end."""
    of = {method: [row for row in rows if row["method"] == method] for method in (METHOD, "policy_logprob")}
    return [Text(visible(f"prefix: {name}, {method}: {early(its)}")) for method, its in of.items() if its]


def _where(row: Row) -> tuple[str, Group]:
    return row["scenario"], (row["benchmark"], row["domain"], row["behavior"])


def _compared(folder: RunFolder, groups: Collection[tuple[str, Group]]) -> list[Row]:
    """The cross-fitted rows of `comparisons` of some groups, and the best in hindsight; none of a run that was
    evaluated before."""
    if folder.filesystem.get_file_info(folder.path("comparisons.parquet")).type is FileType.NotFound:
        return []
    rows: list[Row] = []
    wanted = (pc.field("choice") != HEADLINE) & (pc.field("method") == METHOD) & pc.field("value").is_valid()
    for table in folder.batches("comparisons.parquet"):
        rows += [row for row in table.filter(wanted).to_pylist() if _where(row) in groups]
    return rows


def _honest(compared: Sequence[Row], where: tuple[str, Group]) -> list[Text]:
    """What progress advantage is worth with a cell chosen on other tasks, and beside the best of the others."""
    rows = [row for row in compared if _where(row) == where]
    own = {row["choice"]: row for row in rows if row["against"] is None}
    if CROSS_FITTED not in own:
        return []
    chosen, hindsight = own[CROSS_FITTED], own[HINDSIGHT]
    said = f"{METHOD}, its cell chosen on other tasks: {chosen['metric']} {figure(chosen)}"
    lines = [f"{said}; the best cell in hindsight: {number(hindsight['value'])}"]
    if differences := [row for row in rows if row["against"] is not None]:
        least = min(differences, key=lambda row: row["value"])
        holm = f"(Holm, {least['comparisons']} comparisons)"
        p = "" if least["p_holm"] is None else f", p {number(least['p_holm'])} {holm}"
        less = difference(least["value"], least["ci_low"], least["ci_high"])
        lines.append(f"less {least['against']}, the best of the others: {less}{p}")
    return [Text(line) for line in lines]


def _printed(title: str, headline: Headline) -> Table:
    # Text: names and notes come from the files, and square brackets in them are no markup.
    title = ", ".join(filter(None, (title, headline.what)))
    head = Text(visible(title))
    table = Table(box=box.SIMPLE_HEAD, title=head, title_justify="left", caption_justify="left", show_edge=False)
    table.add_column("method", no_wrap=True)
    for name in headline.heads:
        table.add_column(name)
    for method, cells in headline.lines.items():
        table.add_row(Text(method), *map(Text, cells))
    table.caption = Text(visible(headline.below))
    return table
