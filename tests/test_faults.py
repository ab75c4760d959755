"""Runs that die in every way, and go on: the same rows as an undisturbed run, each once."""

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import broken
import kills
import pytest
import ray
import shared_ray
from ray.cluster_utils import Cluster
from safetensors.torch import load_file, save_file

from pa_dist import config, stages
from pa_dist.errors import PaDistError
from pa_dist.runtime.settle import committed
from pa_dist.status import status
from pa_dist.store.folder import CHECKPOINT, RunFolder

pytestmark = pytest.mark.integration

N = 120


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A config file, and a run folder made by it."""
    place = tmp_path_factory.mktemp("undisturbed")
    path = kills.prepare(place, N, random.Random(0))
    shared_ray.join()
    stages.run(config.load(path), print)
    return path, place / "undisturbed"


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def begun(out, stage):
    return stage in RunFolder(str(out)).manifest["stages"]


def done(out):
    """Files of `logprobs` whose ids are committed."""
    stems = {Path(part).stem for part in committed(out)}
    return [part for part in out.parts("logprobs") if Path(part).stem.rpartition("-")[0] in stems]


def test_a_killed_run_goes_on_with_what_it_was_begun_with(undisturbed, tmp_path):
    path, expected = undisturbed
    out = RunFolder(str(tmp_path / "out"))
    process = kills.start(path, tmp_path / "out")
    until(lambda: len(done(out)) > 1)
    process.kill()
    process.wait()
    lines = status(out)
    assert lines[0].startswith("ingest: done, 120 trajectories kept")
    assert "of 120 done" in lines[1]
    gone = done(out)[0]
    n_gone = out.count_rows([gone])
    out.filesystem.delete_file(gone)  # its ids say that it is there
    # What these tiny models read at most is what counts, not the 16,384 of the config.
    others = ("score.max_length=77", r"score\.max_length: 512 -> 77"), ("pair.policy=x", r"pair\.policy")
    for override, names in others:
        with pytest.raises(PaDistError, match=names):
            stages.run(config.load(path, [f"output={out.uri}", override]), print)
    with shared_ray.another():
        stages.run(config.load(path, [f"output={out.uri}"]), print)
    facts = out.manifest["stages"]["score"]
    assert facts["done_before"] > 0
    assert 0 < n_gone <= facts["models"]["policy"]["rows"] <= N - facts["done_before"] + n_gone
    assert kills.differences(out.uri, expected) == []
    assert status(out)[1].startswith("score: done, 108 scored, 12 rejected")
    assert not out.parts(CHECKPOINT)
    assert "score: 108 trajectories scored, 12 rejected" in (tmp_path / "out" / "run.log").read_text()


@pytest.mark.slow
def test_a_driver_killed_at_each_stage_goes_on(undisturbed, tmp_path):
    path, expected = undisturbed
    out = tmp_path / "out"
    moments = [
        lambda: begun(out, "ingest"),
        lambda: begun(out, "score"),
        lambda: len(RunFolder(str(out)).parts(CHECKPOINT)) > 3,
        lambda: begun(out, "evaluate"),
    ]
    for moment in moments:
        process = kills.start(path, out)
        until(moment)
        process.kill()
        process.wait()
    assert kills.finish(kills.start(path, out)) == 0
    assert kills.differences(out, expected) == []


@pytest.mark.parametrize("victim", ["Scorer", "Tally"])
def test_a_killed_worker_costs_nothing(undisturbed, tmp_path, victim):
    path, expected = undisturbed
    process = kills.start(path, tmp_path / "out")
    until(lambda: len(RunFolder(str(tmp_path / "out")).parts(CHECKPOINT)) > 1)
    found = {pid: title for pid, title in kills.workers(process.pid).items() if victim in title}
    os.kill(min(found), signal.SIGKILL)
    assert kills.finish(process) == 0
    assert kills.differences(tmp_path / "out", expected) == []
    counted = counts(tmp_path / "out")
    assert all(rows >= 108 for rows, _ in counted.values())
    if victim == "Tally":  # which knows what it was told before it died; a scorer's block may be done twice
        assert counted == counts(expected)


def counts(out):
    """Rows and tokens of each model in a manifest."""
    models = RunFolder(str(out)).manifest["stages"]["score"]["models"]
    return {model: (facts["rows"], facts["tokens"]) for model, facts in models.items()}


@pytest.mark.slow
def test_where_every_row_is_done_no_model_is_loaded(undisturbed, tmp_path):
    path, expected = undisturbed
    out = RunFolder(str(tmp_path / "out"))
    shutil.copytree(expected, tmp_path / "out")
    done = out.dataset("trajectories").to_table(columns=["trajectory_id"])
    out.write(CHECKPOINT, out.parts("logprobs")[0].rpartition("/")[2].rpartition("-")[0], done)
    for part in out.parts("logprobs")[1:]:
        stem = Path(part).stem.rpartition("-")[0]
        out.write(CHECKPOINT, stem, done.slice(0, 0))
    manifest = out.manifest
    manifest["stages"]["score"]["done"] = False
    out.write_json("manifest.json", manifest)
    with shared_ray.another():
        stages.ingest_and_score(config.load(path, [f"output={tmp_path / 'out'}"]), print)
    facts = out.manifest["stages"]["score"]
    assert (facts["done_before"], facts["models"]["policy"]["actors"]) == (N, [])


@pytest.mark.slow
def test_rows_that_kill_raise_or_give_no_number_are_rejects(undisturbed, tmp_path):
    path, expected = undisturbed
    rows = kills.table(expected, "logprobs", ["trajectory_id", "token_ids"])
    # The workers know rows by their lengths: those of which there is one.
    lengths = sequence_lengths(path, expected)
    rare = sorted({n for n in lengths.values() if list(lengths.values()).count(n) == 1})[:3]
    assert len(rare) == 3
    killer, raiser, giver = (next(i for i, n in lengths.items() if n == rare[k]) for k in range(3))
    names = dict(zip(("KILLER", "RAISER", "GIVER_OF_NAN"), map(str, rare), strict=True))
    said = {row["trajectory_id"]: row["messages"][0]["content"] for row in kills.table(expected, "trajectories")}
    unread = max((i for i in lengths if i not in (killer, raiser, giver)), key=lambda i: len(said[i]))
    assert sum(said[unread] in text for text in said.values()) == 1
    names["TOKENIZER_KILLER"] = said[unread]
    with shared_ray.another(runtime_env=broken.workers(broken.break_the_engine, **names)):
        stages.ingest_and_score(config.load(path, [f"output={tmp_path / 'out'}"]), print)
    rejects = {row["trajectory_id"]: row["reason"] for row in kills.table(tmp_path / "out", "rejects")}
    assert rejects[killer] == "policy: its process died 3 times of it"
    assert rejects[unread] == "its process died 3 times of it"
    assert rejects[raiser] == "policy: ValueError: no such number"
    assert rejects[giver].startswith("policy: no finite number for 1 of its ")
    scored = {row["trajectory_id"] for row in kills.table(tmp_path / "out", "logprobs", ["trajectory_id"])}
    assert scored == {row["trajectory_id"] for row in rows} - {killer, raiser, giver, unread}


def sequence_lengths(path, out):
    """Tokens of each scored trajectory."""
    from pa_dist.engine.tokens import load_tokenizer
    from pa_dist.score.rows import tokenize_rows

    loaded = config.load(path)
    table = RunFolder(str(out)).dataset("trajectories").to_table()
    tokens, _ = tokenize_rows(table, [load_tokenizer(loaded.pair.policy)], [1 << 31], "auto", 1 << 20)
    return {row["trajectory_id"]: len(row["policy_ids"]) for row in tokens.to_pylist()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "pair.policy={}",
            r"^score: .*/broken: the checkpoint lacks weights of LlamaForCausalLM, 1 in all: model.layers",
        ),
        (
            "score.attn_implementation=none-such",
            r"^score: ValueError: Specified `attn_implementation=.none-such.` is not",
        ),
    ],
)
def test_what_no_actor_can_load_ends_the_run_in_one_line(undisturbed, tmp_path, override, message):
    path, _ = undisturbed
    broken = shutil.copytree(config.load(path).pair.policy, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    # As many numbers under another name: that the model lacks them is found out by loading alone.
    tensors["another.weight"] = tensors.pop(min(name for name in tensors if "mlp" in name))
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    shared_ray.join()
    with pytest.raises(PaDistError, match=message):
        stages.run(config.load(path, [f"output={tmp_path / 'out'}", override.format(broken)]), print)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(undisturbed, tmp_path):
    path, expected = undisturbed
    marker = tmp_path / "full"
    marker.touch()
    loaded = config.load(path, [f"output={tmp_path / 'out'}"])
    with shared_ray.another(runtime_env=broken.workers(broken.break_the_disk, FULL=str(marker))):
        with pytest.raises(
            PaDistError, match=r"^score: OSError: .*No space left on device; what is scored is kept[^\n]*$"
        ):
            stages.run(loaded, print)
        marker.unlink()
        stages.run(loaded, print)
    assert kills.differences(tmp_path / "out", expected) == []


@pytest.mark.slow
def test_a_full_object_store_spills(undisturbed, tmp_path):
    path, _ = undisturbed
    file = tmp_path / "large.jsonl"
    with file.open("w") as out:
        for index in range(60):
            role = "user" if index % 4 else "assistant"
            text = "order card refund " if index % 4 == 0 else "order card refund " * 200_000
            out.write(f'{{"id": "{index}", "messages": [{{"role": "{role}", "content": "{text}"}}]}}\n')
    overrides = [f"trajectories.paths=[{file}]", f"output={tmp_path / 'out'}", "score.rows_per_block=4"]
    with shared_ray.another(object_store_memory=80 << 20):
        stages.ingest_and_score(config.load(path, overrides), print)
    folder = RunFolder(str(tmp_path / "out"))
    assert (folder.count("logprobs"), folder.count("rejects")) == (15, 45)


@pytest.mark.slow
def test_a_node_that_goes_takes_no_row_with_it(undisturbed, tmp_path):
    path, expected = undisturbed
    ray.shutdown()  # the shared one
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        nodes = [cluster.add_node(num_cpus=2, labels={"role": role}) for role in ("policy", "reference")]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        out = RunFolder(str(tmp_path / "out"))
        where = [f"score.{role}.labels={{role: {role}}}" for role in ("policy", "reference")]
        loaded = config.load(path, [f"output={out.uri}", *where])
        with pytest.raises(PaDistError, match=r"score\.policy: no node labelled role=nobody"):
            stages.ingest_and_score(
                config.load(path, [f"output={out.uri}", "score.policy.labels={role: nobody}"]), print
            )
        failures = []

        def run():
            try:
                stages.run(loaded, print)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: len(out.parts(CHECKPOINT)) > 3)
        cluster.remove_node(nodes[1], allow_graceful=False)
        another = cluster.add_node(num_cpus=2, labels={"role": "reference"})
        thread.join(200)
        assert not failures
        assert kills.differences(out.uri, expected) == []
        actors = out.manifest["stages"]["score"]["models"]
        policy, reference = ({place["node"] for place in actors[m]["actors"]} for m in ("policy", "reference"))
        assert policy == {nodes[0].node_id}
        assert reference == {another.node_id}
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_pool_grows_with_its_cluster(undisturbed, tmp_path):
    path, expected = undisturbed
    ray.shutdown()  # the shared one
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 5})
    try:
        slow = broken.workers(broken.slow_the_policy)
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=slow)
        out = RunFolder(str(tmp_path / "out"))
        more = [f"output={out.uri}", "score.rows_per_block=2", "score.policy.replicas={min: 1, max: 2}"]
        loaded, failures = config.load(path, more), []

        def run():
            try:
                stages.run(loaded, print)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: len(out.parts(CHECKPOINT)) > 1)
        added = cluster.add_node(num_cpus=2)
        thread.join(250)
        assert not failures
        assert kills.differences(out.uri, expected) == []
        models = out.manifest["stages"]["score"]["models"]
        policy, reference = ([place["node"] for place in models[m]["actors"]] for m in ("policy", "reference"))
        assert len(policy) == 2
        assert added.node_id in policy
        assert len(reference) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
