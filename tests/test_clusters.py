"""Runs that are submitted to a started cluster, write to object storage, and configs for clusters against schemas."""

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import jsonschema
import kills
import pytest
import ray
import shared_ray
import yaml
from moto.server import ThreadedMotoServer
from pyarrow import fs as pafs

from pa_dist import config, stages
from pa_dist.status import status
from pa_dist.store.folder import RunFolder

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
RAY = Path(sys.executable).parent / "ray"
N = 60


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A config file, and a run folder made by it."""
    place = tmp_path_factory.mktemp("undisturbed")
    path = kills.prepare(place, N, random.Random(1))
    shared_ray.join()
    stages.run(config.load(path), print)
    return path, place / "undisturbed"


@pytest.fixture
def bucket(monkeypatch):
    """A URI of a bucket in a local S3, with its credentials and options in it."""
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    options = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    uri = f"s3://key:not-to-be-told@bucket/%s?{options}&allow_bucket_creation=true"
    pafs.FileSystem.from_uri(uri % "")[0].create_dir("bucket")
    yield uri
    server.stop()


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until_open(port):
    end = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, f"nothing listens at {port}"
            time.sleep(0.2)


@pytest.fixture
def two_nodes():
    """A started cluster of two nodes, one with GPUs that are not there: its address for jobs, and where Prometheus
    reads each node's counters."""
    gcs, dashboard, *others = free_ports(8)
    names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    # As on nodes with pa-dist installed: a job's `python` is the one that has it.
    path = os.pathsep.join([str(RAY.parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": path}
    nodes = []

    def start(*arguments, ports):
        own = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        command = [RAY, "start", "--block", "--disable-usage-stats", *arguments, *own]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        nodes.append(subprocess.Popen(command, env=environment, start_new_session=True, **quiet))

    # A socket's path must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray", ignore_cleanup_errors=True) as place:
        try:
            head = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={place}", "--num-cpus=3"]
            start("--head", *head, "--dashboard-host=127.0.0.1", ports=others[:3])
            until_open(gcs)
            start(f"--address=127.0.0.1:{gcs}", "--num-cpus=4", "--num-gpus=4", ports=others[3:])
            until_open(dashboard)
            until_open(others[3])
            yield f"http://127.0.0.1:{dashboard}", [f"http://127.0.0.1:{port}" for port in (others[2], others[5])]
        finally:
            for node in nodes:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def test_a_submitted_job_on_two_nodes(undisturbed, two_nodes, tmp_path):
    path, expected = undisturbed
    address, metrics = two_nodes
    out = tmp_path / "out"
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ROOT, "--"]
    command += ["python", "jobs/run.py", path, f"output={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "evaluate: 54 trajectories" in done.stdout
    for noise in ("raylet", "Loading weights", "pid=", "WARNING", "it/s", "\r"):
        assert noise not in done.stdout[done.stdout.index("ingest: ") :], noise
    assert kills.differences(out, expected) == []
    assert "score: actors and GPUs of each: policy 2 x 1, reference 2 x 1, of the cluster's 4\n" in done.stdout
    models = RunFolder(str(out)).manifest["stages"]["score"]["models"]
    policy, reference = ({gpu for place in models[m]["actors"] for gpu in place["gpu_ids"]} for m in models)
    assert policy
    assert reference
    assert not policy & reference
    wanted = {
        (name, m): models[m][key] for m in models for name, key in (("trajectories", "rows"), ("tokens", "tokens"))
    }
    assert counters(metrics, wanted) == wanted


def counters(addresses, wanted):
    """What Prometheus would read of our counters, of all actors, by name and model; waits for what is wanted."""
    line = re.compile(r'^ray_pa_dist_score_(\w+?)(?:_total)?{.*model="(\w+)".*} (\S+)$', re.MULTILINE)
    end, found = time.monotonic() + 60, {}
    while time.monotonic() < end and found != wanted:
        time.sleep(0.5)
        found = dict.fromkeys(wanted, 0.0)
        for address in addresses:
            text = urllib.request.urlopen(address, timeout=10).read().decode()
            for name, model, value in line.findall(text):
                if (name, model) in found:
                    found[name, model] += float(value)
    return found


def test_a_run_on_object_storage(undisturbed, bucket, tmp_path):
    path, expected = undisturbed
    source = pafs.LocalFileSystem().open_input_stream(str(path.parent / "rollouts.jsonl"))
    filesystem, name = pafs.FileSystem.from_uri(bucket % "in/rollouts.jsonl")
    with source, filesystem.open_output_stream(name) as sink:
        sink.write(source.read())
    loaded = config.load(path, [f"output={bucket % 'run'}", f"trajectories.paths=['{bucket % 'in/'}']"])
    lines = []
    with shared_ray.another():  # whose workers know the bucket's credentials
        stages.run(loaded, lines.append)
        stages.run(loaded, lines.append)
    assert [line for line in lines if "done before" in line] == ["ingest: done before", "score: done before"]
    differing = [line for line in kills.differences(loaded.output, expected) if not line.startswith("rejects")]
    assert differing == []
    folder = RunFolder(loaded.output)
    assert status(folder)[1].startswith("score: done, 54 scored, 6 rejected")
    told = folder.read("manifest.json") + folder.read("run.log") + str(folder).encode() + "".join(lines).encode()
    assert b"not-to-be-told" not in told
    assert b"s3://bucket/run" in told


def test_the_cluster_of_aws_is_what_ray_takes():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((ROOT / "configs/clusters/aws.yaml").read_text()), schema)


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
RESOURCES = {"type": "object", "properties": {"limits": TEXTS, "requests": TEXTS}, "additionalProperties": False}
CONTAINER = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "image": {"type": "string"},
        "workingDir": {"type": "string"},
        "resources": RESOURCES,
        "envFrom": {"type": "array", "items": {"type": "object"}},
        "env": {"type": "array", "items": {**TEXTS, "required": ["name", "value"]}},
        "volumeMounts": {"type": "array", "items": {**TEXTS, "required": ["name", "mountPath"]}},
    },
    "required": ["name", "image"],
    "additionalProperties": False,
}
POD = {
    "type": "object",
    "properties": {
        "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
        "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
    "required": ["containers"],
    "additionalProperties": False,
}
TEMPLATE = {"type": "object", "properties": {"spec": POD}, "required": ["spec"], "additionalProperties": False}
COUNT = {"type": "integer", "minimum": 0}
GROUP = {
    "groupName": {"type": "string"},
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), COUNT),
    "labels": TEXTS,  # KubeRay 1.5 refuses labels among `rayStartParams`
    "rayStartParams": TEXTS,
    "template": TEMPLATE,
}
# Of KubeRay's RayJob (ray.io/v1), what ours uses.
RAY_JOB = {
    "type": "object",
    "properties": {
        "entrypoint": {"type": "string"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "backoffLimit": COUNT,
        "rayClusterSpec": {
            "type": "object",
            "properties": {
                "rayVersion": {"type": "string"},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "headGroupSpec": {
                    "type": "object",
                    "properties": {"rayStartParams": TEXTS, "template": TEMPLATE},
                    "required": ["template"],
                    "additionalProperties": False,
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {"type": "object", "properties": GROUP, "required": list(GROUP)},
                },
            },
            "required": ["headGroupSpec"],
            "additionalProperties": False,
        },
    },
    "required": ["entrypoint", "rayClusterSpec"],
    "additionalProperties": False,
}


def test_the_job_of_kuberay():
    job = yaml.safe_load((ROOT / "configs/clusters/kuberay_job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], RAY_JOB)
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "labels" not in group["rayStartParams"]
    # The entry point is a command of ours, with a config that is there and overrides that it takes.
    python, script, path, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (python, (ROOT / script).exists()) == ("python", True)
    loaded = config.load(ROOT / path, overrides)
    assert loaded.score.policy.labels == {"pa-dist/role": "policy"}
