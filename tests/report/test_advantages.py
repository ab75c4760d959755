"""Advantages a row a token and a row a step, against plain loops over `logprobs`."""

from collections import Counter

import pyarrow as pa
import pytest
from small_run import rows, write_run
from tiny_models import save_tokenizer

import pa_dist
from pa_dist import schema
from pa_dist.api import Run
from pa_dist.errors import RunFolderError
from pa_dist.reduce.block.methods import OTHER_TOKENS
from pa_dist.report.advantages import token_advantages
from pa_dist.report.facts import in_short
from pa_dist.report.viewer.token_text import TokenText
from pa_dist.runtime.targets import reference_target
from pa_dist.store.folder import RunFolder

DPO = reference_target("dpo")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("models") / "policy", bos=True)


@pytest.fixture
def folder(tmp_path, tokenizer):
    policy = tmp_path / "policy"
    tokenizer.save_pretrained(policy)
    return write_run(str(tmp_path / "run"), rows(), tokenizer, str(policy))


def rewritten(folder, change):
    """The run with other log-probs, each row a file of its own; `change` alters rows in place."""
    logprobs = folder.dataset("logprobs").to_table().to_pylist()
    change(logprobs)
    folder.clear("logprobs")
    for i, row in enumerate(logprobs):
        folder.write("logprobs", f"part-{i:05d}", pa.Table.from_pylist([row], schema.LOGPROBS))
    return logprobs


def plainly(row, beta, text):
    """The tokens of one row of `logprobs`, by hand."""
    found, before = [], 0
    for number, (step, ids) in enumerate(zip(row["step"], row["token_ids"], strict=True), 1):
        texts = [said for piece in text.cut(ids) for said in (piece.text, *[""] * (piece.n_tokens - 1))]
        for place, token in enumerate(ids):
            policy, reference = row["policy_logprob"][number - 1][place], row["reference_logprob"][number - 1][place]
            where = (row["trajectory_id"], step, number, place, before + place)
            found.append((*where, token, texts[place], policy, reference, beta * (policy - reference), None))
        before += len(ids)
    return found


def test_a_row_a_token(folder, tokenizer):
    run, text = Run(folder), TokenText(tokenizer)
    folder.start("evaluate", {"evaluate": {"beta": 0.5}})
    folder.finish("evaluate")
    expected = [of for row in run.arrow("logprobs").to_pylist() for of in plainly(row, 0.5, text)]
    found = run.advantages()
    assert [tuple(row.values()) for row in found.to_pylist()] == expected
    # Of an action the texts are what it says, though some characters are spread over tokens.
    last = [row for row in found.to_pylist() if (row["trajectory_id"], row["number"]) == ("run-1-1", 2)]
    assert "".join(row["text"] for row in last) == "\n[assistant]: It has shipped – çà, 中文 😀 1."
    assert any(row["text"] == "" for row in last)
    assert run.pandas("token_advantages")["advantage"].tolist() == found["advantage"].to_pylist()
    assert run.polars("token_advantages", trajectories=["run-1-1"])["text"].to_list()[-len(last) :] == [
        row["text"] for row in last
    ]


def test_a_row_a_step_is_that_of_steps(folder):
    run = Run(folder)
    found, steps = run.advantages("step"), run.arrow("steps")
    kept = ["trajectory_id", "step", "agent", "n_tokens", "truncated", "label", "reason"]
    assert found.select(kept).equals(steps.select(kept))
    for name, of in (("advantage", "mean"), ("advantage_sum", "sum")):
        assert found[name].equals(steps[f"progress_advantage__{of}"])
    counted = Counter()
    for key, number in zip(found["trajectory_id"].to_pylist(), found["number"].to_pylist(), strict=True):
        counted[key] += 1
        assert number == counted[key]
    tokens = run.pandas("token_advantages").groupby(["trajectory_id", "step"])["advantage"]
    by_step = run.pandas("step_advantages").set_index(["trajectory_id", "step"])
    assert tokens.mean().to_dict() == pytest.approx(by_step["advantage"].to_dict(), abs=1e-6)
    assert tokens.sum().to_dict() == pytest.approx(by_step["advantage_sum"].to_dict(), abs=1e-5)


def test_of_some_trajectories_no_other_file_is_read(folder, monkeypatch):
    rewritten(folder, lambda logprobs: None)
    whole, read = token_advantages(folder).to_pylist(), []
    files = RunFolder.files

    def counted(self, paths, schema=None):
        if schema is None:  # the index has one, of ids alone
            read.extend(paths)
        return files(self, paths, schema)

    monkeypatch.setattr(RunFolder, "files", counted)
    run, some = Run(folder), ["run-2-3", "run-0-1"]
    found = run.advantages(trajectories=some).to_pylist()
    assert found == [row for row in whole if row["trajectory_id"] in some]
    assert len(read) == len(some)
    steps = run.arrow("step_advantages", trajectories=some)
    assert (steps["trajectory_id"].to_pylist(), steps["number"].to_pylist()) == (
        ["run-0-1"] * 2 + ["run-2-3"] * 2,
        [1, 2, 1, 2],
    )
    assert run.arrow("scores", trajectories="run-2-3")["trajectory_id"].to_pylist() == ["run-2-3"]
    assert run.advantages(trajectories=[]).num_rows == run.advantages("step", trajectories=[]).num_rows == 0


