"""The whole job on Ray with tiny models: tables, counts, reruns, devices, and configs that cannot be scheduled."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import peft
import pytest
import shared_ray
import spans
import torch
import yaml
from chat_templates import save_chat_tokenizer
from tiny_models import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import pa_dist
from pa_dist import config, errors, schema, stages
from pa_dist.engine.protocol import UNREAD
from pa_dist.errors import ConfigError, PaDistError, ResourceError, RunFolderError
from pa_dist.ingest import sources
from pa_dist.ingest.stage import IngestStage
from pa_dist.render.plain import render
from pa_dist.runtime import pools, tasks
from pa_dist.store.folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def two_logical_gpus():
    with shared_ray.another(num_gpus=2):
        yield


def settings(pair, chat_file, out, **score):
    score = {"dtype": "float32", "device": "cpu", "rows_per_block": 4, "max_length": 60, **score}
    return config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "score": score,
            "evaluate": {"resamples": 50},
            "output": str(out),
        }
    )


@pytest.fixture(scope="module")
def finished(pair, chat_file, tmp_path_factory):
    loaded = settings(pair, chat_file, tmp_path_factory.mktemp("run") / "out")
    stages.run(loaded, lambda line: None)
    return loaded


def test_every_row_is_scored_or_rejected(finished):
    folder = RunFolder(finished.output)
    rejects = folder.dataset("rejects").to_table().to_pylist()
    assert folder.count("trajectories") == 13
    assert folder.count("logprobs") == folder.count("scores") == 12
    by_stage = {row["stage"]: row for row in rejects}
    assert len(rejects) == 2
    assert by_stage["ingest"]["trajectory_id"] is None
    assert by_stage["score"]["trajectory_id"] == "silent"
    assert by_stage["score"]["reason"] == "no message is an action"
    metrics = json.loads(Path(finished.output, "metrics.json").read_text())
    assert {row["scenario"] for row in metrics} == {"uq", "prefix", "best_of_n", "fa"}


@pytest.mark.parametrize("model", ["policy", "reference"])
def test_columns_equal_a_plain_pass_over_the_rendered_text(finished, pair, model):
    folder = RunFolder(finished.output)
    rows = {row["trajectory_id"]: row for row in folder.dataset("logprobs").to_table().to_pylist()}
    messages = {row["trajectory_id"]: row["messages"] for row in folder.dataset("trajectories").to_table().to_pylist()}
    tokenizer = AutoTokenizer.from_pretrained(pair[model])
    network = AutoModelForCausalLM.from_pretrained(pair[model]).eval()
    for trajectory_id, row in rows.items():
        rendered = render(messages[trajectory_id], "assistant")
        ids, spans = [tokenizer.bos_token_id], []
        for text in rendered.texts:
            piece = tokenizer.encode(text, add_special_tokens=False)
            spans.append((len(ids), len(ids) + len(piece)))
            ids += piece
        cut = max(0, len(ids) - 60)
        with torch.no_grad():
            table = network(torch.tensor([ids[cut:]])).logits[0].log_softmax(-1)
        assert row["step"] == rendered.actions
        for step, index in enumerate(rendered.actions):
            start, end = spans[index]
            expected = [table[p - 1 - cut, ids[p]].item() for p in range(max(start, cut + 1), end)]
            np.testing.assert_allclose(row[f"{model}_logprob"][step], expected, atol=1e-4)
            assert row["token_ids"][step] == ids[max(start, cut + 1) : end]
            assert row["truncated"][step] == (start < cut)


def test_what_no_method_reads_is_null_and_said(finished):
    folder = RunFolder(finished.output)
    table = folder.dataset("logprobs").to_table()
    said = folder.manifest["stages"]["score"]["reference_null_columns"]
    assert said == dict.fromkeys(schema.TOKEN_COLUMNS[1:], UNREAD)
    for name in schema.TOKEN_COLUMNS:
        assert not any(step is None for row in table[f"policy_{name}"].to_pylist() for step in row)
        assert all((step is None) == (name in said) for row in table[f"reference_{name}"].to_pylist() for step in row)


def test_spans_decode_to_what_was_said(finished):
    found = spans.check(RunFolder(finished.output))
    assert found["actions"] == found[spans.RENDERED] == found[spans.SAID] > 0
    assert found["truncated"] == 24 - found["actions"]


@pytest.mark.integration
def test_a_chat_run_scores_each_action_in_the_state_that_the_policy_was_in(tmp_path):
    """Of either model by its own template, one of which rewrites history, against a plain pass for each action."""
    names = {"policy": "drops_reasoning", "reference": "text_calls"}
    for seed, (model, name) in enumerate(names.items()):
        save_model(tmp_path / model, seed)
        save_chat_tokenizer(tmp_path / model, name)
    call = {"function": {"name": "look", "arguments": '{"id": "7"}'}}
    messages = [
        {"role": "user", "content": "Refund me"},
        {"role": "assistant", "content": "<think>Hm</think>", "tool_calls": [call]},
        {"role": "tool", "content": "shipped"},
        {"role": "assistant", "content": "<think>Late</think>No."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "It has shipped."},
    ]
    row = {"id": "a", "messages": messages, "system_message": "Be kind."}
    (tmp_path / "desk.jsonl").write_text(json.dumps(row) + "\n")
    loaded = settings({model: str(tmp_path / model) for model in names}, tmp_path / "desk.jsonl", tmp_path / "out")
    loaded = loaded.model_copy(
        update={"render": config.Render(style="chat"), "score": loaded.score.model_copy(update={"max_length": 512})}
    )
    stages.ingest_and_score(loaded, lambda line: None)

    folder = RunFolder(loaded.output)
    (found,) = folder.dataset("logprobs").to_table().to_pylist()
    assert found["step"] == [1, 3, 5]
    for model, ids_of in (("policy", "token_ids"), ("reference", "token_ids_reference")):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / model)
        network = AutoModelForCausalLM.from_pretrained(tmp_path / model).eval()
        chat = [{"role": "system", "content": "Be kind."}, *messages]
        if model == "policy":
            function = {"name": "look", "arguments": {"id": "7"}}
            chat[2] = {**chat[2], "tool_calls": [{"function": function}]}
        for action, logprobs, step in zip(found[ids_of], found[f"{model}_logprob"], found["step"], strict=True):
            prompt = tokenizer.apply_chat_template(chat[: step + 1], add_generation_prompt=True, tokenize=False)
            ids = tokenizer.encode(prompt, add_special_tokens=False)
            with torch.no_grad():
                table = network(torch.tensor([ids + action])).logits[0].log_softmax(-1)
            expected = [table[len(ids) + i - 1, token].item() for i, token in enumerate(action)]
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    checked = spans.check(folder)
    assert checked["actions"] == checked[spans.RENDERED] == checked[spans.SAID] == 3


def test_policy_and_reference_hold_different_gpus(finished):
    models = RunFolder(finished.output).manifest["stages"]["score"]["models"]
    gpus = {name: {gpu for actor in entry["actors"] for gpu in actor["gpu_ids"]} for name, entry in models.items()}
    assert gpus["policy"]
    assert gpus["reference"]
    assert not gpus["policy"] & gpus["reference"]


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(finished, pair, chat_file):
    lines = []
    stages.run(finished, lines.append)
    assert lines[:2] == ["ingest: done before", "score: done before"]
    with pytest.raises(RunFolderError, match=r"score\.max_length: 60 -> 61"):
        stages.run(settings(pair, chat_file, finished.output, max_length=61), lines.append)


def test_labels_that_come_later_are_as_good_as_those_of_the_files(finished, pair, chat_file, tmp_path):
    """By the command, with the same figures to the byte; and without them the run has its own again."""
    labels, lines, table = ("reward", "mistake_step", "mistake_agent"), [], ["id,reward,mistake_step,mistake_agent"]
    for line in chat_file.read_text().splitlines()[:-1]:
        row = json.loads(line)
        table.append(",".join(str(row.get(name, "")) for name in ("id", *labels)))
        lines.append(json.dumps({key: value for key, value in row.items() if key not in labels}))
    bare = tmp_path / chat_file.name  # whose name is the domain
    bare.write_text("\n".join(lines))
    out, file = tmp_path / "out", tmp_path / "labels.csv"
    stages.run(settings(pair, bare, out), lambda line: None)
    file.write_text("\n".join([*table, "nobody,1,,"]))
    figures = [Path(finished.output, f"{name}.json").read_bytes() for name in ("metrics", "comparisons")]
    own = [Path(out, f"{name}.json").read_bytes() for name in ("metrics", "comparisons")]

    done = command("evaluate", str(out), f"labels={file}")
    assert done.returncode == 0, done.stderr
    said = (
        "labels: 14 rows label 12 trajectories; 1 of no trajectory of this run (such as trajectory_id nobody); rejects"
    )
    assert said in done.stderr
    assert [Path(out, f"{name}.json").read_bytes() for name in ("metrics", "comparisons")] == figures != own
    tables = [RunFolder(of).dataset("scores").to_table().sort_by("trajectory_id") for of in (str(out), finished.output)]
    assert tables[0] == tables[1]
    assert "success (reward 1)" in command("show", str(out), "run-0").stdout
    # Scoring goes on as if nothing had been joined.
    again = []
    stages.run(settings(pair, bare, out), again.append)
    assert again[:2] == ["ingest: done before", "score: done before"]
    assert [Path(out, f"{name}.json").read_bytes() for name in ("metrics", "comparisons")] == own

    refused = command("evaluate", str(out), f"labels={tmp_path / 'none.csv'}")
    assert (refused.returncode, refused.stderr) == (
        2,
        f"pa-dist: evaluate.labels: nothing matches '{tmp_path / 'none.csv'}'\n",
    )


def test_rows_written_late_are_counted_once_and_lost_ones_are_noticed(finished, tmp_path):
    shutil.copytree(finished.output, tmp_path / "out")
    folder = RunFolder(str(tmp_path / "out"))
    folder.write("logprobs", "late", folder.dataset("logprobs").to_table().slice(0, 2))
    evaluated = stages.evaluate_folder(folder, finished.evaluate, lambda line: None, finished.ray)
    assert evaluated.trajectories == folder.count("logprobs") == 12
    folder.filesystem.delete_file(folder.parts("logprobs")[0])
    with pytest.raises(
        RunFolderError, match=r"logprobs and rejects hold \d+ trajectories and scoring left 13; --fresh"
    ):
        stages.evaluate_folder(folder, finished.evaluate, lambda line: None, finished.ray)


def test_a_table_that_lost_rows_is_no_finished_ingest(finished, tmp_path):
    shutil.copytree(finished.output, tmp_path / "out")
    folder = RunFolder(str(tmp_path / "out"))
    folder.clear("trajectories")
    with pytest.raises(RunFolderError, match="trajectories holds 0 rows and ingest left 13; --fresh starts over"):
        stages.ingest_files(finished.trajectories, folder, lambda line: None, finished.ray)


def test_what_a_run_did_not_make_is_not_touched(finished, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").touch()
    loaded = finished.model_copy(update={"output": str(tmp_path)})
    for fresh in (False, True):
        with pytest.raises(RunFolderError, match="holds 'checkpoint' and is no run folder; take another output"):
            stages.run(loaded, lambda line: None, fresh=fresh)
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


@pytest.mark.integration
def test_a_run_that_scores_nothing_ends_in_an_error(finished, pair, tmp_path):
    file = tmp_path / "silent.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "Anyone?"}]}\n')
    loaded = settings(pair, file, tmp_path / "out")
    for _ in range(2):
        with pytest.raises(PaDistError, match="no trajectory could be scored; of 1 rejects, 1: no message is an act"):
            stages.run(loaded, lambda line: None)
    assert "ended: score: no trajectory" in (tmp_path / "out" / "run.log").read_text()


def test_a_task_that_dies_is_one_line():
    with pytest.raises(PaDistError, match="the same command goes on"):
        list(tasks.map_tasks(os._exit, [1]))


PINNED = """
import sys
from pa_dist.config import Pair
from pa_dist.score.check import pinned_pair
from pa_dist.models.loaded import vocabulary
hub = Pair(policy=sys.argv[1], reference="org/model")
vocabulary(hub, "reference")
pair = pinned_pair(hub, {"reference": sys.argv[2]} if len(sys.argv) > 2 else {})
print(pair.policy_revision, pair.reference_revision)
"""


@pytest.mark.integration
def test_a_run_goes_on_with_the_commits_it_began_with(pair, tmp_path):
    """A model on the Hub, as far as it lies in this machine's cache."""
    model, old, new = tmp_path / "hub" / "models--org--model", "a" * 40, "b" * 40
    for commit in (old, new):
        (model / "snapshots" / commit).mkdir(parents=True)
        shutil.copy(Path(pair["policy"], "config.json"), model / "snapshots" / commit)
    (model / "refs").mkdir()

    def commits(now, *arguments):
        (model / "refs" / "main").write_text(now)
        command = [sys.executable, "-c", PINNED, pair["policy"], *arguments]
        environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert commits(now=old) == ["None", old]
    assert commits(new, old) == ["None", old]


