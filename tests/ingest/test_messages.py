"""Reasoning under its many names, and the count of what a message holds besides."""

import pytest

from pa_dist.ingest.left_behind import MOST_KEYS, OTHERS, KeyCounts, in_words

SAYS = {"role": "assistant", "content": "yo"}


@pytest.mark.parametrize(
    ("message", "content", "reasoning"),
    [
        ({"content": "yo", "reasoning_content": "hm"}, "yo", "hm"),
        ({"content": None, "reasoning": "hm"}, None, "hm"),
        ({"content": "yo", "thinking": "hm"}, "yo", "hm"),
        ({"content": "yo", "reasoning_content": " \n"}, "yo", None),
        ({"content": "yo", "reasoning_content": None, "reasoning": ""}, "yo", None),
        # OpenRouter: the text, and the same in parts.
        ({"content": "yo", "reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0},
                                                 {"type": "reasoning.text", "text": "m"}]}, "yo", "h\nm"),
        ({"content": "yo", "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}, "yo", "hm"),
        # Parts of the content: inspect_ai's, Anthropic's, Mistral's.
        ({"content": [{"type": "reasoning", "reasoning": "h"}, {"type": "reasoning", "reasoning": "m"},
                      {"type": "text", "text": "yo"}]}, "yo", "h\nm"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yo"}]}, "yo", "hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "", "hm"),
    ],
)  # fmt: skip
def test_reasoning(jsonl, run, message, content, reasoning):
    result = run("chat", jsonl("a.jsonl", {"messages": [{"role": "assistant", **message}]}))
    [read] = result.rows[0]["messages"]
    assert (read["content"], read["reasoning"]) == (content, reasoning)
    assert result.counts.left_behind == {}


@pytest.mark.parametrize(
    ("message", "reasoning", "left"),
    [
        # Two that say the same, and two that do not: the first is taken, the other said to be left.
        ({"reasoning_content": "h m", "reasoning": "h\nm"}, "h m", {}),
        ({"reasoning_content": "hm", "reasoning": "so"}, "hm", {"reasoning": 1}),
        # No text that the model thought.
        ({"reasoning": {"effort": "high"}}, None, {"reasoning": 1}),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "xx"}]}, None, {"reasoning_details.data": 1}),
        ({"content": [{"type": "reasoning", "reasoning": "xx", "redacted": True}]}, None,
         {"content.reasoning": 1, "content.redacted": 1}),
        ({"content": [{"type": "redacted_thinking", "data": "xx"}]}, None, {"content.data": 1}),
        ({"content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}, "hm", {"content.signature": 1}),
        ({"content": [{"type": "text", "text": "yo"}, {"type": "thinking", "thinking": "hm"}]}, "hm",
         {"content: reasoning behind text, now before it": 1}),
    ],
)  # fmt: skip
def test_what_is_left_of_reasoning(jsonl, run, message, reasoning, left):
    result = run("chat", jsonl("a.jsonl", {"messages": [{**SAYS, **message}]}))
    assert result.rows[0]["messages"][0]["reasoning"] == reasoning
    assert result.counts.left_behind == left


def test_what_messages_hold_besides_is_counted_and_nothing_is_not(jsonl, run):
    call = {"id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}", "strict": True}}
    messages = [
        {**SAYS, "audio": {"id": "a"}, "refusal": None, "annotations": [], "provider": {"x": [None, ""]}},
        {**SAYS, "audio": {"id": "b"}, "tool_calls": [call], "function_call": None},
        {"role": "tool", "content": [{"type": "text", "text": "x", "cache_control": {"type": "e"}}], "id": "c"},
        {"role": "user", "content": "hi", "id": "m1", "a\x1b\u202e": 1},
    ]
    counts = run("chat", jsonl("a.jsonl", {"messages": messages, "success": True, "note": None})).counts
    assert counts.left_behind == {
        "audio": 2,
        '"a\\u001b\\u202e"': 1,
        "content.cache_control": 1,
        "id": 1,
        "tool_calls.function.strict": 1,
        "tool_calls.index": 1,
    }
    assert counts.unread == {"success": 1}


def test_rejected_records_are_not_counted_and_files_are_counted_together(jsonl, run, tmp_path):
    jsonl("a.jsonl", {"messages": [{**SAYS, "cost": 1}]}, {"messages": [{**SAYS, "cost": 1, "name": 3}]})
    jsonl("b.jsonl", {"messages": [{**SAYS, "cost": 1}]})
    assert run("chat", tmp_path / "data").counts.left_behind == {"cost": 2}


def test_keys_without_end_are_bounded():
    tally = KeyCounts()
    for i in range(1000):
        tally.add({f"{i:04d}" + "x" * 10_000: 1})
    assert len(tally.counts) == MOST_KEYS + 1
    assert max(map(len, tally.counts)) < 80
    assert tally.sorted[OTHERS] == 1000 - MOST_KEYS
    assert in_words({"audio": 1200, "b": 2, "c": 1}, most=2) == "audio 1,200, b 2 and 1 more key"
    assert in_words({"audio": 1}) == "audio 1"
