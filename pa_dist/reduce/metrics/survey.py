"""What groups there are, and which scenarios their labels allow: a plan that tasks read, and of which the driver holds
counts alone.

Groups are numbered by their names and cut into slices, so that whoever goes through them holds the rows of a slice at a
time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.reduce.metrics.groups import GROUP, LABELLED, Group, by_group, trials
from pa_dist.store.folder import REDUCING, RunFolder

SCENARIOS = ("uq", "best_of_n", "fa")
_TABLE = f"{REDUCING}/groups"
# Of a slice: figures of a cell, at most, unless one group has more.
_SLICE_FIGURES = 1000
# Of a cell: UQ's and FA's figures, and two for each n of best-of-N.
_CELL_FIGURES, _TRIAL_FIGURES = 40, 2


@dataclass(frozen=True)
class GroupFacts:
    """What a group's labels allow."""

    group: Group
    n_trajectories: int
    n_rewards: int
    most_trials: int
    n_mistakes: int
    n_repeated: int


@dataclass(frozen=True)
class Survey:
    """What the driver hears of the groups. `note` is for the user."""

    n_trajectories: int
    n_slices: int
    scenarios: tuple[str, ...]
    note: str | None


@dataclass(frozen=True)
class Slicing:
    """The slice of each group, in order, and the groups that each scenario is evaluated on."""

    slices: dict[Group, int]
    planned: dict[str, frozenset[Group]]


def group_facts(folder: RunFolder, settings: Evaluate) -> Iterator[GroupFacts]:
    """Count each group's labels."""
    table = folder.dataset("scores").to_table(columns=LABELLED)
    for group, rows in by_group(table):
        _, tried, _ = trials(rows, settings)
        n_rewards, n_mistakes = (len(rows) - rows[name].null_count for name in ("reward", "mistake_step"))
        yield GroupFacts(group, len(rows), n_rewards, tried.largest, n_mistakes, tried.repeated)


def survey(settings: Evaluate, folder: RunFolder) -> Survey:
    """Plan which groups each scenario is evaluated on: all where it is named, else those whose labels allow it."""
    found = list(group_facts(folder, settings))
    auto = "auto" in settings.scenarios
    allowed = {
        "uq": [fact.n_rewards > 0 for fact in found],
        "best_of_n": [fact.most_trials >= 2 for fact in found],
        "fa": [fact.n_mistakes > 0 for fact in found],
    }
    planned = {
        name: [True] * len(found) if name in settings.scenarios else of if auto else [False] * len(found)
        for name, of in allowed.items()
    }
    slices = _slices(found)
    names = {name: [fact.group[place] for fact in found] for place, name in enumerate(GROUP)}
    columns = [pa.field("slice", pa.int64()), *(pa.field(name, pa.bool_()) for name in SCENARIOS)]
    table = pa.table({**names, "slice": slices, **planned}, schema=pa.schema([*schema.GROUP, *columns]))
    folder.write(_TABLE, "part-00000", table)
    taken = tuple(name for name in SCENARIOS if any(planned[name]))
    n_slices = slices[-1] + 1 if slices else 0
    return Survey(sum(fact.n_trajectories for fact in found), n_slices, taken, _note(found, taken))


def _slices(found: list[GroupFacts]) -> list[int]:
    slices, at, room = [], -1, 0
    for fact in found:
        size = _CELL_FIGURES + _TRIAL_FIGURES * fact.most_trials
        if at < 0 or size > room:
            at, room = at + 1, _SLICE_FIGURES
        slices.append(at)
        room -= size
    return slices


def _note(found: list[GroupFacts], taken: tuple[str, ...]) -> str | None:
    if not found:
        return "no metrics: no trajectory was scored"
    said = [] if taken else ["no metrics: no trajectory has a reward or a mistake_step"]
    if repeated := sum(fact.n_repeated for fact in found):
        said.append(f"{repeated} rollouts repeat a task and trial and take no part in best-of-n")
    return "; ".join(said) or None


def read_plan(folder: RunFolder) -> Slicing:
    """What `survey` planned."""
    table = folder.dataset(_TABLE).to_table()
    groups: list[Group] = list(zip(*(table[name].to_pylist() for name in GROUP), strict=True))
    slices = dict(zip(groups, table["slice"].to_pylist(), strict=True))
    planned = {name: zip(groups, table[name].to_pylist(), strict=True) for name in SCENARIOS}
    return Slicing(slices, {name: frozenset(group for group, yes in of if yes) for name, of in planned.items()})