@pytest.mark.integration
def test_fractions_of_one_gpu_hold_both_models(pair, chat_file, tmp_path):
    half = {"num_gpus": 0.5}
    stages.ingest_and_score(settings(pair, chat_file, tmp_path, policy=half, reference=half), lambda line: None)
    assert RunFolder(str(tmp_path)).count("logprobs") == 12


@pytest.mark.integration
def test_a_model_in_two_processes_of_an_actor_is_scored_and_its_noise_measured(finished, pair, chat_file, tmp_path):
    spread = {"tensor_parallel_size": 2, "num_gpus": 0}
    pools = {"policy": spread, "reference": {"num_gpus": 0}}
    stages.ingest_and_score(settings(pair, chat_file, tmp_path, dtype="bfloat16", **pools), lambda line: None)
    folder = RunFolder(str(tmp_path))
    stage = folder.manifest["stages"]["score"]
    (place,) = stage["models"]["policy"]["actors"]
    assert (place["tensor_parallel_size"], place["dtype"], place["prefixes_apart"]) == (2, "bfloat16", None)
    assert "tensor_parallel_size" not in stage["models"]["reference"]["actors"][0]
    assert stage["noise"]["rows"] == 4
    assert 0 < stage["noise"]["error"] < 0.01
    plain, rounded = (
        {row["trajectory_id"]: row["policy_logprob"] for row in run.dataset("logprobs").to_table().to_pylist()}
        for run in (RunFolder(finished.output), folder)
    )
    assert plain.keys() == rounded.keys()
    for key, steps in plain.items():
        for exact, step in zip(steps, rounded[key], strict=True):
            np.testing.assert_allclose(step, exact, atol=0.05)


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
def test_a_gpu_that_torch_cannot_use_is_one_line_and_no_run_on_the_cpu(pair, chat_file, tmp_path):
    lines = r"^score: a GPU was assigned on \S+, and torch \S+ there finds no CUDA; .*device=cpu[^\n]*$"
    with pytest.raises(PaDistError, match=lines):
        stages.ingest_and_score(settings(pair, chat_file, tmp_path, device=None), print)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"num_gpus": 3}, r"num_gpus.*policy 1 x 3 \+ reference 1 x 1 = 4 GPUs, the cluster has 2"),
        ({"num_gpus": 0, "num_cpus": 9}, r"num_cpus.* = 13 CPUs, the cluster has 6"),
    ],
)
def test_impossible_requests_are_refused_at_once(pair, chat_file, tmp_path, pool, message):
    began = time.monotonic()
    with pytest.raises(ResourceError, match=message):
        stages.ingest_and_score(
            settings(pair, chat_file, tmp_path, policy=pool, reference={"num_gpus": 1}), lambda line: None
        )
    assert time.monotonic() - began < 60


