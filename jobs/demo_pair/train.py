"""Makes the shipped pair: a reference imitating demonstrators of mixed skill, and a policy post-trained from it.

Post-training maximises expected reward less beta times the KL divergence from the reference, exactly over each batch's
trees. It sees rewards and the reference's log-probs; Q*, V* and A* appear nowhere in it.
"""

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pa_dist.demo.forest import Forest
from pa_dist.demo.tree import as_text, grow
from pa_dist.demo.world import BETA, Message, State, Task, actions, draw_tasks, request
from pa_dist.score.tokenize import tokenize

Say = Callable[[str], None]

# How strongly demonstrators go by what is good: careless, middling, careful.
SHARPNESS = (0.5, 1.5, 4.0)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '' if loop.first else '\\n' }}[{{ m.role }}]: {{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}tool_call({{ c.function.name }}, {{ c.function.arguments }}){% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n[assistant]: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """What decides the shipped weights."""

    seed: int = 0
    beta: float = BETA
    vocabulary: int = 1024
    hidden_size: int = 128
    layers: int = 3
    demonstrations_per_step: int = 64
    reference_steps: int = 700
    policy_tasks: int = 256
    tasks_per_step: int = 4
    policy_steps: int = 400
    reference_rate: float = 3e-3
    policy_rate: float = 1e-3


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the world's text, with a BOS token and a chat template."""
    raw = Tokenizer(models.BPE())
    # Words with the punctuation around them: an action is a handful of tokens, rare words and names are several.
    words = pre_tokenizers.Split(Regex(r"\s?\S+"), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(_texts(recipe), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(recipe: Recipe) -> Iterator[str]:
    """Every message of some training tasks, rendered."""

    class Spelling:
        bos_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": list(text.encode())}

    for task in draw_tasks(150, recipe.seed + 1, held_out=False):
        for segment in grow(task, Spelling()).segments:
            yield bytes(segment.ids).decode().removeprefix("\0")


def make_model(recipe: Recipe) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def demonstrate(task: Task, sharpness: float, rng: random.Random) -> list[Message]:
    """An episode as a demonstrator would act: chances go as exp(sharpness * skill)."""
    history, state = [request(task)], State()
    while True:
        choices = actions(task, state)
        action = rng.choices(choices, [math.exp(sharpness * choice.skill) for choice in choices])[0]
        outcome = rng.choices(action.outcomes, [outcome.probability for outcome in action.outcomes])[0]
        history.append(action.message)
        if outcome.state is None or outcome.reply is None:
            return history
        history.append(outcome.reply)
        state = outcome.state


def train_reference(
    recipe: Recipe, tokenizer: Any, say: Say, demonstrators: Sequence[float] = SHARPNESS
) -> LlamaForCausalLM:
    """Imitation: next-token cross-entropy on the actions of demonstrations."""
    model = make_model(recipe)
    tasks = iter(draw_tasks(recipe.reference_steps * recipe.demonstrations_per_step, recipe.seed + 1, held_out=False))
    rng = random.Random(recipe.seed)

    def loss() -> Tensor:
        batch = []
        for task in islice(tasks, recipe.demonstrations_per_step):
            history = demonstrate(task, rng.choice(demonstrators), rng)
            batch.append(tokenize(as_text(history), tokenizer, 512).sequence)
        ids = pad_sequence([torch.from_numpy(s.ids.astype(np.int64)) for s in batch], batch_first=True)
        targets = torch.full_like(ids, -100)
        for row, sequence in enumerate(batch):
            targets[row, sequence.positions] = ids[row, sequence.positions]
        return cast(Tensor, model(input_ids=ids, labels=targets, use_cache=False).loss)

    _descend(model, loss, recipe.reference_steps, recipe.reference_rate, "reference", say)
    return model


def train_policy(recipe: Recipe, reference: LlamaForCausalLM, tokenizer: Any, say: Say) -> LlamaForCausalLM:
    """KL-regularised RL from the reference, by the exact gradient of the objective over each batch's trees."""
    model = copy.deepcopy(reference)

    trees = [grow(task, tokenizer) for task in draw_tasks(recipe.policy_tasks, recipe.seed + 2, held_out=False)]
    rng = random.Random(recipe.seed)

    def loss() -> Tensor:
        forest = Forest(rng.sample(trees, recipe.tasks_per_step))
        with torch.no_grad():
            before = forest.log_probs(reference)
        return -forest.objective(forest.log_probs(model), before, recipe.beta).mean()

    _descend(model, loss, recipe.policy_steps, recipe.policy_rate, "policy", say)
    return model


def _descend(
    model: LlamaForCausalLM, loss_of: Callable[[], Tensor], steps: int, rate: float, label: str, say: Say
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    began = time.perf_counter()
    recent: list[float] = []
    model.train()
    for step in range(steps):
        warmup, decay = min(1.0, (step + 1) / 20), 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * warmup * max(decay, 0.05)
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-19:], float(loss.detach())]
        if (step + 1) % 50 == 0 or step == 0:
            seconds = time.perf_counter() - began
            say(f"{label}: step {step + 1} of {steps}, loss {sum(recent) / len(recent):.4f}, {seconds:.0f} s")
    model.eval()
