"""Policy/reference pairs of the published work, by name: `pair: qwen3-14b` in a config."""

from pathlib import Path
from typing import NamedTuple


class KnownPair(NamedTuple):
    """Hugging Face names of a post-trained policy and the checkpoint it was trained from."""

    policy: str
    reference: str
    family: str


SHIPPED = Path(__file__).parent / "demo" / "data"
DEMO = KnownPair(str(SHIPPED / "policy"), str(SHIPPED / "reference"), "llama")
"""The small pair of `pa-dist demo`, by the name `demo`."""

PAIRS = {
    "olmo3-7b-instruct": KnownPair("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-7B-Instruct-DPO", "olmo3"),
    "qwen3-14b": KnownPair("Qwen/Qwen3-14B", "Qwen/Qwen3-14B-Base", "qwen3"),
    "qwen3.5-9b": KnownPair("Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-9B-Base", "qwen3_5"),
    "gemma4-4b": KnownPair("google/gemma-4-E4B-it", "google/gemma-4-E4B", "gemma4"),
    "qwen2.5-7b": KnownPair("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "qwen2"),
}
