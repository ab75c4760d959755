"""Chat rendering: states and actions as written out by hand, for templates of every kind of behaviour."""

import json

import pytest
from chat_templates import TEMPLATES, save_chat_tokenizer

from pa_dist.render.chat import MARK, ChatTemplate, control_tokens
from pa_dist.render.unrenderable import Unrenderable


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


@pytest.mark.parametrize(("end_of_turn", "end"), [(False, ""), (True, " <|im_end|>")])
def test_what_stands_before_the_token_that_ends_a_turn_is_generated_with_it(tokenizer, end_of_turn, end):
    assert actions(template(tokenizer, "spaced_end", end_of_turn=end_of_turn).render(TALK)) == [
        [f"Hello{end}", f"Gone{end}"]
    ]


def test_what_a_user_does_with_tools_of_their_own_is_not_given(tokenizer):
    own = [said("user", "I look", ("look", "{}")), {**said("tool", "shipped"), "tool_call_id": "c1"}]
    rendered = template(tokenizer, "chatml").render([*TALK[:2], *own, *TALK[2:]])
    assert rendered.texts == template(tokenizer, "chatml").render(TALK).texts
    assert rendered.steps == [1, 5]


def as_it_came(role):
    return [TALK[0], TALK[1], said(role, "It rains"), TALK[3]]


@pytest.mark.parametrize(("role", "known"), [("developer", "system"), ("function", "tool"), ("User", "user")])
def test_a_role_by_another_name_is_the_one_that_templates_know(tokenizer, role, known):
    first, *_ = template(tokenizer, "known_roles").render([said(role, "It rains"), *TALK]).texts[0].texts
    assert first == template(tokenizer, "known_roles").render([said(known, "It rains"), *TALK]).texts[0].texts[0]
    assert "It rains" in first


def test_an_assistant_in_capitals_acts(tokenizer):
    rendered = template(tokenizer, "chatml").render([TALK[0], said("ASSISTANT", "Hello")])
    assert rendered.steps == [1]
    assert rendered.texts[0].texts[0].endswith("<|im_start|>assistant\n")


def test_results_say_what_tool_they_are_of_where_the_template_needs_it(tokenizer):
    (text,), _ = template(tokenizer, "results_as_json").render([*DESK[:2], said("tool", '{"day":\n"Friday"}'), DESK[4]])
    assert 'tool\nof look: "{\\"day\\":\\n\\"Friday\\"}"<|im_end|>' in text.texts[2]
    named = [said("tool", "x", name="find"), DESK[4]]
    assert "of find:" in template(tokenizer, "results_as_json").render([*DESK[:2], *named]).texts[0].texts[2]


NOTHING = [None, "", " ", '""', '" "', "null", "{}"]


@pytest.mark.parametrize("arguments", NOTHING)
def test_a_call_without_arguments_has_an_empty_object(tokenizer, arguments):
    talk = [TALK[0], said("assistant", "", ("look", arguments))]
    expected = {
        "chatml": '<call>{"name": "look", "arguments": {}}</call>',
        "text_calls": "look {}",
        "each_argument": "<look>",
        "no_calls": "tool_call(look, {})",
    }
    assert {name: actions(template(tokenizer, name).render(talk))[0][0] for name in expected} == expected


def test_arguments_that_are_no_object_are_shown_as_written_or_named(tokenizer):
    def talk(arguments):
        return [TALK[0], said("assistant", "", ("see", "{}"), ("look", arguments)), said("tool", "x"), TALK[3]]

    for arguments, written in (
        ("[1, 2]", "[1, 2]"),
        ("7", "7"),
        ("1e5", "1e5"),
        (json.dumps('{"id": '), '{"id": '),
        ('{"a', '{"a'),
    ):
        assert actions(template(tokenizer, "text_calls").render(talk(arguments)))[0][0] == f"see {{}}look {written}"
    assert '"arguments": [1, 2]' in actions(template(tokenizer, "chatml").render(talk("[1, 2]")))[0][0]
    named = r"^message 1: the arguments of call 2 \('look'\) are no object, and the chat template "
    for name, arguments, why in (
        ("each_argument", "[1, 2]", r"takes no other: .*no attribute 'items'$"),
        ("chatml", json.dumps('{"id": '), "does not show them as they were written$"),  # but as a JSON string
        ("chatml", json.dumps("seven"), "does not show them as they were written$"),
    ):
        with pytest.raises(Unrenderable, match=named + why):
            template(tokenizer, name).render(talk(arguments))


SYSTEM = said("system", "You are a desk.")


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("known_roles", as_it_came("observation"), "message 2: the chat template leaves out messages of the role 'obs"),
        # Short enough to stand somewhere by chance: the role is found out by itself.
        ("known_roles", [*TALK[:2], said("Critic", "o"), TALK[3]], "message 2: .* messages of the role 'Critic'$"),
        ("known_roles", as_it_came("system"), "message 2: the chat template leaves out one of the system messages$"),
        ("known_roles", [SYSTEM, said("developer", "Be brief."), *TALK], "message 1: .* one of the system messages$"),
        ("shortens", [said("user", "a" * 21), TALK[1]], "message 0: the chat template leaves out a part of it$"),
        ("shortens", [*TALK[:2], said("user", "b" * 21), TALK[3]], "message 2: .* a part of it$"),
        ("alternates", [*TALK[:2], said("tool", "x"), TALK[3]], "message 2: TemplateError: Roles must alternate$"),
        ("raises_at_rain", as_it_came("user"), "message 2: UndefinedError: 'nothing' is undefined$"),
        ("raises_at_rain", [TALK[0], said("assistant", "It rains")], "message 1: UndefinedError: "),
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
    [("no_prompt", "writes no generation prompt"), ("other_prompt", "does not go on"), ("broken", "no_such_method")],
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
