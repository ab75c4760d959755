"""The published trajectories, from a dataset repository on the Hugging Face Hub."""

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

# HTTPError is the HTTP client's own, for what happens before a hub has answered; hub errors are OSErrors too.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)

from pa_dist.errors import PaDistError, first_line

REPO_ID = "changdae/progress-advantage-artifacts"
PATTERNS = {"uq": ["tau2/*"], "tts": ["webshop/*"], "fa": ["who_and_when/*"], "all": ["*"]}


def fetch(scenario: str, out: Path, repo_id: str | None, say: Callable[[str], None]) -> Path:
    """Download one scenario's files into `out`, saying what first; files already there are not fetched again.

    Args:
      scenario: a key of `PATTERNS`.
      repo_id: a dataset repository; by default that of the environment's PA_DATA_REPO, else the published one.

    Raises:
      PaDistError: no network, no such repository, nothing in it for the scenario, or files that did not arrive.
    """
    repo_id = repo_id or os.environ.get("PA_DATA_REPO") or REPO_ID
    patterns = PATTERNS[scenario]
    try:
        info = HfApi().dataset_info(repo_id, files_metadata=True)
        wanted = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, pattern) for pattern in patterns)]
        if not wanted:
            raise PaDistError(f"fetch: dataset {repo_id} holds nothing for {scenario} ({', '.join(patterns)})")
        megabytes = sum(file.size or 0 for file in wanted) / 1e6
        say(f"fetch: {len(wanted)} files, {megabytes:.1f} MB, from dataset {repo_id} to {out}")
        snapshot_download(repo_id, repo_type="dataset", revision=info.sha, local_dir=out, allow_patterns=patterns)
    except RepositoryNotFoundError:
        raise PaDistError(f"fetch: no dataset {repo_id} on the Hub, or no leave to read it") from None
    except HFValidationError as error:
        raise PaDistError(f"fetch: {first_line(error)}") from None
    except (HTTPError, OSError) as error:
        raise PaDistError(f"fetch: cannot fetch dataset {repo_id} to {out}: {first_line(error)}") from None
    # With the connection lost after the first answer, the hub's client returns a folder as it is, and only warns.
    missing = [file.rfilename for file in wanted if not (out / file.rfilename).is_file()]
    if missing:
        raise PaDistError(
            f"fetch: {len(missing)} of {len(wanted)} files did not arrive ({missing[0]} ...); run it again"
        )
    return out
