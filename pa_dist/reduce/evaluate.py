"""The driver of a reduction: `logprobs` in; `steps`, `scores`, `prefixes`, `selections`, `attributions`, `metrics` and
`comparisons` out.

The driver plans tasks and adds up counts; rows of the tables live only in tasks, a bounded number at a time. Tasks
leave figures in files, from which the last ones write `metrics` and `comparisons`: nothing holds those of all groups.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.mapper import Mapper
from pa_dist.reduce.block.methods import Cell, Lacking, Method, More, RewardMethod, all_methods, cells, missing
from pa_dist.reduce.block.rewards import Judged, read_judged
from pa_dist.reduce.block.tables import COLUMNS, REFERENCE_COLUMNS, reduce_block
from pa_dist.reduce.choice.differences import METHOD, Reading
from pa_dist.reduce.labels import TABLE as LABELS
from pa_dist.reduce.labels import LaterLabels
from pa_dist.reduce.metrics import blame, labelled_steps, measure, prefix
from pa_dist.reduce.metrics.answers import keep_answers
from pa_dist.reduce.metrics.gather import compare_slices, gather, names_in_order
from pa_dist.reduce.metrics.slices import COMPARISONS, METRICS, MetricRow, write_rows
from pa_dist.reduce.metrics.survey import Slicing, Survey, read_plan, survey
from pa_dist.schema import against
from pa_dist.store.folder import REDUCING, REFERENCES, REWARDS, RunFolder
from pa_dist.store.index import locate

OUTPUTS = ("steps", "scores", "prefixes", "selections", "attributions")

# Compressed bytes of `logprobs` that one task reads, and bytes and rows that it holds at a time: of each row, fault
# attribution makes some hundreds.
_TASK_BYTES = 256 << 20
_BLOCK_BYTES = 64 << 20
_BLOCK_ROWS = 4096
# What a task that measures takes: of each trajectory a number for each column, some labels, and what is made of one
# column at a time; of failure attribution what is made of each baseline or predictor.
_BASE_BYTES = 640 << 20
_ROW_BYTES, _ROWS_BESIDE, _ROWS_OF_BLAME = 8, 30, 60
# And of each labelled step.
_STEP_BYTES = 40
# Slices of groups that one task compares.
_TASK_SLICES = 8


@dataclass(frozen=True)
class Summary:
    """What a reduction did. `note` says why there are no metrics, and what took no part in them."""

    trajectories: int
    steps: int
    scored_steps: int
    scenarios: tuple[str, ...]
    metrics: int
    note: str | None
    apart: int = 0
    """Trajectories that the models read as different tokens: most of their advantages are null."""
    apart_of: dict[str, int] = field(default_factory=dict)
    """The same of each further reference."""


@dataclass(frozen=True)
class _Part:
    """What one task reduces: files of `logprobs` with some of their row groups (null: all)."""

    name: str
    files: tuple[tuple[str, tuple[int, ...] | None], ...]
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of `labels` and each table of `rewards` and `references` the files that hold what it says of these
    trajectories."""


