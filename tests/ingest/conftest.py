"""Fixtures: write files, ingest them into a run folder, look at the tables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pa_dist.config import Trajectories
from pa_dist.ingest.tables import Counts, ingest
from pa_dist.schema import REJECTS, TRAJECTORIES
from pa_dist.store.folder import RunFolder


@dataclass
class Ingested:
    counts: Counts
    folder: RunFolder

    @property
    def rows(self) -> list[dict[str, Any]]:
        table = self.folder.dataset("trajectories").to_table()
        assert table.schema.equals(TRAJECTORIES)
        return table.to_pylist()

    @property
    def rejects(self) -> list[tuple[str, str, str]]:
        """(file name, place, reason) of each reject."""
        table = self.folder.dataset("rejects").to_table()
        assert table.schema.equals(REJECTS)
        rows = table.to_pylist()
        assert all(row["stage"] == "ingest" and row["trajectory_id"] is None for row in rows)
        return [(Path(row["source"]).name, row["place"], row["reason"]) for row in rows]

    @property
    def reasons(self) -> list[str]:
        return [reason for _, _, reason in self.rejects]


@pytest.fixture
def run(tmp_path):
    """`run(format, *paths, **settings)` ingests; rows in, rows out must balance every time."""

    def ingested(format: str, *paths: Path | str, **settings: Any) -> Ingested:
        config = Trajectories(format=format, paths=[str(path) for path in paths], **settings)
        folder = RunFolder(str(tmp_path / "run"))
        result = Ingested(ingest(config, folder, map), folder)
        counts = result.counts
        assert counts.read == counts.kept + counts.rejected + counts.left_out_by_limit
        assert counts.kept == folder.count("trajectories")
        assert counts.rejected == folder.count("rejects", "ingest-")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["rejects", "trajectories"]
        return result

    return ingested


@pytest.fixture
def put(tmp_path):
    """`put(name, content)` writes a file below the data folder: bytes, text, or a value as JSON."""

    def written(name: str, content: Any) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


@pytest.fixture
def jsonl(put):
    """`jsonl(name, *records)` writes chat records, a line each."""
    return lambda name, *records: put(name, "".join(json.dumps(record) + "\n" for record in records))
