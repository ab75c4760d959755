"""Chat logs, and with them every check of a record."""

import json

import pytest

HI = {"role": "user", "content": "hi"}


def call(**function):
    return {**HI, "tool_calls": [{"id": "c1", **function}]}


def test_all_keys(jsonl, run):
    record = {
        "id": "a/../b", "task_id": 7, "trial": 1, "reward": 1, "mistake_step": 0, "mistake_agent": "user",
        "tools": [{"type": "function"}], "benchmark": "b", "domain": "d", "behavior": "m", "messages": [HI],
        "system_message": "Be kind.", "answer": "42", "note": [1.5],
    }  # fmt: skip
    [row] = run("chat", jsonl("log.jsonl", record)).rows
    assert row == {
        "trajectory_id": "a/../b", "task_id": "7", "trial": 1, "reward": 1.0, "mistake_step": 0,
        "mistake_agent": "user", "tools": '[{"type": "function"}]', "benchmark": "b", "domain": "d", "behavior": "m",
        "system": "Be kind.", "answer": "42", "extra": '{"note": [1.5]}',
        "pair_id": None, "step_labels": None,
        "messages": [{
            "role": "user", "content": "hi", "name": None, "reasoning": None, "tool_calls": None, "tool_call_id": None,
        }],
    }  # fmt: skip


def test_only_messages(jsonl, run):
    [row] = run("chat", jsonl("log.v2.jsonl", {"messages": [HI]})).rows
    assert (row["benchmark"], row["domain"]) == ("chat", "log.v2")
    assert len(row["trajectory_id"]) == 32
    assert all(
        row[name] is None
        for name in ("task_id", "trial", "behavior", "system", "tools", "reward", "mistake_step", "answer", "extra")
    )


@pytest.mark.parametrize(
    ("given", "answer", "extra"),
    [
        ({"answer": " As it is. "}, " As it is. ", None),
        # A data set's `answer` is often the right one; what the model came to has the longer name.
        ({"answer": "gold", "final_answer": "mine"}, "mine", '{"answer": "gold"}'),
        ({"answer": "mine", "final_answer": ""}, "mine", '{"final_answer": ""}'),
        ({"final_answer": None}, None, None),
        ({"answer": 42}, "42", None),
        ({"answer": False}, "false", None),
        ({"answer": {"b": [1, None]}}, '{"b": [1, null]}', None),
    ],
)
def test_answers(jsonl, run, given, answer, extra):
    found = run("chat", jsonl("log.jsonl", {"messages": [HI], **given}))
    [row] = found.rows
    assert (row["answer"], row["extra"]) == (answer, extra)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ({"name": "f", "arguments": {"é": 1, "b": [1.0, None]}}, '{"é": 1, "b": [1.0, null]}'),
        ({"function": {"name": "f", "arguments": '{"a":  1e0}'}}, '{"a":  1e0}'),  # verbatim
        ({"function": {"name": "f", "arguments": '{"a": '}}, r'"{\"a\": "'),  # not JSON: one JSON string
        ({"function": {"name": "f", "arguments": ""}}, "{}"),  # how a call without arguments is logged
        ({"function": {"name": "f", "arguments": " \n"}}, "{}"),
        ({"function": {"name": "f", "arguments": "null"}}, "{}"),
        ({"function": {"name": "f", "arguments": None}}, "{}"),
        ({"function": {"name": "f"}}, "{}"),
        ({"name": "f"}, "{}"),
        ({"function": None, "name": "f", "arguments": {}}, "{}"),
        # No object, but what the model wrote.
        ({"function": {"name": "f", "arguments": "[1,  2]"}}, "[1,  2]"),
        ({"function": {"name": "f", "arguments": [1, None]}}, "[1, null]"),
        ({"function": {"name": "f", "arguments": "7"}}, "7"),
        ({"name": "f", "arguments": {"kept": None}}, '{"kept": null}'),  # in JSON, a null was written
        ({"name": "f", "arguments": {"big": 2**70}}, '{"big": 1180591620717411303424}'),
    ],
)
def test_tool_calls(jsonl, run, function, arguments):
    [row] = run("chat", jsonl("a.jsonl", {"messages": [call(**function)]})).rows
    assert row["messages"][0]["tool_calls"] == [{"id": "c1", "name": "f", "arguments": arguments}]
    json.loads(arguments)


