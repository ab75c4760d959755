"""Trains the shipped pair and writes all that ships: weights, rollouts and a model card with their figures."""

import gzip
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaForCausalLM

from demo_pair.train import SHARPNESS, Recipe, make_tokenizer, train_policy, train_reference
from pa_dist.demo.agreement import HELD_OUT_TASKS, Agreement, agreement, held_out_tasks
from pa_dist.demo.forest import Forest
from pa_dist.demo.rollouts import WRONG, rollouts, write
from pa_dist.demo.tree import grow
from pa_dist.engine.load import load_model
from pa_dist.engine.tokens import load_tokenizer

Say = Callable[[str], None]


def make_pair(out: Path, recipe: Recipe, say: Say) -> None:
    """Train reference and policy, and write them, the held-out rollouts and README.md below `out`."""
    began = time.perf_counter()
    tokenizer = make_tokenizer(recipe)
    reference = train_reference(recipe, tokenizer, say)
    policy = train_policy(recipe, reference, tokenizer, say)
    seconds = time.perf_counter() - began
    for name, model in (("policy", policy), ("reference", reference)):
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    write_rollouts(out, recipe)
    describe(out, recipe, seconds, say)


def write_rollouts(out: Path, recipe: Recipe) -> None:
    """Write `rollouts.jsonl.gz` of the pair in `out` on the held-out tasks; the recipe's seed decides them."""
    tokenizer, policy, reference = _pair(out)
    forest = Forest([grow(task, tokenizer) for task in held_out_tasks()])
    with torch.inference_mode():
        exact, _ = forest.optimum(forest.log_probs(reference), recipe.beta)
        rows = rollouts(forest, forest.log_probs(policy), exact, recipe.seed)
    # No time stamp and no file name inside, so that the same rows are the same bytes.
    (out / "rollouts.jsonl.gz").write_bytes(gzip.compress(write(rows).encode(), mtime=0))


def _pair(out: Path) -> tuple[Any, LlamaForCausalLM, LlamaForCausalLM]:
    policy, reference = (cast(LlamaForCausalLM, load_model(str(out / name))) for name in ("policy", "reference"))
    return load_tokenizer(str(out / "reference")), policy, reference


def describe(out: Path, recipe: Recipe, seconds: float, say: Say) -> None:
    """Write the model card of a trained pair.

    Args:
      out: the folder that holds `policy` and `reference`.
      recipe: what they were trained by.
      seconds: how long that took.
    """
    tokenizer, policy, reference = _pair(out)
    say("for comparison: a policy trained a tenth as long, and a reference that learnt from others")
    short = train_policy(replace(recipe, policy_steps=recipe.policy_steps // 10), reference, tokenizer, say)
    stranger = train_reference(recipe, tokenizer, say, demonstrators=[-SHARPNESS[0]])

    forest = Forest([grow(task, tokenizer) for task in held_out_tasks()])
    models = {"policy": policy, "reference": reference, "short": short, "stranger": stranger}
    with torch.inference_mode():
        found = {name: forest.log_probs(model) for name, model in models.items()}
    exact, best = forest.optimum(found["reference"], recipe.beta)

    def compare(policy: str, reference: str, by_visits: bool = True) -> Agreement:
        visits = forest.visits(found[policy].exp())[forest.edge_node] * found[policy].exp()
        measured = recipe.beta * (found[policy] - found[reference])
        return agreement(exact, measured, visits if by_visits else None)

    lines = {
        "as shipped": compare("policy", "reference"),
        "as shipped, all histories alike": compare("policy", "reference", by_visits=False),
        "policy trained a tenth as long": compare("short", "reference"),
        "a reference that learnt from others": compare("policy", "stranger"),
    }
    reached = {name: float(forest.objective(found[name], found["reference"], recipe.beta).mean()) for name in found}
    reached["optimum"] = float(best[forest.roots].mean())
    card = _card(recipe, seconds, lines, reached, policy.num_parameters())
    (out / "README.md").write_text(card)
    say(card)


def _card(
    recipe: Recipe, seconds: float, lines: dict[str, Agreement], reached: dict[str, float], parameters: int
) -> str:
    table = "\n".join(f"| {name} | {a.pearson:.3f} | {a.slope:.3f} |" for name, a in lines.items())
    settings = ", ".join(f"{name} {value}" for name, value in asdict(recipe).items())
    return f"""# The demo's policy and reference

Two Llama models of {parameters:,} parameters for the order desk of `pa_dist/demo/world.py`, with a tokenizer of their
own. The reference imitates demonstrators of mixed skill. The policy was trained from it by the gradient of expected
reward less beta times the KL divergence, exact over all histories of a few tasks at a time; nothing was sampled, and
Q*, V* and A* were no part of it. `python jobs/train_demo_pair.py` makes them again, in {seconds:.0f} s on two cores:
{settings}.

Expected reward less beta times KL on {HELD_OUT_TASKS} tasks not trained on:

| model | objective |
| --- | --- |
| reference | {reached["reference"]:.3f} |
| policy trained a tenth as long | {reached["short"]:.3f} |
| policy | {reached["policy"]:.3f} |
| optimum | {reached["optimum"]:.3f} |

Beta times log-ratio of every action against its exact A*, on those tasks, each history weighted by the policy's own
visits unless said otherwise:

| pair | Pearson | slope |
| --- | --- | --- |
{table}

The last three lines show what agreement takes: histories that the policy visits, for the others hardly count in its
training; a policy trained to its end; and the reference that it came from, not one that (here) imitates a demonstrator
who prefers mistakes. In the rollouts with a wrong action, "wrong" is an exact A* of at most {WRONG}.
"""
