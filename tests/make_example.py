"""Make the folder `example/` that `configs/example.yaml` reads: a tiny random pair, and a few trajectories.

The pair runs the whole job anywhere in seconds. Its weights are random, so its scores mean nothing.
"""

import json
from pathlib import Path

from tiny_models import save_model, save_tokenizer


def save_pair(folder: Path) -> dict[str, str]:
    """Save `policy` and `reference`, which share a tokenizer; returns their folders."""
    for seed, name in enumerate(("policy", "reference")):
        save_model(folder / name, seed)
        save_tokenizer(folder / name, bos=True)
    return {name: str(folder / name) for name in ("policy", "reference")}


def save_trajectories(path: Path) -> Path:
    """Write twelve rollouts of three tasks with rewards and mistakes, and two lines that cannot be used."""
    lines = []
    for index in range(12):
        call = {"id": "c1", "function": {"name": "lookup_order", "arguments": json.dumps({"order_id": str(index)})}}
        messages = [
            {"role": "user", "content": f"Please cancel my order {4700 + index} and refund the card."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": '{"status": "shipped", "total": 25.5}'},
            {"role": "assistant", "content": "The order has shipped already. " * (index % 3 + 1)},
        ]
        row = {"id": f"run-{index}", "task_id": str(index // 4), "trial": index % 4, "messages": messages}
        lines.append(
            json.dumps({**row, "reward": float(index % 3 == 0), "mistake_step": 1, "mistake_agent": "assistant"})
        )
    lines.append(json.dumps({"id": "silent", "messages": [{"role": "user", "content": "Anyone?"}]}))
    lines.append("{not json")
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    example = Path("example")
    example.mkdir(exist_ok=True)
    save_pair(example)
    save_trajectories(example / "desk.jsonl")
