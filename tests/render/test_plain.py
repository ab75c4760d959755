"""METHOD.md's plain rendering, written out by hand."""

from pa_dist.render.plain import action_rule, render


def message(role, content=None, tool_calls=None, name=None):
    return {"role": role, "name": name, "content": content, "tool_calls": tool_calls}


def call(name, arguments):
    return {"id": None, "name": name, "arguments": arguments}


def test_assistant_messages_are_actions_with_their_tool_calls():
    got = render(
        [
            message("system", " Be kind. "),
            message("user", "Hi"),
            message("assistant", " On it. ", [call("get", '{"id": "7", "n": 1.0, "ok": true, "x": null}')]),
            message("assistant", None, [call("a", "{}"), call("b", '{"q": "it\'s"}')]),
            message("tool", ""),
            message("assistant", "  "),
        ],
        "assistant",
    )
    assert got.texts == [
        "[system]:  Be kind. ",
        "\n[user]: Hi",
        "\n[assistant]: On it. \ntool_call(get, {'id': '7', 'n': 1.0, 'ok': True, 'x': None})",
        "\n[assistant]: tool_call(a, {})\ntool_call(b, {'q': \"it's\"})",
        "\n[tool]: ",
        "\n[assistant]: [assistant action]",
    ]
    assert got.actions == [2, 3, 5]
    assert got.agents == ["assistant"] * 3


def test_non_blank_messages_are_actions_verbatim_but_for_an_opening_human():
    history = [message("human", "Q"), message("Orchestrator (thought)", " plan "), message("WebSurfer", " ")]
    got = render([*history, message("human", "again"), message("user", "x", name="Expert")], "non_blank")
    assert got.texts[1] == "\n[Orchestrator (thought)]:  plan "
    assert got.actions == [1, 3, 4]
    assert got.agents == ["Orchestrator (thought)", "human", "Expert"]


def test_auto_goes_by_the_benchmark():
    assert action_rule("auto", "who_and_when") == "non_blank"
    assert action_rule("auto", "tau2") == "assistant"
    assert action_rule("non_blank", "tau2") == "non_blank"