def test_what_is_missing_is_null_with_the_reason(folder):
    def change(logprobs):
        logprobs[0]["token_ids_reference"] = [[1]] * 2  # other tokens, of one action as many as the policy's
        logprobs[0]["reference_logprob"] = [[-1.0], [-1.0] * len(logprobs[0]["token_ids"][1])]
        logprobs[1]["policy_logprob"][0] = None  # a token without any probability
        logprobs[2]["reference_logprob"][1][2] = float("nan")
        logprobs[3]["token_ids"][0] = []  # cut
        for name in ("policy_logprob", "reference_logprob"):
            logprobs[3][name][0] = []

    logprobs = rewritten(folder, change)
    found = {}
    for row in token_advantages(folder).to_pylist():
        found.setdefault((row["trajectory_id"], row["number"]), []).append(row)
    sizes = {(row["trajectory_id"], i): len(ids) for row in logprobs for i, ids in enumerate(row["token_ids"], 1)}
    assert {where: len(of) for where, of in found.items()} == {where: n for where, n in sizes.items() if n}
    for number in (1, 2):
        for row in found["run-0-0", number]:
            assert (row["advantage"], row["reference_logprob"], row["reason"]) == (None, None, OTHER_TOKENS)
            assert row["policy_logprob"] is not None
    assert {row["reason"] for row in found["run-0-1", 1]} == {"a model gives one of its tokens no probability"}
    assert {row["policy_logprob"] for row in found["run-0-1", 1]} == {None}
    assert None not in {row["reference_logprob"] for row in found["run-0-1", 1]}
    spoilt = [row["reason"] for row in found["run-0-2", 2]]
    assert spoilt == [None, None, "a log-prob is not finite", *[None] * (len(spoilt) - 3)]
    assert [row["place_of_all"] for row in found["run-0-3", 2]] == list(range(sizes["run-0-3", 2]))
    others = [row for (key, _), of in found.items() if key > "run-0-3" for row in of]
    assert all(row["reason"] is None and row["advantage"] is not None for row in others)


def test_further_references_have_columns_of_their_own(folder):
    logprobs = folder.dataset("logprobs").to_table().to_pylist()
    theirs = [{name: row[name] for name in DPO.schema.names} for row in logprobs]
    for row in theirs:
        row["reference_logprob"] = [[-0.5] * len(step) for step in row["reference_logprob"]]
    folder.write(DPO.table, "part-00000", pa.Table.from_pylist(theirs[:0:-1], DPO.schema))  # the first is lost
    record = folder.manifest["stages"]["evaluate"]
    folder.start("evaluate", record["settings"])
    folder.finish("evaluate", **{**record, "apart_of": {"dpo": 0}})
    for row in token_advantages(folder).to_pylist():
        lost = row["trajectory_id"] == logprobs[0]["trajectory_id"]
        assert row["reference_logprob@dpo"] == (None if lost else -0.5)
        assert row["advantage@dpo"] == (None if lost else row["policy_logprob"] + 0.5)
        assert row["reason@dpo"] == ("the reference did not score the trajectory; rejects say why" if lost else None)
        assert row["advantage"] is not None
    alone = token_advantages(folder, [logprobs[0]["trajectory_id"]])
    assert set(alone["advantage@dpo"].to_pylist()) == {None}


def test_without_the_tokenizer_there_are_no_texts(tmp_path, tokenizer):
    folder = write_run(str(tmp_path / "run"), rows(1, 1), tokenizer, str(tmp_path / "gone"))
    with pytest.warns(UserWarning, match="the policy's tokenizer could not be loaded: .*; `text` is null"):
        found = token_advantages(folder)
    assert set(found["text"].to_pylist()) == {None}
    assert None not in found["advantage"].to_pylist()


def test_what_cannot_be_read_is_one_line(folder, tmp_path):
    run = Run(folder)
    with pytest.raises(RunFolderError, match="trajectories: none with scored steps has the id 'run-9'"):
        run.advantages(trajectories=["run-0-0", "run-9"])
    with pytest.raises(RunFolderError, match="by: 'action' is no row; token or step"):
        run.advantages("action")
    with pytest.raises(RunFolderError, match="trajectories: metrics has no row of a trajectory alone"):
        run.arrow("metrics", trajectories=["run-0-0"])
    begun = RunFolder(str(tmp_path / "begun"))
    begun.start("score", {})
    for by in ("token", "step"):
        with pytest.raises(RunFolderError, match="nothing evaluated here yet"):
            Run(begun).advantages(by)


def test_a_run_says_what_it_is(folder):
    policy = folder.manifest["stages"]["score"]["settings"]["pair"]["policy"]
    said = f"{folder}: score, evaluate done; 12 trajectories, scored by {policy} over {policy}"
    assert repr(pa_dist.open_run(str(folder))) == f"<Run {said}>"
    folder.filesystem.create_dir(folder.path("report"))
    folder.filesystem.open_output_stream(folder.path("report", "index.html")).close()
    assert in_short(folder) == f"{said}; report {folder}/report/index.html"
    folder.start("evaluate", {})
    assert "score done" in in_short(folder)
    folder.write_json("manifest.json", [])
    assert "not of a run" in in_short(folder)
