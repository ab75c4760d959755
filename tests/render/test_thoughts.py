"""Thoughts in chat templates: where a prompt begins them, where a log holds them apart, where no template shows them.

The expected texts are what a server gives up to the prompt's `<think>`, and what the model wrote from there on.
"""

import pytest
from chat_templates import TEMPLATES, save_chat_tokenizer

from pa_dist.render.chat import ChatTemplate, control_tokens
from pa_dist.render.unrenderable import Unrenderable


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"), "chatml")


def template(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    return ChatTemplate(tokenizer, control_tokens(tokenizer))


def said(role, content, *calls, reasoning=None):
    tool_calls = [{"id": "c1", "name": call, "arguments": "{}"} for call in calls] or None
    one = {"role": role, "name": None, "content": content, "reasoning": reasoning, "tool_calls": tool_calls}
    return {**one, "tool_call_id": "c1" if role == "tool" else None}


def states_and_actions(rendered):
    """Of each action the whole text before it, and its own."""
    return [("".join(t.texts[:i]), t.texts[i]) for t in rendered.texts for i in t.actions]


ASK, GO = said("user", "Hi"), said("user", "Go")
FIRST, SECOND = "Hm.\n</think>\n\nHello", "Oh.\n</think>\n\nGone"
OPENED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"
LATER = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
LATER += "<|im_start|>assistant\n<think>\n"
LOGS = {
    "with the tag": [said("assistant", f"<think>\n{text}") for text in (FIRST, SECOND)],
    "without it, which the prompt wrote": [said("assistant", text) for text in (FIRST, SECOND)],
    "apart": [said("assistant", "Hello", reasoning="Hm."), said("assistant", "Gone", reasoning="Oh.")],
    "twice": [
        said("assistant", f"<think>\n{FIRST}", reasoning="Hm."),
        said("assistant", SECOND, reasoning="Oh."),
    ],
}


@pytest.mark.parametrize("name", ["opens_thought", "opens_and_drops"])
@pytest.mark.parametrize("log", LOGS)
def test_a_thought_that_the_prompt_begins_is_gone_on_with(tokenizer, name, log):
    first, second = LOGS[log]
    rendered = template(tokenizer, name).render([ASK, first, GO, second])
    assert states_and_actions(rendered) == [(OPENED, FIRST), (LATER, SECOND)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("opens_thought", "\n</think>\n\nHello"),
        ("opens_and_drops", "\n</think>\n\nHello"),
        ("opens_and_closes", "</think>Hello"),
    ],
)
def test_an_answer_without_a_thought_ends_the_one_that_was_begun(tokenizer, name, expected):
    rendered = template(tokenizer, name).render([ASK, said("assistant", "Hello")])
    assert states_and_actions(rendered) == [(OPENED, expected)]


def test_a_thought_is_begun_by_the_model_where_the_state_has_no_prompt(tokenizer):
    talk = [ASK, said("assistant", "", "look"), said("tool", "shipped"), said("assistant", f"<think>\n{SECOND}")]
    (_, call), (state, answer) = states_and_actions(template(tokenizer, "opens_and_drops").render(talk))
    assert call == "\n</think>\n\ntool_call(look, {})"
    assert state.endswith("<s>shipped<s>")
    assert answer == f"<think>\n{SECOND}"


def test_what_the_prompt_wrote_is_no_part_that_is_left_out(tokenizer):
    (one,) = states_and_actions(template(tokenizer, "opens_and_closes").render([ASK, LOGS["with the tag"][0]]))
    assert one == (OPENED, FIRST)
    # Text before the thought is lost to a template that takes it apart.
    with pytest.raises(Unrenderable, match=r"^message 1: the chat template leaves out a part of it$"):
        template(tokenizer, "opens_thought").render([ASK, said("assistant", "So: <think>Hm.</think>Hello")])


def test_reasoning_goes_by_the_key_that_the_template_shows(tokenizer):
    shows = template(tokenizer, "reasoning_key")
    assert shows.shows_reasoning(calls=False)
    expected = ["<thinking>Hm.</thinking>Hello", "<thinking>Oh.</thinking>Gone"]
    for first, second in LOGS.values():
        rendered = shows.render([ASK, first, GO, second])
        assert [action for _, action in states_and_actions(rendered)] == expected
        assert len(rendered.texts) == 1  # earlier reasoning stays
    call = shows.render([ASK, said("assistant", None, "look", reasoning="Hm.")])
    assert states_and_actions(call)[0][1].startswith("<thinking>Hm.</thinking><call>")


def test_reasoning_that_a_template_has_no_place_for_is_known_to_be_left_out(tokenizer):
    (first, second), plain = LOGS["apart"], template(tokenizer, "chatml")
    assert not plain.shows_reasoning(calls=False)
    assert [action for _, action in states_and_actions(plain.render([ASK, first, GO, second]))] == ["Hello", "Gone"]
    # What stands in the content was never apart, and stays.
    first, second = LOGS["twice"]
    assert states_and_actions(plain.render([ASK, first]))[0][1] == f"<think>\n{FIRST}"
    of_calls = template(tokenizer, "reasoning_of_calls")
    assert (of_calls.shows_reasoning(calls=False), of_calls.shows_reasoning(calls=True)) == (False, True)
    ((_, action),) = states_and_actions(of_calls.render([ASK, said("assistant", "So:", "look", reasoning="Hm.")]))
    assert action.startswith("(Hm.)So:<call>")


def test_reasoning_is_dropped_from_history_where_the_template_drops_it(tokenizer):
    first, second = states_and_actions(
        template(tokenizer, "drops_reasoning").render([ASK, LOGS["apart"][0], GO, LOGS["apart"][1]])
    )
    assert first[1] == "<think>\nHm.\n</think>\n\nHello"  # by its tags, which the template knows
    assert "Hm." not in second[0]
    assert second[1] == "<think>\nOh.\n</think>\n\nGone"
