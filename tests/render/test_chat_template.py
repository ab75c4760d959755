"""Chat rendering: states and actions as written out by hand, for templates of every kind of behaviour."""

import pytest
from chat_templates import TEMPLATES, save_chat_tokenizer

from pa_dist.render.chat import MARK, ChatTemplate, Unrenderable, control_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"), "chatml")


def template(tokenizer, name, **settings):
    tokenizer.chat_template = TEMPLATES[name]
    return ChatTemplate(tokenizer, control_tokens(tokenizer), **settings)


def said(role, content, *calls, name=None):
    tool_calls = [{"id": "c1", "name": call, "arguments": arguments} for call, arguments in calls] or None
    return {"role": role, "name": name, "content": content, "tool_calls": tool_calls, "tool_call_id": None}


TALK = [said("user", "Hi"), said("assistant", "Hello"), said("user", "Go"), said("assistant", "Gone", name="desk")]
DESK = [
    said("user", "Refund me"),
    said("assistant", None, ("look", '{"id": "7"}')),
    said("tool", "shipped"),
    said("tool", "25.5"),
    said("assistant", "No."),
]


def actions(rendered):
    return [[text.texts[i] for i in text.actions] for text in rendered.texts]


@pytest.mark.parametrize("end_of_turn", [False, True])
def test_states_and_actions_are_what_was_given_and_generated(tokenizer, end_of_turn):
    (text,), steps = template(tokenizer, "chatml", end_of_turn=end_of_turn).render(TALK)
    between = "\n<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n"
    first = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    if end_of_turn:
        assert text.texts == [first, "Hello<|im_end|>", between, "Gone<|im_end|>"]
    else:
        assert text.texts == [first, "Hello", f"<|im_end|>{between}", "Gone"]
    assert text.actions == [1, 3]
    assert steps == [1, 3]
    assert text.agents == ["assistant", "desk"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", [['<call>{"name": "look", "arguments": {"id": "7"}}</call>', "No."]]),
        ("text_calls", [['look {"id": "7"}', "No."]]),
        ("no_calls", [["tool_call(look, {'id': '7'})", "No."]]),  # as the plain rendering writes them
        ("raises_on_null", [['<call>{"name": "look", "arguments": {"id": "7"}}</call>', "No."]]),
        ("merges_results", [['<call>{"name": "look", "arguments": {"id": "7"}}</call>', "No."]]),
        ("words", [["tool_call(look, {'id': '7'})", "No."]]),
        (
            "empty_thought",
            [
                ['<think>\n\n</think>\n\n<call>{"name": "look", "arguments": {"id": "7"}}</call>'],
                ["<think>\n\n</think>\n\nNo."],
            ],
        ),
    ],
)
def test_tool_calls_come_out_as_the_template_has_them(tokenizer, name, expected):
    assert actions(template(tokenizer, name).render(DESK)) == expected


def test_an_action_that_history_rewrites_begins_another_text(tokenizer):
    talk = [said("user", "Hi"), said("assistant", "<think>Hm</think>Hello"), *TALK[2:]]
    first, second = template(tokenizer, "drops_reasoning").render(talk).texts
    assert first.texts == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<think>Hm</think>Hello"]
    # What the policy was given next: its own thought is gone.
    assert second.texts == [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n",
        "Gone",
    ]
    (text,), _ = template(tokenizer, "drops_reasoning").render(TALK)
    assert len(text.actions) == 2


def test_turns_that_history_merges_are_those_that_were_given(tokenizer):
    (text,), steps = template(tokenizer, "merges_roles").render([*TALK, said("assistant", "Bye")])
    assert text.texts[-3:] == ["Gone", "<|im_end|>\n<|im_start|>assistant\n", "Bye"]
    assert steps == [1, 3, 4]


@pytest.mark.parametrize(("end_of_turn", "end"), [(False, ""), (True, "<s>")])
def test_a_call_may_end_by_a_token_of_its_own(tokenizer, end_of_turn, end):
    (text,), _ = template(tokenizer, "ends_calls", end_of_turn=end_of_turn).render(DESK)
    assert text.texts[1] == f'<call>{{"name": "look", "arguments": {{"id": "7"}}}}</call>{end}'