def test_a_model_does_not_end_on_the_cpu_because_the_other_took_every_gpu(pair, chat_file, tmp_path):
    with pytest.raises(ResourceError, match="one takes every GPU"):
        stages.ingest_and_score(settings(pair, chat_file, tmp_path, policy={"num_gpus": 2}), lambda line: None)


def test_a_changed_file_of_the_same_size_is_noticed(finished, pair, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"reward": 0.0}')
    before = IngestStage(RunFolder(str(tmp_path)), settings(pair, file, tmp_path).trajectories).settings()
    file.write_text('{"reward": 1.0}')
    os.utime(file, (0, 0))
    assert IngestStage(RunFolder(str(tmp_path)), settings(pair, file, tmp_path).trajectories).settings() != before


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:se/cr@et@bucket/run?region=x", "s3://bucket/run"),
        ("hf://datasets/org/name@main/a.jsonl", "hf://datasets/org/name@main/a.jsonl"),
        ("https://token@host/a.json?signature=x", "https://host/a.json"),
        ("/plain/a?b", "/plain/a?b"),
    ],
)
def test_credentials_are_not_shown(uri, shown):
    assert errors.shown(uri) == shown
    with pytest.raises(ConfigError) as found:
        sources.expand([uri.replace("s3", "nothing").replace("hf", "nothing")])
    assert "se/cr@et" not in str(found.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        '{"name": "an app"}',
        '{"a":' * 9000,
        '{"schema_version": 1, "stages": {}}',
        f'{{"schema_version": {schema.SCHEMA_VERSION}}}',
        f'{{"schema_version": {schema.SCHEMA_VERSION}, "stages": {{"score": null}}}}',
        f'{{"schema_version": {schema.SCHEMA_VERSION}, "stages": {{}}, "config": null}}',
    ],
    ids=range(9),
)
def test_a_manifest_that_lost_its_content_is_no_new_run(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"manifest\.json|schema version 1"):
        _ = RunFolder(str(tmp_path)).manifest


