"""Chat templates of every kind of behaviour, and a tokenizer that knows their control tokens."""

from pathlib import Path

from tiny_models import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_TURN = "<|im_start|>{{ m.role }}\n"
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
_TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
_EACH = "{% for m in messages %}"
_CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
_END = "<|im_end|>\n{% endfor %}"
_THOUGHTLESS = "{{ m.content if loop.last else m.content.split('</think>') | last }}"

TEMPLATES = {
    # Tools, calls as JSON, from arguments that are objects.
    "chatml": _TOOLS + _EACH + _TURN + "{{ m.content }}" + _CALLS + _END + _PROMPT,
    # Calls from arguments that are JSON text.
    "text_calls": _EACH
    + _TURN
    + "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments }}{% endfor %}"
    + _END
    + _PROMPT,
    # Fails where content is null or missing, and knows neither tools nor calls.
    "no_calls": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}" + _END + _PROMPT,
    "raises_on_null": _EACH
    + "{% if m.content is not defined or m.content is none %}{{ raise_exception('content is null') }}{% endif %}"
    + _TURN
    + "{{ m.content }}"
    + _CALLS
    + _END
    + _PROMPT,
    # Earlier reasoning is dropped.
    "drops_reasoning": _EACH + _TURN + _THOUGHTLESS + _CALLS + _END + _PROMPT,
    # The last turn, and no other, has a thought, if an empty one.
    "empty_thought": _EACH
    + _TURN
    + "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
    + _CALLS
    + _END
    + _PROMPT,
    # Results of tools that follow each other are one turn of the user.
    "merges_results": _EACH
    + "{% if m.role == 'tool' %}{% if loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}\n{{ m.content }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}" + _TURN + "{{ m.content }}" + _CALLS + "<|im_end|>\n{% endif %}{% endfor %}" + _PROMPT,
    # A call ends by another token than an answer.
    "ends_calls": _EACH
    + _TURN
    + "{{ m.content }}"
    + _CALLS
    + "{{ '<s>' if m.tool_calls else '<|im_end|>' }}\n{% endfor %}"
    + _PROMPT,
    # A space before the token that ends an answer.
    "spaced_end": _EACH + _TURN + "{{ m.content }}{{ ' ' if m.role == 'assistant' }}" + _END + _PROMPT,
    # One turn of what follows each other in a role.
    "merges_roles": "{% for m in messages %}{% if not loop.previtem or loop.previtem.role != m.role %}"
    + _TURN
    + "{% endif %}{{ m.content }}{% if loop.last or loop.nextitem.role != m.role %}<|im_end|>\n{% endif %}{% endfor %}"
    + _PROMPT,
    # No control tokens at all.
    "words": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    # The generation prompt begins a thought; the last answer shows its own, earlier ones none.
    "opens_thought": _EACH
    + "{% set thought = m.reasoning_content or (m.content.split('</think>')[0].split('<think>')[-1] | trim"
    " if '</think>' in m.content else '') %}"
    + _TURN
    + "{% if m.role == 'assistant' and loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    + "{{ m.content.split('</think>')[-1] | trim }}"
    + _CALLS
    + _END
    + _OPENED,
    # The same, but no answer shows a thought, and after results of tools there is no generation prompt.
    "opens_and_drops": _EACH
    + "{% if m.role == 'tool' %}<s>{{ m.content }}<s>{% elif loop.previtem and loop.previtem.role == 'tool' %}"
    + "{{ m.content }}<|im_end|>\n{% else %}"
    + _TURN
    + "{{ m.content.split('</think>')[-1] | trim }}<|im_end|>\n{% endif %}{% endfor %}"
    + "{% if messages[-1].role != 'tool' %}" + _OPENED + "{% endif %}",
    # The same, and an answer without a thought shows tags without white space between.
    "opens_and_closes": _EACH
    + _TURN
    + "{% if m.role == 'assistant' and '<think>' not in m.content %}<think></think>{% endif %}{{ m.content }}"
    + _END
    + _OPENED,
    # Reasoning by a key alone; what stands between tags is content to it.
    "reasoning_key": _EACH
    + _TURN
    + "{% if m.thinking %}<thinking>{{ m.thinking }}</thinking>{% endif %}{{ m.content }}"
    + _CALLS
    + _END
    + _PROMPT,
    # Reasoning before calls alone.
    "reasoning_of_calls": _EACH
    + _TURN
    + "{% if m.reasoning and m.tool_calls %}({{ m.reasoning }}){% endif %}{{ m.content }}"
    + _CALLS
    + _END
    + _PROMPT,
    # One system message, and roles that it knows.
    "known_roles": "{% if messages[0].role == 'system' %}<|im_start|>{{ messages[0].content }}<|im_end|>\n{% endif %}"
    + _EACH
    + "{% if m.role in ('user', 'assistant', 'tool') %}"
    + _TURN
    + "{{ m.content }}"
    + _CALLS
    + "<|im_end|>\n{% endif %}{% endfor %}"
    + _PROMPT,
    # Results of tools as JSON strings, which have to say what tool they are of.
    "results_as_json": _EACH
    + _TURN
    + "{% if m.role == 'tool' %}{{ 'of ' + m.name }}: {{ m.content | tojson }}{% else %}{{ m.content }}"
    + _CALLS
    + "{% endif %}"
    + _END
    + _PROMPT,
    # Arguments one by one, and no answer without a user.
    "each_argument": _EACH
    + _TURN
    + "{{ m.content }}{% for c in m.tool_calls or [] %}<{{ c.function.name }}>"
    + "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}"
    + _END
    + _PROMPT,
    # Fails at a word.
    "raises_at_rain": _EACH + _TURN + "{% if 'rains' in m.content %}{{ nothing.at_all }}{% endif %}{{ m.content }}"
    + _END + _PROMPT,
    # These cannot hold all that was said.
    "shortens": _EACH + _TURN + "{{ m.content if m.role == 'assistant' else m.content[:20] }}" + _END + _PROMPT,
    "content_or_calls": _EACH
    + _TURN
    + "{% if m.tool_calls %}"
    + _CALLS
    + "{% else %}{{ m.content }}{% endif %}"
    + _END
    + _PROMPT,
    "no_results": _EACH + "{% if m.role != 'tool' %}" + _TURN + "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    + _PROMPT,
    "alternates": _EACH
    + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    + _TURN
    + "{{ m.content }}"
    + _END
    + _PROMPT,
    # And these are of no use.
    "no_prompt": _EACH + _TURN + "{{ m.content }}" + _END,
    "other_prompt": _EACH + _TURN + "{{ m.content }}" + _END + _PROMPT.replace("assistant\n", "assistant\nSay:\n"),
    "broken": "{{ messages[0].content.no_such_method() }}",
}  # fmt: skip


def save_chat_tokenizer(folder: Path, template: str | None, vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """Save a tokenizer with two control tokens and one of `TEMPLATES`."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATES[template] if template else None
    tokenizer.save_pretrained(folder)
    return tokenizer
