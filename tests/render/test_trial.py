"""Templates that do not come to an end: found out before the start, and a reject where one message makes them so."""

import signal
import threading
import time

import pytest
from chat_templates import TEMPLATES, save_chat_tokenizer

from pa_dist import config
from pa_dist.errors import ConfigError
from pa_dist.render.chat import ChatTemplate, control_tokens
from pa_dist.render.unrenderable import TookTooLong, limited
from pa_dist.score.check import check_templates

LOOPS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
AT_RAIN = "{% for m in messages if 'rains' in m.content %}" + LOOPS + "{% endfor %}" + TEMPLATES["chatml"]


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATES["chatml"] + "{% if 9 ** (9 ** 9) %}{% endif %}",  # one step of the interpreter
        TEMPLATES["chatml"] + "{% if tools %}" + LOOPS + "{% endif %}",  # where only a probe gets it
    ],
)
def test_a_template_that_does_not_end_is_one_line_before_the_start(tmp_path, template):
    tokenizer = save_chat_tokenizer(tmp_path / "policy", "chatml")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "policy")
    pair = {"policy": str(tmp_path / "policy"), "reference": str(tmp_path / "policy")}
    trajectories = {"format": "chat", "paths": ["x"]}
    parsed = config.parse(
        {"trajectories": trajectories, "pair": pair, "render": {"style": "chat"}, "output": str(tmp_path / "out")}
    )
    with pytest.raises(
        ConfigError,
        match=r"^pair\.policy: its chat template cannot be used: the chat template took longer than 0\.5 s$",
    ):
        check_templates(parsed, seconds=0.5)


def test_a_message_that_makes_it_loop_is_a_reject(tmp_path):
    tokenizer = save_chat_tokenizer(tmp_path, "chatml")
    tokenizer.chat_template = AT_RAIN
    template = ChatTemplate(tokenizer, control_tokens(tokenizer), seconds=0.5)
    talk = [
        {"role": role, "name": None, "content": text, "tool_calls": None}
        for role, text in (("user", "Hi"), ("assistant", "Hello"), ("user", "It rains"), ("assistant", "Gone"))
    ]
    assert len(template.render(talk[:2]).steps) == 1
    with pytest.raises(TookTooLong, match=r"^the chat template took longer than 0\.5 s$"):
        template.render(talk)
    assert len(template.render(talk[:2]).steps) == 1


def test_the_clock_is_left_as_it_was_found():
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    found = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with limited(60), limited(60):
            pass
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 0.3
        time.sleep(0.4)
        assert rung.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *found)
    with pytest.raises(TookTooLong), limited(0.05):
        time.sleep(60)


def test_what_runs_beside_the_main_thread_is_not_limited():
    ran = threading.Event()

    def work():
        with limited(0.01):
            time.sleep(0.05)
            ran.set()

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert ran.is_set()
