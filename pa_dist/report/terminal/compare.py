"""The terminal's tables of `pa-dist compare`."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.reduce.choice.two_runs import AGREEMENT, Comparison, Side
from pa_dist.reduce.metrics.groups import Group, by_name
from pa_dist.report.numbers import difference, number
from pa_dist.report.wording import titles
from pa_dist.terminal import console_for, visible


def show_comparison(found: Comparison, names: Sequence[str], console: Console | None = None) -> None:
    """Print what differs, what is shared, and a table of figures for each scenario and group.

    Args:
      names: what both runs are called.
    """
    console = console_for(console)
    # Text: names come from files, and square brackets in them are no markup.
    first, second = names
    differ = [f"settings, {first} -> {second}:", *found.differences]
    for line in differ if found.differences else ["the settings of both are the same"]:
        console.print(Text(visible(line)), soft_wrap=True)
    alone = f"{found.only_first} in {first} alone, {found.only_second} in {second} alone"
    console.print(Text(visible(f"trajectories: {found.shared} in both, {alone}")), soft_wrap=True)
    groups: dict[tuple[str, Group], list[Side]] = {}
    for side in found.sides:
        groups.setdefault((side.scenario, (side.benchmark, side.domain, side.behavior)), []).append(side)
    named = titles((group for _, group in groups), visible)
    for (scenario, group), sides in sorted(groups.items(), key=lambda of: (of[0][0], by_name(of[0][1])), reverse=True):
        console.print(_table(f"{scenario}: {named[group]}", sides, names))


def _table(title: str, sides: list[Side], names: Sequence[str]) -> Table:
    head = Text(visible(title))
    table = Table(box=box.SIMPLE_HEAD, title=head, title_justify="left", caption_justify="left", show_edge=False)
    agreement = sides[0].scenario == AGREEMENT
    table.add_column("method", no_wrap=True)
    for name in ("figure", *(("value",) if agreement else (*names, " minus ".join(names), "p"))):
        table.add_column(Text(visible(name)))
    for side in sides:
        metric = side.metric if side.at is None else f"{side.metric} of {side.at:g}"
        name = " ".join(filter(None, (metric, side.predictor)))
        apart = difference(side.value, side.ci_low, side.ci_high)
        both = () if agreement else (number(side.first), number(side.second))
        p = () if agreement else (number(side.p_value),)
        table.add_row(Text(side.method), Text(name), *both, Text(apart), *p)
    notes = dict.fromkeys(side.note for side in sides if side.note)
    n = max(side.n for side in sides)
    brackets = ", [95% paired interval]" if any(side.ci_low is not None for side in sides) else ""
    compared = ", p of one comparison" if any(side.p_value is not None for side in sides) else ""
    table.caption = Text(visible("; ".join([f"n = {n}{brackets}{compared}", *notes])))
    return table
