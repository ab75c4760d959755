"""What groups there are, and which scenarios their labels allow: a plan that tasks read, and of which the driver holds
counts alone.

Groups are numbered by their names and cut into slices, so that whoever goes through them holds the rows of a slice at a
time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.ragged import Ints
from pa_dist.reduce.metrics.groups import GROUP, LABELLED, Group, Labels, by_group, candidates
from pa_dist.reduce.metrics.labels import keep_labels
from pa_dist.store.folder import REDUCING, RunFolder

SCENARIOS = ("uq", "prefix", "best_of_n", "fa")
# Of failure attribution, the figures of groups whose steps have labels.
STEPS = "steps"
_PLANNED = (*SCENARIOS, STEPS)
_TABLE = f"{REDUCING}/groups"
_COUNTS = ("slice", "rows")
_PLACE = "place"
# Of a slice: figures of a cell, at most, unless one group has more.
_SLICE_FIGURES = 1000
# Of a cell: UQ's and FA's figures, and two for each n of best-of-N.
_CELL_FIGURES, _TRIAL_FIGURES = 52, 2


@dataclass(frozen=True)
class GroupFacts:
    """What a group's labels allow."""

    group: Group
    n_trajectories: int
    n_rewards: int
    most_trials: int
    n_mistakes: int
    n_labelled_steps: int
    n_repeated: int


@dataclass(frozen=True)
class Survey:
    """What the driver hears of the groups. `note` is for the user."""

    n_trajectories: int
    n_labelled_steps: int
    n_slices: int
    scenarios: tuple[str, ...]
    note: str | None


@dataclass(frozen=True)
class Slicing:
    """The slice of each group, in order, the groups that each scenario is evaluated on, and where the rows of each are
    among all labels."""

    slices: dict[Group, int]
    planned: dict[str, frozenset[Group]]
    rows: dict[Group, slice]

    def of(self, scenario: str) -> Iterator[tuple[Group, slice]]:
        """The groups of a scenario, in order, and their rows."""
        return ((group, rows) for group, rows in self.rows.items() if group in self.planned[scenario])


def group_labels(folder: RunFolder) -> Iterator[tuple[Group, Ints, Labels]]:
    """Each group with the places of its rows in `scores`, and their labels."""
    table = folder.columns("scores", LABELLED)
    table = table.append_column(_PLACE, pa.array(np.arange(len(table))))
    for group, rows in by_group(table):
        yield group, rows[_PLACE].to_numpy(), Labels.of(rows)


def facts_of(group: Group, labels: Labels, settings: Evaluate) -> GroupFacts:
    """Count a group's labels."""
    _, tried = candidates(labels, settings)
    n_rewards, n_mistakes = (int((~np.isnan(of)).sum()) for of in (labels.reward, labels.any_mistake))
    n_steps = int(labels.n_labelled.sum())
    return GroupFacts(group, len(labels), n_rewards, tried.largest, n_mistakes, n_steps, tried.repeated)


def survey(settings: Evaluate, folder: RunFolder) -> Survey:
    """Plan which groups each scenario is evaluated on: all where it is named, else those whose labels allow it; and
    leave the labels in order.

    Best-of-n takes two trials of a task and no reward: without any there is still a trial to choose, and its figures
    are null.
    """
    parts = list(group_labels(folder))
    keep_labels(folder, [(place, labels) for _, place, labels in parts])
    found = [facts_of(group, labels, settings) for group, _, labels in parts]
    auto = "auto" in settings.scenarios
    allowed = {
        "uq": [fact.n_rewards > 0 for fact in found],
        "prefix": [fact.n_rewards > 0 for fact in found],
        "best_of_n": [fact.most_trials >= 2 for fact in found],
        "fa": [fact.n_mistakes > 0 for fact in found],
    }
    steps = [fact.n_labelled_steps > 0 and (auto or "fa" in settings.scenarios) for fact in found]
    planned = {
        name: [True] * len(found) if name in settings.scenarios else of if auto else [False] * len(found)
        for name, of in allowed.items()
    }
    taken = tuple(name for name in SCENARIOS if any(planned[name]) or (name == "fa" and any(steps)))
    planned[STEPS] = steps
    slices = _slices(found)
    names = {name: [fact.group[place] for fact in found] for place, name in enumerate(GROUP)}
    columns = [*(pa.field(name, pa.int64()) for name in _COUNTS), *(pa.field(name, pa.bool_()) for name in _PLANNED)]
    counts = dict(zip(_COUNTS, (slices, [fact.n_trajectories for fact in found]), strict=True))
    table = pa.table({**names, **counts, **planned}, schema=pa.schema([*schema.GROUP, *columns]))
    folder.write(_TABLE, "part-00000", table)
    n_slices = slices[-1] + 1 if slices else 0
    n_rows, n_steps = (sum(getattr(fact, name) for fact in found) for name in ("n_trajectories", "n_labelled_steps"))
    return Survey(n_rows, n_steps, n_slices, taken, _note(found, taken))


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
    bare = not any(fact.n_rewards or fact.n_mistakes for fact in found)
    said = [] if taken else ["no metrics: no trajectory has a reward, a mistake_step or step labels"]
    if bare and taken == ("best_of_n",):
        said.append("no trial has a reward: selections are filled, success is null")
    if repeated := sum(fact.n_repeated for fact in found):
        said.append(f"{repeated} rollouts repeat a task and trial and take no part in best-of-n")
    return "; ".join(said) or None


def read_plan(folder: RunFolder) -> Slicing:
    """What `survey` planned."""
    table = folder.dataset(_TABLE).to_table()
    groups: list[Group] = list(zip(*(table[name].to_pylist() for name in GROUP), strict=True))
    slices, sizes = (table[name].to_pylist() for name in _COUNTS)
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    rows = {group: slice(end - size, end) for group, size, end in zip(groups, sizes, ends, strict=True)}
    planned = {name: zip(groups, table[name].to_pylist(), strict=True) for name in _PLANNED}
    allowed = {name: frozenset(group for group, yes in of if yes) for name, of in planned.items()}
    return Slicing(dict(zip(groups, slices, strict=True)), allowed, rows)