def evaluate(settings: Evaluate, folder: RunFolder, map_tasks: Mapper, more: More = ()) -> Summary:
    """Reduce a run's `logprobs`, `labels`, `references` and `rewards`, replacing what an earlier evaluation left.

    Args:
      settings: preset, scenarios, intervals.
      folder: a run folder with `logprobs`.
      map_tasks: runs tasks; functions and items can be pickled by cloudpickle.
      more: methods of its further references, and reward models that judged it.

    Raises:
      PaDistError: a row of `logprobs` that contradicts itself.
    """
    for table_name in OUTPUTS:
        folder.clear(table_name)
    null_columns = folder.manifest["stages"].get("score", {}).get("null_columns", {})
    lacking = missing(settings.preset, null_columns, more)
    _forget(folder)
    parts = _plan(folder)
    if beside := [*_tables(more), *([LABELS] if folder.parts(LABELS) else [])]:
        # Once for all parts: to look for each part's rows in whole tables would take the square of the corpus.
        (parts,) = map_tasks(partial(_find_beside, folder, beside), [parts])
    counts = Counter[str]()
    for of_part in map_tasks(partial(_reduce_part, folder, settings, {name for name, _ in lacking}, more), parts):
        counts.update(of_part)
    apart = {name: counts[against("apart", name)] for name in (None, *_references(more))}
    wholly = [name for name, n in apart.items() if n and n == counts[against("trajectories", name)]]
    lacking = missing(settings.preset, null_columns, more, wholly)
    _write_if_absent(folder, settings, more)
    (surveyed,) = map_tasks(partial(survey, settings), [folder])
    if "best_of_n" in surveyed.scenarios and settings.answers != "none":
        sum(map_tasks(partial(keep_answers, settings), [folder]))
    jobs = _jobs(settings, folder, surveyed, lacking, more)
    n_metrics = sum(map_tasks(partial(_measure, folder), jobs))
    sum(map_tasks(partial(compare_slices, folder, settings), _ranges(surveyed.n_slices)))
    for table_name in ("selections", "attributions"):
        _write_if_absent(folder, settings, more, table_name)
    names = names_in_order([method.name for method in all_methods(settings.preset, more)])
    sum(map_tasks(partial(gather, folder, names, surveyed.n_slices), [METRICS, COMPARISONS]))
    _forget(folder)
    return Summary(
        counts["trajectories"],
        counts["steps"],
        counts["scored"],
        surveyed.scenarios,
        n_metrics,
        surveyed.note,
        apart[None],
        {name: n for name, n in apart.items() if name is not None},
    )


def _references(more: More) -> list[str]:
    """The further references, by name."""
    return list(dict.fromkeys(of.reference for of in more if isinstance(of, Method) and of.reference is not None))


def _rewards(more: More) -> list[RewardMethod]:
    return [of for of in more if isinstance(of, RewardMethod)]


def _tables(more: More) -> list[str]:
    """What lies beside `logprobs`."""
    references = [f"{REFERENCES}/{name}" for name in _references(more)]
    return [*references, *(f"{REWARDS}/{of.name}" for of in _rewards(more))]


def _forget(folder: RunFolder) -> None:
    """Delete what tasks left for each other, in this evaluation or one that was killed."""
    if folder.filesystem.get_file_info(folder.path(REDUCING)).type is not pafs.FileType.NotFound:
        folder.filesystem.delete_dir(folder.path(REDUCING))


def _ranges(n_slices: int) -> list[range]:
    """Slices shared out among tasks."""
    return [range(start, min(start + _TASK_SLICES, n_slices)) for start in range(0, n_slices, _TASK_SLICES)]


def _plan(folder: RunFolder) -> list[_Part]:
    """Share out `logprobs`: small files together, the row groups of a large one apart."""
    pieces: list[tuple[int, str, tuple[int, ...] | None]] = []
    for info in folder.filesystem.get_file_info(folder.parts("logprobs")):
        if info.size <= _TASK_BYTES:
            pieces.append((info.size, info.path, None))
            continue
        footer = pq.read_metadata(info.path, filesystem=folder.filesystem)
        share = info.size // max(footer.num_row_groups, 1)
        pieces += [(share, info.path, (group,)) for group in range(footer.num_row_groups)]
    shares: list[list[tuple[str, tuple[int, ...] | None]]] = []
    room = 0
    for size, path, row_groups in pieces:
        if size > room:
            shares.append([])
            room = _TASK_BYTES
        shares[-1].append((path, row_groups))
        room -= size
    return [_Part(f"part-{index:05d}", tuple(share)) for index, share in enumerate(shares)]


