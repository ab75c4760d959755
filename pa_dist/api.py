"""pa_dist from Python: `pa_dist.score_trajectories` and `pa_dist.open_run`.

>>> import pa_dist
>>> messages = [
...     {"role": "user", "content": "Where is my order?"},
...     {"role": "assistant", "content": "It shipped yesterday."},
... ]
>>> rollouts = [{"id": f"run-{i}", "messages": messages, "reward": i % 2} for i in range(4)]
>>> run = pa_dist.score_trajectories(rollouts, pair="demo", output=out, score={"dtype": "float32"})
>>> run.arrow("scores").num_rows
4
>>> sorted(run.pandas("steps")["trajectory_id"])
['run-0', 'run-1', 'run-2', 'run-3']
>>> pa_dist.open_run(out).metrics[0]["scenario"]
'uq'
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from pa_dist import config, inputs
from pa_dist.errors import RunFolderError
from pa_dist.store.folder import FILES, TABLES, RunFolder

if TYPE_CHECKING:
    import pandas
    import polars

Trajectories = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]
"""Whatever `score_trajectories` takes; tables iterate, too."""
Labels = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]
"""Whatever `Run.evaluate` takes."""

_ADVANTAGES = ("token_advantages", "step_advantages")


@dataclass(frozen=True)
class Run:
    """A run folder's tables, as `schema.py` describes their columns."""

    folder: RunFolder

    def arrow(self, name: str, *, trajectories: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or its rows of some trajectories.

        Args:
          name: trajectories, rejects, logprobs, labels (those that came later), steps, scores, selections,
            attributions, metrics or comparisons; or token_advantages or step_advantages, which are `advantages`.
          trajectories: ids; all where null.

        Raises:
          RunFolderError: the run has no such table, or not by trajectory.
        """
        names = (*TABLES, *FILES, *_ADVANTAGES)
        if name not in names:
            raise RunFolderError(f"{name!r} is no table; one of {', '.join(names)}")
        if name in _ADVANTAGES:
            from pa_dist.report import advantages

            return getattr(advantages, name)(self.folder, trajectories)
        if trajectories is not None and name in FILES:
            raise RunFolderError(f"trajectories: {name} has no row of a trajectory alone")
        ids = [trajectories] if isinstance(trajectories, str) else trajectories
        chosen = None if ids is None else pc.field("trajectory_id").isin(pa.array(ids, pa.string()))
        parts = [self.folder.path(f"{name}.parquet")] if name in FILES else self.folder.parts(name)
        try:
            tables = [dataset.to_table(filter=chosen) for dataset in self.folder.datasets(parts)]
        except FileNotFoundError:
            tables = []
        if not tables:
            raise RunFolderError(f"{self.folder}: no {name} here yet")
        return pa.concat_tables(tables)

    def pandas(self, name: str, *, trajectories: Sequence[str] | None = None) -> "pandas.DataFrame":
        """The same for pandas."""
        return self.arrow(name, trajectories=trajectories).to_pandas()

    def polars(self, name: str, *, trajectories: Sequence[str] | None = None) -> "polars.DataFrame":
        """The same for polars, which must be installed."""
        import polars

        return cast(polars.DataFrame, polars.from_arrow(self.arrow(name, trajectories=trajectories)))

    def advantages(self, by: Literal["token", "step"] = "token", trajectories: Sequence[str] | None = None) -> pa.Table:
        """Progress advantage with a row a token, or a row a step; `report/advantages.py` describes the columns.

        Only the files that hold `trajectories` (ids; all where null) are read. For pandas and polars the tables are
        `run.pandas("token_advantages")` and `run.polars("step_advantages")`.

        Raises:
          RunFolderError: nothing is evaluated here yet, or no such trajectory is scored.
        """
        if by not in ("token", "step"):
            raise RunFolderError(f"by: {by!r} is no row; token or step")
        return self.arrow(f"{by}_advantages", trajectories=trajectories)

    def evaluate(self, labels: Labels | None = None, **keys: Any) -> "Run":
        """Evaluate once more, as `pa-dist evaluate` does: from the columns, without scoring.

        Args:
          labels: that came later, in the place of the run's own: a path, a table (pandas, polars, Arrow ...) or
            mappings, a row each, with `id` or `task_id` and `trial`, and `reward`, `success`, `mistake_step`,
            `mistake_agent` or `step_labels`.
          keys: others of the config's section `evaluate`; those that are not given are as the run has them.

        Raises:
          PaDistError: a key, a file of labels, a cluster or a run folder that cannot be used.
        """
        from pa_dist import stages

        before = self.manifest.get("config", {})
        given = {**before.get("evaluate", {}), **keys}
        if labels is not None:
            given["labels"] = inputs.labels(labels, self.folder)
        settings = config.evaluate_section(given)
        stages.evaluate_folder(self.folder, settings, lambda line: None, config.Ray(**before.get("ray", {})))
        return self

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics`, as `metrics.json` has them."""
        return cast(list[dict[str, Any]], self.arrow("metrics").to_pylist())

    @property
    def noise(self) -> dict[str, Any] | None:
        """How large the rounding of half precision is beside the advantage: `share` is the error's standard deviation
        over the advantage's own, `correlation` theirs; without these a `reason` why not. None before scoring ended."""
        found: dict[str, Any] | None = self.manifest["stages"].get("score", {}).get("noise")
        return found

    @property
    def manifest(self) -> dict[str, Any]:
        """Config, versions, and of each stage its settings and facts."""
        return self.folder.manifest

    def __repr__(self) -> str:
        """The folder, what is done there, of how many trajectories by which pair, and where the page is."""
        from pa_dist.report.facts import in_short

        return f"<Run {in_short(self.folder)}>"


def open_run(path: str | os.PathLike[str]) -> Run:
    """A run folder that exists, at a local path or a URI.

    Raises:
      RunFolderError: nothing was run there.
    """
    folder = RunFolder(config.given_path(path, "path"))
    if not folder.manifest["stages"]:
        raise RunFolderError(f"{folder}: no run here")
    return Run(folder)


def score_trajectories(
    trajectories: Trajectories,
    *,
    pair: str | Mapping[str, Any],
    output: str | os.PathLike[str],
    fresh: bool = False,
    **sections: Any,
) -> Run:
    """Ingest, score and evaluate, as `pa-dist run` does: what is done in `output` is not done again.

    Args:
      trajectories: a path or several, of any format; conversations with the keys of the format `chat` (messages, and
        optionally id, task_id, trial, reward, mistake_step, step_labels ...), as mappings, dataclasses or pydantic
        models, one or several, or the messages alone; a table with a conversation a row, of pandas, polars, Arrow, Ray
        or Hugging Face datasets, read as a Parquet file is; or a config's whole section, such as
        `{"format": "tau2", "paths": [...], "limit": 40}`.
      pair: a name of `pa-dist pairs`, `demo`, or `{"policy": ..., "reference": ...}`.
      output: the run folder.
      fresh: delete what an earlier run left there first.
      sections: the config's others, such as `score={"dtype": "float32"}` or `evaluate={"beta": 0.1}`.

    Raises:
      PaDistError: a config, cluster or run folder that cannot be used, or no row could be scored.
    """
    from pa_dist import stages

    given = {**sections, "pair": pair, "output": output}
    # Before anything is written.
    folder = RunFolder(config.parse({**given, "trajectories": {"format": "auto", "paths": ["-"]}}).output)
    section = inputs.section(trajectories, folder)
    stages.run(config.parse({**given, "trajectories": section}), lambda line: None, fresh=fresh)
    return Run(folder)
