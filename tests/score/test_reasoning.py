"""Reasoning that no rendering shows is counted, by the messages that have it."""

import pyarrow as pa
from chat_templates import save_chat_tokenizer

from pa_dist import config, schema
from pa_dist.score.reasoning import count_thoughts, left_out, lost_in_words
from pa_dist.score.templates import templates_of
from pa_dist.store.folder import RunFolder

CALLS = [{"id": None, "name": "look", "arguments": "{}"}]


def said_by(role, content, reasoning=None, calls=None):
    return {"role": role, "content": content, "reasoning": reasoning, "tool_calls": calls}


def folder(path):
    found = RunFolder(str(path))
    rows = [
        [
            said_by("user", "Hi", "not a policy's"),
            said_by("assistant", "Hello", "Hm."),
            said_by("Assistant", None, "Oh.", CALLS),
            said_by("assistant", "<think>Hm.</think>Hello", "Hm."),  # stands in the content as well
            said_by("assistant", "Bye", " "),
        ],
        None,
        [said_by("assistant", "Hello", "Hm.")],
    ]
    table = [{"trajectory_id": str(i), "messages": messages} for i, messages in enumerate(rows)]
    for part, rows in enumerate((table, [{"trajectory_id": "none", "messages": [said_by("assistant", "Hello")]}])):
        found.write("trajectories", str(part), pa.Table.from_pylist(rows, schema.TRAJECTORIES))
    return found


def test_what_a_text_leaves_out_is_counted_and_said(tmp_path):
    run = folder(tmp_path / "out")
    assert count_thoughts(run, map) == (2, 1)
    for name in ("chatml", "reasoning_key", "reasoning_of_calls"):
        save_chat_tokenizer(tmp_path / name, name)

    def found(policy, reference, **render):
        tree = {
            "trajectories": {"format": "chat", "paths": ["x"]},
            "pair": {"policy": str(tmp_path / policy), "reference": str(tmp_path / reference)},
            "render": render,
            "output": str(tmp_path / "out"),
        }
        parsed = config.parse(tree)
        return (lost := left_out(run, templates_of(parsed), map)), lost_in_words(parsed.render, lost)

    rest = "no reasoning: that of 3 messages is in no text that was scored"
    both = {"policy": 3, "reference": 3}
    assert found("chatml", "chatml") == (both, f"the plain rendering shows {rest}")
    both_said = f"the chat template of the policy and the reference shows {rest}"
    assert found("chatml", "chatml", style="chat") == (both, both_said)
    assert found("reasoning_key", "chatml", style="chat") == (
        {"reference": 3},
        f"the chat template of the reference shows {rest}",
    )
    assert found("reasoning_key", "chatml", style="chat", template_from="policy") == ({}, None)
    assert found("reasoning_of_calls", "reasoning_key", style="chat")[0] == {"policy": 2}
