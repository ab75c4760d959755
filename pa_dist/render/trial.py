"""A chat template tried out in a process of its own, which can be ended whatever it does.

Within a process nothing ends what one step of the interpreter goes on with, and no bound keeps a template from taking
all memory. `python -m pa_dist.render.trial` reads one from its standard input.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from pa_dist.errors import fault, first_line
from pa_dist.render.unrenderable import SECONDS, TookTooLong

_MEMORY = 4 << 30
# To start Python and import the library on a busy machine.
_START = 300.0


class _Template:
    """What `ChatTemplate` reads of a tokenizer."""

    def __init__(self, template: str, variables: Mapping[str, Any]) -> None:
        self.chat_template, self._variables = template, variables

    def apply_chat_template(
        self, messages: list[Any], *, tools: Any, tokenize: bool, add_generation_prompt: bool, **options: Any
    ) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered: Any = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            **{**self._variables, **options},
        )
        text: str = rendered[0][0]  # of one conversation
        return text


def why_not(
    tokenizer: Any, controls: Collection[str], options: Mapping[str, Any], *, seconds: float = SECONDS
) -> str | None:
    """Why a tokenizer's chat template cannot be used; None where it can.

    Args:
      controls: as `ChatTemplate` takes them, and the options.
      seconds: that a rendering may take.
    """
    from transformers import PreTrainedTokenizerBase

    own = getattr(type(tokenizer), "apply_chat_template", None) is not PreTrainedTokenizerBase.apply_chat_template
    if own or not isinstance(tokenizer.chat_template, str):  # code of its own, or several templates
        return _tried(tokenizer, controls, options, seconds)
    asked = {
        "template": tokenizer.chat_template,
        "variables": tokenizer.special_tokens_map,
        "controls": list(controls),
        "options": dict(options),
        "seconds": seconds,
    }
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(asked, default=str),
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=_START + 20 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return str(TookTooLong(seconds))
    began, _, answer = done.stdout.partition("\n")
    if not began:
        raise OSError(f"a process to try the chat template in did not start: {(done.stderr.split() or ['?'])[-1]}")
    if done.returncode == 0:
        why: str | None = json.loads(answer)
        return why
    if done.returncode > 0:
        return str(TookTooLong(seconds))
    return f"the process that tried it was ended by signal {-done.returncode}"


def main() -> None:
    """Try what the standard input asks for; write that it begins, and why it cannot be used."""
    import faulthandler

    from transformers.utils import chat_template_utils  # noqa: F401  # before the clock runs

    import pa_dist.render.chat  # noqa: F401

    asked = json.load(sys.stdin)
    print("began", flush=True)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    faulthandler.dump_traceback_later(2 * asked["seconds"], exit=True)
    template = _Template(asked["template"], asked["variables"])
    print(json.dumps(_tried(template, asked["controls"], asked["options"], asked["seconds"])))


def _tried(tokenizer: Any, controls: Collection[str], options: Mapping[str, Any], seconds: float) -> str | None:
    from pa_dist.render.chat import ChatTemplate

    try:
        ChatTemplate(tokenizer, controls, options=options, seconds=seconds)
    except BaseException as raised:  # a template raises what it likes
        return first_line(fault(raised))
    return None


if __name__ == "__main__":
    main()
