"""Nulls that pad: rows of a column of structs that were written as JSON, as datasets and frames write them."""

import copy

import pytest

from pa_dist.ingest.padding import unpad_arguments, unpadded_tools


def history(*arguments):
    """A user's word, an answer with a call for each, and a last word; every message with every key."""
    calls = [{"id": f"c{i}", "function": {"name": f"f{i}", "arguments": of}} for i, of in enumerate(arguments)]
    said = [("user", "Go", None), ("assistant", None, calls), ("assistant", "Done", None)]
    return [dict(zip(("role", "content", "tool_calls"), of, strict=True)) for of in said]


def arguments(messages):
    return [call["function"]["arguments"] for call in messages[1]["tool_calls"]]


PADDED = [{"number": 7, "day": None, "to": {"shop": None, "at": [None]}}, {"number": None, "day": "Mon", "to": None}]


def test_rows_of_a_column_lose_their_nulls_and_say_how_many(jsonl, run):
    given = history(*PADDED, {"number": 1, "day": "Tue", "to": {}})
    messages = copy.deepcopy(given)
    assert unpad_arguments(messages) == 2
    assert arguments(messages) == [
        {"number": 7, "to": {"at": [None]}},
        {"day": "Mon"},
        {"number": 1, "day": "Tue", "to": {}},
    ]
    found = run("chat", jsonl("log.jsonl", {"messages": given}))
    assert [call["arguments"] for call in found.rows[0]["messages"][1]["tool_calls"]][1] == '{"day": "Mon"}'
    assert found.counts.left_behind == {"tool_calls.function.arguments: nulls of padding": 2}


@pytest.mark.parametrize(
    "messages",
    [
        # The answer alone has calls, as those who write messages one by one leave the key out of the others.
        [{"role": "user", "content": "Go"}, *history(*PADDED)[1:]],
        # Arguments of two tools with keys of their own.
        history({"number": None}, {"day": None}),
        # Nothing that is null in one and not in another.
        [history({"number": None})[1]],
        history('{"number": null}'),
        "no list",
        [None],
        [],
    ],
)
def test_nulls_that_were_written_stay(messages):
    kept = copy.deepcopy(messages)
    assert unpad_arguments(messages) == 0
    assert messages == kept


def test_a_parameter_that_is_null_pads_the_schemas():
    def tools(**properties):
        parameters = {"type": "object", "properties": properties}
        return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]

    day = {"type": "string", "default": None}
    assert unpadded_tools(tools(day=day)) == tools(day=day)
    assert unpadded_tools(tools(day=day, number=None)) == tools(day={"type": "string"})
    bare = [{"name": "f", "parameters": {"properties": {"a": None}}}]
    assert unpadded_tools(bare) == [{"name": "f", "parameters": {"properties": {}}}]
    assert unpadded_tools([{"function": {"parameters": None}}, "f"]) == [{"function": {"parameters": None}}, "f"]
