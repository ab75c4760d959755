"""A sweep of merged references in a run folder: the alphas' parts of it, and their metrics as one table."""

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist import schema
from pa_dist.config import Merge
from pa_dist.stage import Say
from pa_dist.store.folder import RunFolder
from pa_dist.store.location import ALPHAS


def asked(run: RunFolder, merge: Merge | None) -> list[RunFolder]:
    """The parts of a run folder that a config asks for. Alpha 0 has none: it is the run itself."""
    return [] if merge is None else [RunFolder(run.uri, alpha) for alpha in merge.alphas if alpha]


def begun(run: RunFolder) -> list[RunFolder]:
    """The parts that are there, by alpha."""
    alphas = sorted(float(info.base_name) for info in run.listed(ALPHAS) if info.type is pafs.FileType.Directory)
    return [RunFolder(run.uri, alpha) for alpha in alphas]


def write_alphas(run: RunFolder, parts: list[RunFolder]) -> None:
    """Write `alphas.parquet`, a table of `schema.ALPHAS`: the metrics of some alphas of one sweep below the run's."""
    method = parts[0].manifest["stages"]["score"]["settings"]["merge"]["method"]
    with (
        run.replacing(f"{ALPHAS}.parquet") as path,
        pq.ParquetWriter(path, schema.ALPHAS, filesystem=run.filesystem, compression="zstd") as writer,
    ):
        for part in (run, *parts):
            for metrics in part.batches("metrics.parquet"):
                named = [pa.repeat(method, len(metrics)), pa.repeat(part.alpha or 0.0, len(metrics))]
                writer.write_table(pa.Table.from_arrays([*named, *metrics.columns], schema=schema.ALPHAS))


def gather_alphas(run: RunFolder, say: Say) -> None:
    """Write the table of all alphas' metrics. It compares them, so those of other settings have no place in it."""
    evaluated = {
        part: record["settings"]
        for part in (run, *begun(run))
        if (record := part.manifest["stages"].get("evaluate", {})).get("done")
    }
    parts = [part for part in evaluated if part.alpha is not None]
    if not parts or run not in evaluated:
        return
    if others := [part.label.rstrip(": ") for part in parts if evaluated[part] != evaluated[run]]:
        say(f"alphas: alphas.parquet stays as it was: {', '.join(others)} evaluated with other settings than the run")
        return
    write_alphas(run, parts)
    say(f"alphas: the metrics of {len(parts) + 1} alphas are in alphas.parquet")
