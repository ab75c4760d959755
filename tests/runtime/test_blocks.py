"""How many trajectories a block holds."""

import pyarrow as pa
import pytest

from pa_dist import schema
from pa_dist.runtime.blocks import BYTES_A_TOKEN, fitting, rows_of_blocks
from pa_dist.runtime.pools import Actors
from pa_dist.store.folder import RunFolder

GPU, CPU = Actors(4, 4, 1.0, 1.0, {}), Actors(1, 1, 0.0, 1.0, {})


@pytest.mark.parametrize(
    ("n", "tokens", "actors", "expected"),
    [
        (10**5, 8192, GPU, 32),
        (10**5, 128, GPU, 2048),
        (10**4, 8192, CPU, 4),
        (10**5, 10**6, CPU, 10),  # 10,000 files, and not the one trajectory that fills a block
        (10**5, 0, CPU, 25_000),  # four blocks
        (100, 128, GPU, 6),  # sixteen blocks, four an actor
        (10**7, 8192, GPU, 1000),
        (3, 8192, GPU, 1),
        (0, 8192, GPU, 1),
    ],
)
def test_blocks_fill_passes_and_are_few(n, tokens, actors, expected):
    size = fitting(n, tokens * BYTES_A_TOKEN, actors, 16384, 16384)
    assert size == expected
    assert n / size <= 10_000


def test_what_generates_does_with_few():
    assert fitting(10**4, 100.0, CPU, None, 16384) == 16


def test_a_run_reads_off_its_files_how_long_trajectories_are(tmp_path):
    folder = RunFolder(str(tmp_path))
    rows = [{"trajectory_id": str(i), "messages": [{"role": "user", "content": f"{i:04}" * 1024}]} for i in range(2048)]
    table = pa.Table.from_pylist(rows, schema.TRAJECTORIES)
    for part in range(4):
        folder.write("trajectories", f"part-{part}", table.slice(part * 512, 512))
    assert rows_of_blocks("auto", folder, CPU, 16384, 16384) == pytest.approx(32, abs=1)  # of about 1,024 tokens
    assert rows_of_blocks("auto", folder, CPU, 16384, 128) == 256
    assert rows_of_blocks(7, folder, CPU, 16384, 128) == 7


def test_a_pool_that_may_grow_has_blocks_for_all_that_it_may_have():
    assert fitting(2000, 2000.0, GPU, 16384, 16384) == 125
    assert fitting(2000, 2000.0, GPU._replace(most=8), 16384, 16384) == 62
