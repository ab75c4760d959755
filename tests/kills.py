"""Kill a run's driver or one of its workers at random moments, finish it, and hold it against an undisturbed one.

python tests/kills.py --kills 50 --trajectories 2000        prints a line a kill, and the tally
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from tiny_models import save_model, save_tokenizer

from pa_dist.store.folder import RunFolder

WORDS = "order card refund cancel shipped status please total item four never late address change desk".split()
ATOL = 1e-5


def write_corpus(path, n, rng):
    """Rollouts of tasks with four trials, every tenth without an action."""
    with path.open("w") as file:
        for index in range(n):
            said = [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(4)]
            roles = ["user", "assistant"] * 2 if index % 10 else ["user"] * 4
            messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
            row = {"id": f"run-{index}", "task_id": str(index // 4), "trial": index % 4, "messages": messages}
            file.write(json.dumps({**row, "reward": float(rng.random() < 0.5), "mistake_step": 1}) + "\n")


def prepare(place, n, rng, **score):
    """A config file for `n` trajectories and a tiny random pair."""
    write_corpus(place / "rollouts.jsonl", n, rng)
    for seed, name in enumerate(("policy", "reference")):
        save_model(place / name, seed)
        save_tokenizer(place / name, bos=True)
    config = {
        "trajectories": {"format": "chat", "paths": [str(place / "rollouts.jsonl")]},
        "pair": {name: str(place / name) for name in ("policy", "reference")},
        "score": {"dtype": "float32", "device": "cpu", "rows_per_block": max(4, n // 60), **score},
        "evaluate": {"intervals": "none"},
        "output": str(place / "undisturbed"),
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return place / "config.yaml"


def start(config, out):
    command = [sys.executable, "-m", "pa_dist", "run", str(config), f"output={out}"]
    log = (out.parent / f"{out.name}.log").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def finish(process, timeout=300):
    """Wait for a run; its exit status."""
    return process.wait(timeout)


def workers(driver):
    """Processes of a driver's own Ray that do something for the run, by what they say they are."""
    titles, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def ours(pid):
        return pid == driver or (pid in parents and ours(parents[pid]))

    # Ray's own agents take their node, here the only one, with them: another matter, of another test.
    return {
        pid: title
        for pid, title in titles.items()
        if title.startswith("ray::") and "IDLE" not in title and not title.endswith("Agent") and ours(pid)
    }


def kill(process, kind, rng):
    """Kill the driver, or a worker as soon as there is one; what was killed, or None if the run had ended."""
    while process.poll() is None:
        victims = {process.pid: "driver"} if kind == "driver" else workers(process.pid)
        if victims:
            pid = rng.choice(sorted(victims))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return victims[pid]
        time.sleep(0.05)
    return None


def table(out, name, columns=None):
    folder = RunFolder(str(out))
    return folder.dataset(name).to_table(columns=columns).to_pylist() if folder.parts(name) else []


def differences(out, undisturbed):
    """What two run folders disagree in, a line each."""
    found = []
    ours, theirs = ({row["trajectory_id"]: row for row in table(x, "logprobs")} for x in (out, undisturbed))
    if len(table(out, "logprobs", ["trajectory_id"])) != len(ours):
        found.append("logprobs: a row twice")
    if ours.keys() != theirs.keys():
        found.append(f"logprobs: {len(ours.keys() ^ theirs.keys())} other rows")
    for key in ours.keys() & theirs.keys():
        for name, value in theirs[key].items():
            if name.startswith(("policy_", "reference_")):
                # A step of a column that was not computed is null.
                a, b = (
                    np.concatenate([[np.nan] if step is None else step for step in x]) for x in (ours[key][name], value)
                )
                if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=ATOL, equal_nan=True):
                    found.append(f"logprobs: {key}: {name}")
            elif ours[key][name] != value:
                found.append(f"logprobs: {key}: {name}")
    for name in ("rejects", "selections", "attributions"):
        # Scores differ in their last digits; what was chosen and blamed does not.
        a, b = (
            sorted(json.dumps({k: v for k, v in row.items() if k != "score"}) for row in table(x, name))
            for x in (out, undisturbed)
        )
        if a != b:
            found.append(f"{name}: {len(set(a) ^ set(b))} other rows, {len(a)} against {len(b)}")
    return found


def trial(config, out, kind, moment, rng):
    """One run with one kill `moment` seconds after its start, and started again if that was its driver.

    What was killed, and the exit status.
    """
    process = start(config, out)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        victim = kill(process, kind, rng)
    else:
        victim = None
    status = finish(process)
    return victim, finish(start(config, out)) if victim == "driver" else status


def main(kills, trajectories, seed):
    rng, agreed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as place:
        config = prepare(Path(place), trajectories, rng)
        undisturbed = Path(place) / "undisturbed"
        began = time.monotonic()
        assert finish(start(config, undisturbed)) == 0, (Path(place) / "undisturbed.log").read_text()
        seconds = time.monotonic() - began
        print(
            f"undisturbed: {seconds:.1f} s, {len(table(undisturbed, 'logprobs', ['trajectory_id']))} rows", flush=True
        )
        index = 0
        while index < kills:
            out = Path(place) / f"run-{index}"
            kind = rng.choice(["driver", "worker"])
            victim, status = trial(config, out, kind, rng.uniform(0.5, seconds), rng)
            if victim is None:  # it had ended before
                continue
            found = [f"exit status {status}"] if status else differences(out, undisturbed)
            agreed += not found
            index += 1
            print(f"{index}: {victim}: {'; '.join(found[:3]) or 'the same'}", flush=True)
    print(f"{agreed} of {kills} end as the undisturbed run did")
    return agreed == kills


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("kills", 50), ("trajectories", 2000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sys.exit(not main(**vars(parser.parse_args())))
