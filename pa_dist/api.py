"""pa_dist from Python: `pa_dist.score` and `pa_dist.open_run`.

>>> import pa_dist
>>> messages = [
...     {"role": "user", "content": "Where is my order?"},
...     {"role": "assistant", "content": "It shipped yesterday."},
... ]
>>> rollouts = [{"id": f"run-{i}", "messages": messages, "reward": i % 2} for i in range(4)]
>>> run = pa_dist.score(rollouts, pair="demo", output=out, score={"dtype": "float32"})
>>> run.arrow("scores").num_rows
4
>>> sorted(run.pandas("steps")["trajectory_id"])
['run-0', 'run-1', 'run-2', 'run-3']
>>> pa_dist.open_run(out).metrics[0]["metric"]
'auroc'
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from pa_dist import config
from pa_dist.errors import ConfigError, RunFolderError
from pa_dist.lease import held
from pa_dist.run import ALPHAS, FILES, TABLES, RunFolder

if TYPE_CHECKING:
    import pandas
    import polars

# Rows that were given as Python objects, as a file that ingest reads and a later call finds again.
_INPUTS = "inputs"

Trajectories = str | Iterable[str] | Iterable[Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder's tables, as `schema.py` describes their columns."""

    folder: RunFolder

    def arrow(self, name: str) -> pa.Table:
        """A whole table.

        Args:
          name: trajectories, rejects, logprobs, steps, scores, selections, attributions, metrics, comparisons, or a
            sweep's alphas.

        Raises:
          RunFolderError: the run has no such table.
        """
        files = (*FILES, ALPHAS)
        names = (*TABLES, *files)
        if name not in names:
            raise RunFolderError(f"{name!r} is no table; one of {', '.join(names)}")
        parts = [self.folder.path(f"{name}.parquet")] if name in files else self.folder.parts(name)
        try:
            tables = [dataset.to_table() for dataset in self.folder.datasets(parts)]
        except FileNotFoundError:
            tables = []
        if not tables:
            raise RunFolderError(f"{self.folder}: no {name} here yet")
        return pa.concat_tables(tables)

    def pandas(self, name: str) -> "pandas.DataFrame":
        """The same for pandas."""
        return self.arrow(name).to_pandas()

    def polars(self, name: str) -> "polars.DataFrame":
        """The same for polars, which must be installed."""
        import polars

        return cast(polars.DataFrame, polars.from_arrow(self.arrow(name)))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics`, as `metrics.json` has them."""
        return cast(list[dict[str, Any]], self.arrow("metrics").to_pylist())

    @property
    def manifest(self) -> dict[str, Any]:
        """Config, versions, and of each stage its settings and facts."""
        return self.folder.manifest


def open_run(path: str) -> Run:
    """A run folder that exists, at a local path or a URI.

    Raises:
      RunFolderError: nothing was run there.
    """
    folder = RunFolder(path)
    if not folder.manifest["stages"]:
        raise RunFolderError(f"{folder}: no run here")
    return Run(folder)


def score(
    trajectories: Trajectories,
    *,
    pair: str | Mapping[str, Any],
    output: str,
    fresh: bool = False,
    **sections: Mapping[str, Any],
) -> Run:
    """Ingest, score and evaluate, as `pa-dist run` does: what is done in `output` is not done again.

    Args:
      trajectories: a path or several, of any format; conversations as mappings (a list, a Hugging Face dataset) with
        the keys of the format `chat`: messages, and optionally id, task_id, trial, reward, mistake_step ...; or a
        config's whole section, such as `{"format": "tau2", "paths": [...], "limit": 40}`.
      pair: a name of `pa-dist pairs`, `demo`, or `{"policy": ..., "reference": ...}`.
      output: the run folder.
      fresh: delete what an earlier run left there first.
      sections: the config's others, such as `score={"dtype": "float32"}` or `evaluate={"beta": 0.1}`.

    Raises:
      PaDistError: a config, cluster or run folder that cannot be used, or no row could be scored.
    """
    from pa_dist import stages

    folder = RunFolder(output)
    given = {**sections, "pair": pair, "output": output}
    config.parse({**given, "trajectories": {"format": "auto", "paths": ["-"]}})  # before anything is written
    section = _section(trajectories, folder)
    stages.run(config.parse({**given, "trajectories": section}), lambda line: None, fresh=fresh)
    return Run(folder)


def _section(trajectories: Trajectories, folder: RunFolder) -> Mapping[str, Any]:
    if isinstance(trajectories, Mapping):
        return trajectories
    if isinstance(trajectories, str):
        return {"format": "auto", "paths": [trajectories]}
    rows = list(trajectories)
    if all(isinstance(row, str) for row in rows):
        return {"format": "auto", "paths": rows}
    return {"format": "chat", "paths": [_written(rows, folder)]}


def _written(rows: list[Any], folder: RunFolder) -> str:
    """Where the rows are, written once: a file that did not change is not read again."""
    lines = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"trajectories: row {index} is no mapping but {type(row).__name__}")
        try:
            lines.append(json.dumps(dict(row)).encode() + b"\n")
        except (TypeError, ValueError) as error:
            raise ConfigError(f"trajectories: row {index}: {error}") from None
    content = b"".join(lines)
    name = f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    with held(folder):
        if folder.read(f"{_INPUTS}/{name}") is None:
            folder.filesystem.create_dir(folder.path(_INPUTS), recursive=True)
            with folder.replacing(_INPUTS, name) as path, folder.filesystem.open_output_stream(path) as out:
                out.write(content)
    return folder.below(_INPUTS, name)