def test_where_nodes_are_to_come_gpus_are_named(pair, chat_file, tmp_path):
    loaded = settings(pair, chat_file, tmp_path)
    loaded = loaded.model_copy(update={"ray": config.Ray(check_resources=False)})
    with pytest.raises(ResourceError, match=r"score\.policy\.num_gpus, score\.policy\.replicas: with ray\.check_res"):
        stages.ingest_and_score(loaded, lambda line: None)


@pytest.mark.parametrize(
    ("gpus", "actors", "share"), [(2, 2, 1.0), (1, 2, 0.5), (8, 2, 1.0), (2, 3, 0.5), (0, 2, 0.0), (0.5, 2, 0.25)]
)
def test_gpus_are_shared_out(gpus, actors, share):
    assert pools._share(gpus, actors) == share


@pytest.mark.integration
def test_a_pair_of_the_hub_is_the_same_run_when_its_name_comes_to_mean_other_weights(pair, chat_file, tmp_path):
    """As far as it lies in this machine's cache: the same command goes on, and with the commit that it began with."""
    model, out = tmp_path / "hub" / "models--org--model", RunFolder(str(tmp_path / "out"))
    commits = {"a" * 40: pair["reference"], "b" * 40: pair["policy"]}
    for commit, folder in commits.items():
        shutil.copytree(folder, model / "snapshots" / commit)
    (model / "refs").mkdir()
    loaded = settings({"policy": pair["policy"], "reference": "org/model"}, chat_file, out.uri)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(loaded.model_dump(mode="json")))

    def scored(now):
        (model / "refs" / "main").write_text(now)
        environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "pa_dist", "score", str(tmp_path / "c.yaml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert out.manifest["stages"]["score"]["commits"]["reference"] == "a" * 40
        columns = ["trajectory_id", "reference_logprob"]
        return done.stderr, out.dataset("logprobs").to_table(columns=columns).sort_by("trajectory_id")

    _, first = scored("a" * 40)
    said, _ = scored("b" * 40)
    assert "score: done before" in said
    # As of a run that was killed.
    manifest = out.manifest
    manifest["stages"]["score"]["done"] = False
    out.write_json("manifest.json", manifest)
    out.clear("logprobs")
    _, again = scored("b" * 40)
    for was, is_now in zip(first.to_pylist(), again.to_pylist(), strict=True):
        np.testing.assert_allclose(
            np.concatenate(is_now["reference_logprob"]), np.concatenate(was["reference_logprob"]), atol=1e-5
        )


def test_tasks_come_back_in_order():
    assert list(tasks.map_tasks(lambda x: x * x, range(40))) == [x * x for x in range(40)]


def command(*args):
    return subprocess.run([sys.executable, "-m", "pa_dist", *args], capture_output=True, text=True, timeout=120)


@pytest.mark.integration
def test_gpus_that_are_not_there_are_one_line_and_not_a_hang(pair, chat_file, tmp_path):
    path = tmp_path / "c.yaml"
    loaded = settings(pair, chat_file, tmp_path / "out", policy={"num_gpus": 1e6})
    path.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    done = command("run", str(path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pa-dist: score.policy.num_gpus, score.reference.num_gpus: policy")
    assert not any("Traceback" in line for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("lacking", "message"),
    [("*", "the folder is empty"), ("tokenizer*", "its tokenizer cannot be used"), ("*.safetensors", "no weights")],
)
def test_a_model_that_is_not_there_is_one_line_before_anything_starts(pair, chat_file, tmp_path, lacking, message):
    broken = shutil.copytree(pair["policy"], tmp_path / "model", ignore=shutil.ignore_patterns(lacking))
    with pytest.raises(ConfigError, match=rf"^pair\.reference: '{broken}': {message}.*$"):
        stages.run(settings({**pair, "reference": str(broken)}, chat_file, tmp_path / "out"), print)
    assert not (tmp_path / "out" / "trajectories").exists()


def test_help_loads_neither_torch_nor_ray():
    code = (
        "import sys; from pa_dist import cli; print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert "evaluate" in command("--help").stdout


def test_versions_and_tracebacks_are_there_for_those_who_ask():
    assert f"pa-dist {pa_dist.__version__}\n" in command("--version").stdout
    for arguments in (["--debug", "run", "none.yaml"], ["run", "none.yaml", "--debug"]):
        told = command(*arguments).stderr.splitlines()
        assert told[0] == "Traceback (most recent call last):"
        assert told[-1] == "pa-dist: none.yaml: No such file or directory"


def test_a_mistake_in_a_config_is_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        yaml.safe_dump({"trajectories": {"format": "chat", "paths": ["x"]}, "pair": "qwen3-14", "output": "o"})
    )
    done = command("run", str(path))
    assert done.returncode == 2
    assert (
        done.stderr == "pa-dist: pair: unknown pair 'qwen3-14'; did you mean 'qwen3-14b'?; `pa-dist pairs` lists them\n"
    )


@pytest.mark.integration
def test_an_adapter_is_scored_beside_its_base(pair, chat_file, tmp_path):
    """Against the weights with the adapter in them; both models are one actor's."""
    base, adapter, whole = pair["reference"], str(tmp_path / "adapter"), tmp_path / "whole"
    torch.manual_seed(3)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(whole)
    AutoTokenizer.from_pretrained(base).save_pretrained(whole)
    lines = []
    runs = [
        settings({"policy": {"model": base, "adapter": adapter}, "reference": base}, chat_file, tmp_path / "one"),
        settings({"policy": str(whole), "reference": base}, chat_file, tmp_path / "two"),
    ]
    for loaded in runs:
        stages.ingest_and_score(loaded, lines.append)
    one, two = (RunFolder(loaded.output) for loaded in runs)
    ours, theirs = ({r["trajectory_id"]: r for r in x.dataset("logprobs").to_table().to_pylist()} for x in (one, two))
    assert ours.keys() == theirs.keys()
    for name in ("policy_logprob", "policy_entropy", "reference_logprob"):
        for key, row in theirs.items():
            for a, b in zip(ours[key][name], row[name], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)
    record = one.manifest["stages"]["score"]
    assert record["settings"]["weights"].keys() == {"policy", "reference", "policy_adapter"}
    assert record["models"]["policy"]["rows"] == record["models"]["reference"]["rows"] == 12
    actors = [{(place["node"], place["pid"]) for place in did["actors"]} for did in record["models"].values()]
    assert actors[0] == actors[1]
    assert any(line.startswith("score: actors and GPUs of each: policy 2 x 1, of the cluster's 2") for line in lines)
    torch.manual_seed(4)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(adapter)
    with pytest.raises(RunFolderError, match="policy_adapter"):
        stages.ingest_and_score(runs[0], lines.append)