def _reduce_part(
    folder: RunFolder, settings: Evaluate, lacking: Collection[str], more: More, part: _Part
) -> Counter[str]:
    """Write one part's rows, a block at a time; counts trajectories, those whose tokens differ between the models (both
    of each reference), steps, and steps with an advantage."""
    counts = Counter[str]()
    judged = _judged(folder, more, part)
    where = {name: locate(folder, part.beside[f"{REFERENCES}/{name}"]) for name in _references(more)}
    labels = LaterLabels(folder, part.beside.get(LABELS, ()))
    for index, own in enumerate(_blocks(folder, part)):
        table = labels.onto(own)
        ids = table["trajectory_id"].to_pylist()
        among = pc.field("trajectory_id").isin(pa.array(ids, pa.string()))
        references = {
            name: folder.files(of.holding(ids), schema.REFERENCE).to_table(columns=REFERENCE_COLUMNS, filter=among)
            for name, of in where.items()
        }
        reduced = reduce_block(table, settings, lacking, judged, references)
        name = f"{part.name}-{index:04d}"
        folder.write("steps", name, reduced.steps)
        folder.write("scores", name, reduced.scores)
        if len(reduced.prefixes):
            folder.write("prefixes", name, reduced.prefixes)
        if len(reduced.labelled):
            folder.write(labelled_steps.TABLE, name, reduced.labelled, use_dictionary=False)
        if len(attributions := reduced.attributions):
            # A row group holds one method's token aggregation, so that the task that measures it reads no other.
            size = len(schema.PREDICTORS) * pc.count_distinct(attributions["trajectory_id"]).as_py()
            folder.write("attributions", name, attributions, row_group_size=size)
        if len(reduced.suspects):
            folder.write("attributions", f"{name}-unlabelled", reduced.suspects)
        for of, theirs in [(None, table), *references.items()]:
            counts[against("trajectories", of)] += len(theirs)
            counts[against("apart", of)] += len(theirs) - theirs["token_ids_reference"].null_count
        counts["steps"] += len(reduced.steps)
        counts["scored"] += len(reduced.steps) - reduced.steps["progress_advantage__sum"].null_count
    return counts


def _judged(folder: RunFolder, more: More, part: _Part) -> list[Judged]:
    """What reward models say of a part's trajectories."""
    if not (rewards := _rewards(more)):
        return []
    ids = _ids(folder, part)
    return [read_judged(folder, of, part.beside[f"{REWARDS}/{of.name}"], ids) for of in rewards]


def _find_beside(folder: RunFolder, tables: Sequence[str], parts: Sequence[_Part]) -> list[_Part]:
    """The parts, each with the files of its rows of some tables."""
    where = {name: locate(folder, name) for name in tables}
    ids = ((part, _ids(folder, part).to_pylist()) for part in parts)
    return [replace(part, beside={name: index.holding(its) for name, index in where.items()}) for part, its in ids]


def _ids(folder: RunFolder, part: _Part) -> pa.ChunkedArray:
    """A part's trajectories."""
    parquet, column = pads.ParquetFileFormat(), pa.schema([pa.field("trajectory_id", pa.string())])
    pieces = [parquet.make_fragment(path, folder.filesystem, row_groups=groups) for path, groups in part.files]
    return pads.FileSystemDataset(pieces, column, parquet, folder.filesystem).to_table()["trajectory_id"]