def test_other_shapes_of_messages(jsonl, run):
    history = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": ""},
        {"role": "tool", "content": "x", "tool_call_id": "c1", "id": "m1"},
        {"role": "tool", "content": "x", "id": "c2"},
        {"role": "assistant", "tool_calls": []},
    ]
    [row] = run("chat", jsonl("a.jsonl", {"messages": history})).rows
    got = [(m["role"], m["name"], m["content"], m["tool_call_id"], m["tool_calls"]) for m in row["messages"]]
    assert got == [
        ("user", None, "ab", None, None),
        ("assistant", None, None, None, [{"id": None, "name": "f", "arguments": "{}"}]),
        ("function", "f", "", None, None),
        ("tool", None, "x", "c1", None),
        ("tool", None, "x", "c2", None),
        ("assistant", None, None, None, None),
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no messages"),
        ({"messages": []}, "no messages"),
        ({"messages": {"role": "user"}}, 'messages is not a list but {"role": "user"} (object)'),
        ({"messages": [HI, "hi"]}, 'messages[1] is not an object but "hi" (string)'),
        ({"messages": [HI, {"content": "hi"}]}, "messages[1] has no role"),
        ({"messages": [{"role": 3}]}, "messages[0].role is not a string but 3 (integer)"),
        ({"messages": [{"role": None}]}, "messages[0].role is not a string but null"),
        ({"messages": [{**HI, "name": 1}]}, "messages[0].name is not a string but 1 (integer)"),
        ({"messages": [{**HI, "content": 1}]}, "messages[0].content is not a string but 1 (integer)"),
        ({"messages": [{**HI, "content": {"text": "a" * 99}}]},
         'messages[0].content is not a string but {"text": "' + "a" * 30 + "... (object)"),
        ({"messages": [{**HI, "content": [{"type": "image_url"}]}]},
         "messages[0].content[0] is not a text part but 'image_url'"),
        ({"messages": [{**HI, "content": ["a"]}]}, "messages[0].content[0] is not a text part but 'a'"),
        ({"messages": [{**HI, "content": [{"type": "text"}]}]}, "messages[0].content[0].text is not a string but null"),
        ({"messages": [{**HI, "tool_call_id": 1}]}, "messages[0].tool_call_id is not a string but 1 (integer)"),
        ({"messages": [{**HI, "tool_calls": {}}]}, "messages[0].tool_calls is not a list but {} (object)"),
        ({"messages": [{**HI, "tool_calls": [1]}]}, "messages[0].tool_calls[0] is not an object but 1 (integer)"),
        ({"messages": [call(function="f")]}, 'messages[0].tool_calls[0].function is not an object but "f" (string)'),
        ({"messages": [call(function={})]}, "messages[0].tool_calls[0].name is not a string but null"),
        ({"messages": [{**HI, "tool_calls": [{"id": 1, "name": "f"}]}]},
         "messages[0].tool_calls[0].id is not a string but 1 (integer)"),
        ({"messages": [{**HI, "content": "a\ud800"}]}, "messages[0].content holds a lone surrogate (character 1)"),
        ({"messages": [call(name="f", arguments={"a": "\udfff"})]},
         "messages[0].tool_calls[0].arguments holds a lone surrogate (character 7)"),
        ({"messages": [HI], "note": "\ud800"}, "extra holds a lone surrogate (character 10)"),
        ({"messages": [HI], "id": ""}, "id is an empty string"),
        ({"messages": [HI], "id": 1.5}, "id is neither a string nor an integer but 1.5 (number)"),
        ({"messages": [HI], "id": 2.0**60}, "id is neither a string nor an integer but 1.152921504606847e+18 (number)"),
        ({"messages": [HI], "id": "\ud800"}, "id holds a lone surrogate (character 0)"),
        ({"messages": [HI], "task_id": True}, "task_id is neither a string nor an integer but true (boolean)"),
        ({"messages": [HI], "trial": "1"}, 'trial is not an integer but "1" (string)'),
        ({"messages": [HI], "trial": True}, "trial is not an integer but true (boolean)"),
        ({"messages": [HI], "trial": float("nan")}, "trial is not an integer but NaN (number)"),
        ({"messages": [HI], "trial": 2**31}, "trial is beyond 32 bits: 2147483648 (integer)"),
        ({"messages": [HI], "reward": "1.0"}, 'reward is not a number but "1.0" (string)'),
        ({"messages": [HI], "reward": [1.0]}, "reward is not a number but [1.0] (list)"),
        ({"messages": [HI], "reward": float("nan")}, "reward is not a finite number but NaN (number)"),
        ({"messages": [HI], "reward": float("-inf")}, "reward is not a finite number but -Infinity (number)"),
        ({"messages": [HI], "reward": 10**400},
         "reward is not a finite number but 1" + "0" * 39 + "... (integer)"),
        ({"messages": [HI], "mistake_step": 1}, "mistake_step 1 is outside the history of 1 messages"),
        ({"messages": [HI], "mistake_step": -1}, "mistake_step -1 is outside the history of 1 messages"),
        ({"messages": [HI], "mistake_step": 2**40}, "mistake_step is beyond 32 bits: 1099511627776 (integer)"),
        ({"messages": [HI], "mistake_step": 0.5}, "mistake_step is not an integer but 0.5 (number)"),
        ({"messages": [HI], "mistake_step": "0.0"}, 'mistake_step is not an integer but "0.0" (string)'),
        ({"messages": [HI], "mistake_agent": 1}, "mistake_agent is not a string but 1 (integer)"),
        ({"messages": [HI], "tools": "[]"}, 'tools is not a list but "[]" (string)'),
        ({"messages": [HI], "domain": 1}, "domain is not a string but 1 (integer)"),
        ([HI], 'not a JSON object but [{"role": "user", "content": "hi"}] (list)'),
    ],
)  # fmt: skip
def test_what_cannot_be_used(jsonl, run, record, reason):
    """The bad line is dropped alone, with its reason."""
    result = run("chat", jsonl("a.jsonl", {"messages": [HI], "task_id": 1}, record, {"messages": [HI], "task_id": 2}))
    assert result.rejects == [("a.jsonl", "line 2", reason)]
    assert [row["task_id"] for row in result.rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": ', "not JSON: Expecting value"),
        (b"\xff\xfe{}", "not UTF-8 (byte 0 of the record)"),
        (b'{"messages": [{"role": "caf\xe9"}]}', "not UTF-8 (byte 27 of the record)"),
        (b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"reward": ' + b"1" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_lines_that_are_not_json(put, run, line, reason):
    good = json.dumps({"messages": [HI]}).encode()
    result = run("chat", put("a.jsonl", b"\xef\xbb\xbf" + good + b"\r\n\n  \n" + line + b"\n" + good))
    assert [(place, why[: len(reason)]) for _, place, why in result.rejects] == [("line 4", reason)]
    assert result.counts.kept == 2


def test_nan_outside_labels_is_kept_as_python_writes_it(jsonl, run):
    [row] = run("chat", jsonl("a.jsonl", {"messages": [HI], "loss": float("nan")})).rows
    assert row["extra"] == '{"loss": NaN}'
