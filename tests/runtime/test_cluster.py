"""Ray that does not start is one line that says why, and leaves nothing behind."""

import pytest
import ray

from pa_dist import config
from pa_dist.errors import ResourceError
from pa_dist.runtime import cluster


@pytest.mark.parametrize(
    ("temporary", "why"),
    [("l" * 120, "AF_UNIX path length cannot exceed"), ("file", "Not a directory")],
)
def test_ray_that_cannot_be_started_is_one_line(temporary, why, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / temporary))
    (tmp_path / "file").touch()
    ray.shutdown()  # of another test, were there one
    with pytest.raises(ResourceError) as raised:
        cluster.connect(config.Ray())
    said = str(raised.value)
    assert said.startswith("ray: it could not be started on this machine: ")
    assert why in said
    assert "\n" not in said
    assert not ray.is_initialized()