def _blocks(folder: RunFolder, part: _Part) -> Iterator[pa.Table]:
    """Tables of about `_BLOCK_BYTES` each, of `_BLOCK_ROWS` at most."""
    pending: list[pa.RecordBatch] = []
    size = n_rows = 0
    for path, row_groups in part.files:
        with pq.ParquetFile(path, filesystem=folder.filesystem) as file:
            footer = file.metadata
            held = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
            rows = max(1, _BLOCK_BYTES * max(footer.num_rows, 1) // max(held, 1))
            for batch in file.iter_batches(batch_size=min(rows, _BLOCK_ROWS), columns=COLUMNS, row_groups=row_groups):
                if pending and (size + batch.nbytes > _BLOCK_BYTES or n_rows + len(batch) > _BLOCK_ROWS):
                    yield pa.Table.from_batches(pending)
                    pending, size, n_rows = [], 0, 0
                pending.append(batch)
                size, n_rows = size + batch.nbytes, n_rows + len(batch)
    if pending:
        yield pa.Table.from_batches(pending)


def _write_if_absent(folder: RunFolder, settings: Evaluate, more: More, *names: str) -> None:
    """Give a table without rows one empty file, so that it exists."""
    empty = {
        "steps": schema.steps(_references(more)),
        "scores": schema.scores([cell.column for cell in cells(settings.preset, more)]),
        "prefixes": schema.prefixes([cell.method for cell in _prefix_cells(settings, more)], settings.prefix_steps),
        "selections": schema.SELECTIONS,
        "attributions": schema.ATTRIBUTIONS,
    }
    for name in names or ("steps", "scores", "prefixes", "attributions"):
        if not folder.parts(name):
            folder.write(name, "part-00000", empty[name].empty_table())


@dataclass(frozen=True)
class _Job:
    """What a task measures, the bytes that it takes, and its number among all."""

    find: Callable[[Slicing], Iterable[MetricRow | Reading]]
    memory: int = _BASE_BYTES
    number: int = 0


def _jobs(settings: Evaluate, folder: RunFolder, surveyed: Survey, lacking: Lacking, more: More) -> list[_Job]:
    """What tasks measure, each of all groups: their number does not grow with those."""
    jobs = [_Job(partial(measure.unmeasured, settings, lacking, more))]
    n, chosen = surveyed.n_trajectories, set(surveyed.scenarios)
    by_method: dict[str, list[Cell]] = {}
    for cell in cells(settings.preset, more):
        if (cell.method, cell.token_agg) not in lacking:
            by_method.setdefault(cell.method, []).append(cell)
    for index, (name, of_method) in enumerate(by_method.items()):
        memory = _BASE_BYTES + _ROW_BYTES * n * (len(of_method) + _ROWS_BESIDE)
        if "uq" in chosen:
            others = [first for other, (first, *_) in by_method.items() if (name == METHOD) != (other == METHOD)]
            jobs.append(_Job(partial(measure.uq_of_method, folder, settings, of_method, others), memory))
        if "best_of_n" in chosen:
            part = f"part-{index:05d}"
            jobs.append(_Job(partial(measure.bon_of_method, folder, settings, of_method, part), memory))
    memory = _BASE_BYTES + _ROW_BYTES * n * _ROWS_OF_BLAME
    if "best_of_n" in chosen:
        jobs.append(_Job(partial(measure.bon_baselines, folder, settings), memory))
    if "uq" in chosen:
        jobs.append(_Job(partial(measure.uq_baselines, folder, settings), memory))
    if "prefix" in chosen:
        jobs += _prefix_jobs(settings, folder, n, lacking, more)
    if "fa" in chosen:
        jobs += [
            _Job(partial(blame.fa_of_method, folder, settings, method.name, names), memory)
            for method in all_methods(settings.preset, more)
            if method.attributes and (names := blame.blaming(method, lacking))
        ]
        jobs.append(_Job(partial(blame.fa_baselines, folder, settings), memory))
    if surveyed.n_labelled_steps and "fa" in chosen:
        memory = _BASE_BYTES + _ROW_BYTES * n * _ROWS_BESIDE + _STEP_BYTES * surveyed.n_labelled_steps
        jobs += [
            _Job(partial(blame.steps_of_method, folder, settings, method.name, token_aggs), memory)
            for method in all_methods(settings.preset, more)
            if method.attributes
            and (token_aggs := [agg for agg in method.token_aggs if (method.name, agg) not in lacking])
        ]
    return [replace(job, number=number) for number, job in enumerate(jobs)]


def _prefix_cells(settings: Evaluate, more: More) -> list[Cell]:
    """The first cell of each method that has steps."""
    first: dict[str, Cell] = {}
    for cell in cells(settings.preset, more):
        first.setdefault(cell.method, cell)
    return [cell for name, cell in first.items() if name not in _judging_whole(more)]


def _judging_whole(more: More) -> set[str]:
    """Reward models that say nothing of steps."""
    return {method.name for method in _rewards(more) if not method.judges_steps}


def _prefix_jobs(settings: Evaluate, folder: RunFolder, n: int, lacking: Lacking, more: More) -> list[_Job]:
    every = _prefix_cells(settings, more)
    reasons = {cell: lacking[cell.method, cell.token_agg] for cell in every if (cell.method, cell.token_agg) in lacking}
    known = [cell for cell in every if cell not in reasons]
    reasons |= {cell: prefix.NO_STEPS for cell in cells(settings.preset, more) if cell.method in _judging_whole(more)}
    memory = _BASE_BYTES + _ROW_BYTES * n * (len(known) + _ROWS_BESIDE)
    jobs = [_Job(partial(prefix.unknown, settings, reasons))]
    jobs += [
        _Job(partial(prefix.after_steps, folder, settings, known, point), memory) for point in prefix.points(settings)
    ]
    return jobs + [_Job(partial(prefix.alarm_of_method, folder, settings, cell), memory) for cell in known]


def _measure(folder: RunFolder, job: _Job) -> int:
    """Leave what a job finds in files; counts rows of `metrics`."""
    plan = read_plan(folder)
    return write_rows(folder, f"{job.number:05d}", job.find(plan), plan.slices)
