"""What a word without quotes is: text where text is asked for, else by YAML 1.2."""

from pathlib import Path

import pytest
import yaml

from pa_dist.config import Config, load, yaml_text
from pa_dist.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
HEAD = "trajectories: {format: chat, paths: [a.jsonl]}\npair: demo\noutput: runs/x\n"


@pytest.fixture
def loaded(tmp_path):
    """`loaded(text, *overrides)` reads a config that goes on with these lines."""

    def load_it(text="", *overrides, head=HEAD):
        (tmp_path / "c.yaml").write_text(head + text)
        return load(tmp_path / "c.yaml", list(overrides))

    return load_it


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_what_yaml_1_1_made_of_them(path):
    assert load(path) == Config.model_validate(yaml.safe_load(path.read_text()))


# By YAML 1.1 these are false, true, null's neighbours, 7, 1000, 15, a time in sixties, a date, floats: none is text.
WORDS = "off no on yes y n True 007 1_000 0o17 0x1F 12:30:45 2024-01-01 2024-01-01T10:00:00 1.0 1e3 .5 .inf +1".split()


@pytest.mark.parametrize("word", WORDS)
def test_text_stays_as_it_was_written(word, loaded):
    text = f"name: {word}\nscore: {{policy: {{labels: {{zone: {word}, {word}: a}}}}}}\n"
    found = loaded(text, f"trajectories.domain={word}", f"trajectories.paths=[{word}]")
    assert (found.name, found.trajectories.domain, found.trajectories.paths) == (word, word, [word])
    assert found.score.policy.labels == {"zone": word, word: "a"}
    assert {type(value) for value in (found.name, *found.score.policy.labels, *found.trajectories.paths)} == {str}


def test_other_fields_are_numbers_truth_values_and_nulls(loaded):
    text = "evaluate: {within: [1, 0x2], beta: 1e-1, resamples: 1_000}\nmerge: {method: ties, alphas: [0, .5, 1]}\n"
    found = loaded(f"name: ~\n{text}", "score.prefix_sharing=off", "trajectories.limit=0o17", "ray.check_resources=no")
    assert (found.name, found.score.prefix_sharing, found.trajectories.limit) == (None, "off", 15)
    assert (found.evaluate.within, found.evaluate.beta, found.evaluate.resamples) == ([1, 2], 0.1, 1000)
    assert found.merge.alphas == [0.0, 0.5, 1.0]
    assert found.ray.check_resources is False
    assert loaded("name: x\n", "name=null").name is None


def test_options_of_any_type_go_by_yaml_1_2(loaded):
    options = "{a: true, b: 010, c: 1e3, d: ~, e: 2024-01-01, f: [1, {g: '2'}], 3: 12:30}"
    found = loaded(f"render: {{template_options: {options}}}\n", "render.template_options.h=-4").render.template_options
    assert found == {
        "a": True,
        "b": 10,
        "c": 1000.0,
        "d": None,
        "e": "2024-01-01",
        "f": [1, {"g": "2"}],
        "3": "12:30",
    } | {"h": -4}
    # As text it would count as true.
    with pytest.raises(ConfigError, match=r"^render: template_options: write true or false, or put 'off' in quotes"):
        loaded("", "render.template_options.enable_thinking=off")
    assert loaded("", "render.template_options.x='off'").render.template_options == {"x": "off"}


@pytest.mark.parametrize("text", ["runs/a #2", "a: b", "*x", "&x", "!x", "%x", "@x", "`x`", "#x", "- x", "? x", "x\ny"])
def test_an_override_is_no_comment_alias_or_mapping(text, loaded):
    assert loaded("", f"name={text}").name == text


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("score: {}\nscore: {top_k: 3}\n", "name=x", r"c\.yaml: key 'score' is there twice, in lines 4 and 5"),
        ("", "score={top_k: 1, top_k: 2}", "score: key 'top_k' is there twice, in lines 1 and 1"),
        ("", "score.policy.labels={1: a, '1': b}", "score.policy.labels: key '1' is there twice"),
        ("name: &a [*a]\n", "name=x", "c.yaml: an alias that stands for what it is part of"),
        ("", "trajectories.limit=true", "trajectories.limit: Input should be a valid integer, .*, got 'true'"),
        ("", "ray.check_resources=maybe", "ray.check_resources: Input should be a valid boolean, .*, got 'maybe'"),
        ("", "score.policy.labels={zone: ~}", "score.policy.labels.zone: Input should be a valid string"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text, override, message, loaded):
    with pytest.raises(ConfigError, match=message) as caught:
        loaded(text, override)
    assert "\n" not in str(caught.value)


def test_anchors_and_merge_keys(loaded):
    text = (
        "score:\n  policy: &pool {replicas: 2, labels: {zone: 1}}\n  reference: {<<: *pool, replicas: 3}\n"
        "evaluate: {<<: [{seed: 1}, {seed: 2, beta: 2}]}\n"
    )
    found = loaded(text)
    assert (found.score.policy.replicas, found.score.reference.replicas) == (2, 3)
    assert found.score.reference.labels == {"zone": "1"}
    assert (found.evaluate.seed, found.evaluate.beta) == (1, 2)


@pytest.mark.parametrize("line", ["a{n}: &a{n} [{many}]", "a{n}: &a{n} {{<<: [{many}]}}"])
def test_aliases_that_stand_for_billions_are_refused(line, loaded):
    lines = ["a0: &a0 {x: y}"] + [line.format(n=n, many=", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 10)]
    with pytest.raises(ConfigError, match=r"c\.yaml: aliases that stand for more than 100,000 values"):
        loaded("\n".join(lines))


def test_a_long_list_is_no_such_thing(loaded, monkeypatch):
    monkeypatch.setattr(yaml_text, "MOST_VALUES", 100)
    paths = "[" + ", ".join(f"{n}.jsonl" for n in range(200)) + "]"
    assert len(loaded(head=HEAD.replace("[a.jsonl]", paths)).trajectories.paths) == 200
