"""A sweep of merged references in a run folder: the alphas' parts of it, and their metrics as one table."""

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pa_dist import schema
from pa_dist.config import Merge
from pa_dist.run import ALPHAS, RunFolder


def asked(run: RunFolder, merge: Merge | None) -> list[RunFolder]:
    """The parts of a run folder that a config asks for. Alpha 0 has none: it is the run itself."""
    return [] if merge is None else [RunFolder(run.uri, alpha) for alpha in merge.alphas if alpha]


def begun(run: RunFolder) -> list[RunFolder]:
    """The parts that are there, by alpha."""
    selector = pafs.FileSelector(run.path(ALPHAS), allow_not_found=True)
    found = run.filesystem.get_file_info(selector)
    alphas = sorted(float(info.base_name) for info in found if info.type is pafs.FileType.Directory)
    return [RunFolder(run.uri, alpha) for alpha in alphas]


def write_alphas(run: RunFolder, parts: list[RunFolder]) -> None:
    """Write `alphas.parquet`, a table of `schema.ALPHAS`: the metrics of some alphas of one sweep below the run's."""
    method = parts[0].manifest["stages"]["score"]["settings"]["merge"]["method"]
    with (
        run.replacing(f"{ALPHAS}.parquet") as path,
        pq.ParquetWriter(path, schema.ALPHAS, filesystem=run.filesystem, compression="zstd") as writer,
    ):
        for part in (run, *parts):
            # Of many groups there are many rows: a batch at a time.
            with pq.ParquetFile(part.path("metrics.parquet"), filesystem=run.filesystem) as file:
                for batch in file.iter_batches():
                    named = [pa.repeat(method, len(batch)), pa.repeat(part.alpha or 0.0, len(batch))]
                    writer.write_batch(pa.RecordBatch.from_arrays([*named, *batch.columns], schema=schema.ALPHAS))
