"""The published trajectories, from a dataset repository on the Hugging Face Hub."""

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from pa_dist.errors import PaDistError

REPO_ID = "changdae/progress-advantage-artifacts"
PATTERNS = {"uq": ["tau2/*"], "tts": ["webshop/*"], "fa": ["who_and_when/*"], "all": ["*"]}


def fetch(scenario: str, out: Path, repo_id: str | None, say: Callable[[str], None]) -> Path:
    """Download one scenario's files into `out`, saying what first; files already there are not fetched again.

    Args:
      scenario: a key of `PATTERNS`.
      repo_id: a dataset repository; by default that of the environment's PA_DATA_REPO, else the published one.

    Raises:
      PaDistError: no network, no such repository, or nothing in it for the scenario.
    """
    repo_id = repo_id or os.environ.get("PA_DATA_REPO") or REPO_ID
    patterns = PATTERNS[scenario]
    try:
        files = HfApi().dataset_info(repo_id, files_metadata=True).siblings or []
        wanted = [file for file in files if any(fnmatch(file.rfilename, pattern) for pattern in patterns)]
        if not wanted:
            raise PaDistError(f"fetch: dataset {repo_id} holds nothing for {scenario} ({', '.join(patterns)})")
        megabytes = sum(file.size or 0 for file in wanted) / 1e6
        say(f"fetch: {len(wanted)} files, {megabytes:.1f} MB, from dataset {repo_id} to {out}")
        snapshot_download(repo_id, repo_type="dataset", local_dir=out, allow_patterns=patterns)
    except RepositoryNotFoundError:
        raise PaDistError(f"fetch: no dataset {repo_id} on the Hub, or no leave to read it") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PaDistError(f"fetch: cannot reach dataset {repo_id}: {reason}") from None
    return out
