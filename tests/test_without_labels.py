"""The command over conversations without a label: what it says, and what it leaves."""

import json
import subprocess
import sys

import pytest

from pa_dist import schema
from pa_dist.demo.agreement import shipped_rollouts
from pa_dist.store.folder import RunFolder

pytestmark = pytest.mark.integration


def test_a_run_of_chat_logs_says_what_to_look_at(tmp_path):
    logs, config, out = tmp_path / "logs.jsonl", tmp_path / "config.yaml", tmp_path / "out"
    bare = [{"id": f"log-{i}", "messages": row["messages"]} for i, row in enumerate(shipped_rollouts()[:80])]
    logs.write_text("".join(f"{json.dumps(row)}\n" for row in bare))
    score = {"dtype": "float32", "max_length": 512}
    given = {"trajectories": {"format": "chat", "paths": [str(logs)]}, "pair": "demo", "score": score}
    config.write_text(json.dumps({**given, "output": str(out)}))
    command = [sys.executable, "-m", "pa_dist", "run", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "steps with an advantage, no metrics: no trajectory has a reward, a mistake_step or step" in done.stderr
    last = f"next: `pa-dist top {out}` lists what is most worth a look; {out}/report/index.html shows it"
    assert done.stderr.splitlines()[-1] == last
    folder = RunFolder(str(out))
    attributions = folder.dataset("attributions").to_table()
    assert len(attributions) == 80 * len(schema.PREDICTORS)
    assert attributions["step"].null_count == 0
    assert "Most worth a look" in (out / "report" / "index.html").read_text()