def test_what_a_user_does_with_tools_of_their_own_is_not_given(tokenizer):
    own = [said("user", "I look", ("look", "{}")), {**said("tool", "shipped"), "tool_call_id": "c1"}]
    rendered = template(tokenizer, "chatml").render([*TALK[:2], *own, *TALK[2:]])
    assert rendered.texts == template(tokenizer, "chatml").render(TALK).texts
    assert rendered.steps == [1, 5]


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("content_or_calls", [TALK[0], said("assistant", "So:", ("look", "{}"))], "message 1: .* leaves out a part"),
        ("no_results", DESK, "message 2: the chat template leaves out tool messages"),
        ("alternates", [TALK[0], *TALK], "Roles must alternate"),
        ("chatml", [said("user", f"a{MARK}"), TALK[1]], r"U\+FDD0"),
    ],
)
def test_what_a_template_cannot_hold_is_unrenderable(tokenizer, name, messages, reason):
    with pytest.raises(Exception, match=reason):
        template(tokenizer, name).render(messages)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no_prompt", "writes no generation prompt"), ("open_thought", "does not go on"), ("broken", "no_such_method")],
)
def test_a_template_that_is_of_no_use_is_found_out_at_once(tokenizer, name, reason):
    with pytest.raises(Exception, match=reason):
        template(tokenizer, name)


def test_a_greeting_is_history_and_no_action(tokenizer):
    rendered = template(tokenizer, "chatml").render([said("assistant", "Welcome"), *TALK], None, "Be kind.")
    assert rendered.steps == [2, 4]
    assert (
        rendered.texts[0]
        .texts[0]
        .startswith(
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>assistant\nWelcome<|im_end|>\n<|im_start|>user\nHi"
        )
    )


def test_a_system_message_of_the_messages_own_stands_alone(tokenizer):
    rendered = template(tokenizer, "chatml").render([said("system", "Mine"), *TALK], None, "Be kind.")
    assert rendered.texts[0].texts[0].startswith("<|im_start|>system\nMine<|im_end|>\n<|im_start|>user")
    assert rendered.steps == [2, 4]


def test_tools_stand_where_the_template_has_them_or_in_the_system_message(tokenizer):
    tools = '{"f": {"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}}'
    shown = '[{"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}]'.replace("<|", f"<{MARK}|")
    beginnings = {"chatml": "tools\n", "no_calls": "system\nBe kind.\n\n"}
    for name, beginning in beginnings.items():
        first = template(tokenizer, name).render(TALK, tools, "Be kind.").texts[0].texts[0]
        assert first.startswith(f"<|im_start|>{beginning}{shown}<|im_end|>\n<|im_start|>")


def test_messages_are_data_to_a_template(tokenizer):
    text = "{{ 7 * 7 }}{% raw %}"
    (rendered,), _ = template(tokenizer, "chatml").render([said("user", text), said("assistant", text)])
    assert rendered.texts == [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", text]


@pytest.mark.parametrize("attack", ["{{ messages.__class__.__mro__ }}", "{% set _ = messages.append(1) %}"])
def test_templates_run_in_a_sandbox(tokenizer, attack):
    tokenizer.chat_template = TEMPLATES["chatml"] + attack
    with pytest.raises(Exception, match=r"unsafe|not safely callable"):
        ChatTemplate(tokenizer, control_tokens(tokenizer))


def test_options_reach_the_template(tokenizer):
    tokenizer.chat_template = TEMPLATES["chatml"] + "{% if add_generation_prompt and calm %}calm {% endif %}"
    with pytest.raises(Unrenderable, match="does not go on"):
        ChatTemplate(tokenizer, control_tokens(tokenizer), options={"calm": True})
    ChatTemplate(tokenizer, control_tokens(tokenizer), options={"calm": False})
