"""The engine on a GPU: random weights in the true shapes of published models, on trees as trajectories make them.

    python jobs/benchmarks/gpu.py                      everything, within nine minutes of one H100
    python jobs/benchmarks/gpu.py --models qwen3-8b --parts speed,noise
    python jobs/benchmarks/gpu.py --device meta        the launches alone, counted without a GPU

Needs torch, transformers, numpy and this repository; no network. A line a figure, each ratio of one run.
"""

import argparse
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers as tf
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from pa_dist.engine import linear
from pa_dist.engine.forward import Forward
from pa_dist.engine.hf import BATCH_TOKENS, WORTHWHILE, HFEngine
from pa_dist.engine.linear import Way
from pa_dist.engine.norms import fuse_norms
from pa_dist.engine.precision import keep_logits_in_float32, recast
from pa_dist.engine.prefix_tree import prefix_tree
from pa_dist.engine.protocol import TokenSequence
from pa_dist.engine.rate import matrix_rate
from pa_dist.engine.schedule import Schedule

_QWEN3: dict[str, Any] = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
_TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "head_dim": 16,
}
_E4B: dict[str, Any] = {
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 42,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 18,
}
MODELS: dict[str, Callable[[], Any]] = {
    "tiny": lambda: tf.Qwen3Config(**_TINY, num_attention_heads=4, num_key_value_heads=2),
    "qwen3-0.6b": lambda: tf.Qwen3Config(
        **_QWEN3,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "qwen3-8b": lambda: tf.Qwen3Config(
        **_QWEN3, hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32
    ),
    "qwen3.5-9b": Qwen3_5TextConfig,
    "olmo3-7b": lambda: tf.Olmo3Config(vocab_size=100_278, max_position_embeddings=65_536),
    "gemma4-e4b": lambda: Gemma4TextConfig(**_E4B),
}
PARTS = ("speed", "launches", "memory", "error", "noise")
HALVES = (torch.float16, torch.bfloat16)
# Of flash-linear-attention 0.6, as Triton's interpreter runs them: norms of queries and keys, sums of decays, two of
# products in chunks, states, output.
_RULE_KERNELS = 7
# Of the reference's weights, beside the policy's: a share of each matrix's spread.
APART = 0.02
Logprobs = NDArray[np.float32]


def trees(vocabulary: int, tokens: int) -> dict[str, list[TokenSequence]]:
    """Corpora of about so many tokens each, by what they share; 45% of the tokens are scored."""
    rng = np.random.default_rng(0)

    def ids(n: int) -> NDArray[np.int32]:
        return rng.integers(0, vocabulary, n).astype(np.int32)

    def grown(shared: int, own: int, n: int) -> list[TokenSequence]:
        before = ids(shared)
        found = []
        for _ in range(n):
            whole = np.concatenate([before, ids(own)])
            # Half of the turns are actions; what is shared is mostly none.
            scored = np.arange(max(1, int(0.55 * len(whole))), len(whole), dtype=np.int32)
            found.append(TokenSequence(whole, scored))
        return found

    return {
        "nothing shared": grown(0, tokens // 16, 16),
        "a system message": grown(tokens // 20, tokens // 20, 10),
        "8 branches": grown(tokens // 9, tokens // 90, 8),
        "300 short branches": grown(tokens // 16, max(2, tokens // 320), 300),
    }


def build(name: str, dtype: torch.dtype, device: str) -> Any:
    """A model of random weights that have bfloat16's values, so that no dtype begins with another one's."""
    torch.manual_seed(0)
    with torch.device(device):
        model = tf.AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.bfloat16).eval()
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.dtype == torch.bfloat16:
            tensor.data = tensor.data.to(dtype)
    keep_logits_in_float32(model)
    fuse_norms(model)
    return model


@torch.inference_mode()
def plain(model: Any, sequence: TokenSequence) -> Logprobs:
    """As published: one sequence at a time, and its whole table."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64)).to(model.device)
    at = torch.from_numpy(sequence.positions.astype(np.int64)).to(model.device)
    table = torch.log_softmax(model(ids.unsqueeze(0), use_cache=False).logits[0].float(), dim=-1)
    found: Logprobs = table[at - 1, ids[at]].cpu().numpy()
    return found


def _all_plain(model: Any, sequences: Sequence[TokenSequence]) -> list[Logprobs]:
    return [plain(model, sequence) for sequence in sequences]


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds, waited for."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def speed(model: Any, corpora: dict[str, list[TokenSequence]], repeats: int, device: str) -> Iterator[str]:
    """Tokens a second, the share of the matrix rate measured beside it, and the ratio to the plain loop."""
    for name, sequences in corpora.items():
        ours, loop, rates = [], [], []
        for _ in range(repeats + 1):  # the first one warms up
            engine = HFEngine(model)
            rates.append(matrix_rate(model.device, model.dtype))
            ours.append(timed(partial(engine.score, sequences), device))
            loop.append(timed(partial(_all_plain, model, sequences), device))
        seconds, rate = float(np.median(ours[1:])), float(np.median(rates[1:]))
        ratios, work = np.array(loop[1:]) / np.array(ours[1:]), engine.work
        attends = f"attends in pieces: {engine.in_pieces}"
        if engine.in_pieces is None:
            pieces = HFEngine(model, at_once=False)
            pieces.score(sequences)
            attends = f"in pieces {timed(partial(pieces.score, sequences), device) / seconds:.2f} of that time"
        yield (
            f"{name}: {work.tokens / seconds:,.0f} tokens/s, {work.distinct_tokens / seconds:,.0f} distinct; "
            f"{work.flops / seconds / rate:.2f} of {rate / 1e12:,.1f} TFLOP/s; {np.median(ratios):.2f}x the plain loop "
            f"({ratios.min():.2f} to {ratios.max():.2f}), at best {work.tokens / work.distinct_tokens:.2f}x"
            + (f"; {attends}" if engine.apart is None else f"; prefixes apart: {engine.apart}")
        )


class _Operations(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def launches(model: Any, corpora: dict[str, list[TokenSequence]], device: str) -> Iterator[str]:
    """Kernels that a pass launches in each layer; without a GPU, operations that are no views."""
    if device == "meta":
        yield from _counted(model)
        return
    layers = model.config.get_text_config().num_hidden_layers
    for name, sequences in corpora.items():
        engine, passes = HFEngine(model), 0
        decoder = engine._forward.decoder

        def counted(*_: Any) -> None:
            nonlocal passes
            passes += 1

        hook = decoder.register_forward_pre_hook(counted)
        try:
            if device == "cuda":
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    engine.score(sequences)
                count = sum(event.count for event in profile.key_averages() if event.device_type.name == "CUDA")
            else:
                with _Operations() as operations:
                    engine.score(sequences)
                count = operations.count
        finally:
            hook.remove()
        yield f"{name}: {count / layers / passes:.0f} launches a layer and pass, {passes} passes"


def _counted(model: Any) -> Iterator[str]:
    """The same on the meta device, of passes of 16,000 tokens: attention is one operation there, as on a GPU."""
    rng = np.random.default_rng(0)
    config = model.config.get_text_config()

    def ids(n: int) -> NDArray[np.int32]:
        return rng.integers(0, config.vocab_size, n).astype(np.int32)

    above, tasks = ids(1000), [ids(200) for _ in range(12)]
    corpora = {
        "32 sequences of 500": [ids(500) for _ in range(32)],
        "300 branches of 50 below 1,000": [np.concatenate([above, ids(50)]) for _ in range(300)],
        "12 tasks of 4 rollouts of 250 below 1,000": [
            np.concatenate([above, task, ids(250)]) for task in tasks for _ in range(4)
        ],
    }
    for (name, sequences), at_once in itertools.product(corpora.items(), (True, False)):
        # As on a GPU with the kernels; in pieces, linear-attention layers take siblings in rows of their own.
        way: Way = "lengths" if at_once else "rows"
        forward = Forward(model, together=True, at_once=at_once, linear=way)
        schedule, passes = Schedule(prefix_tree(sequences, WORTHWHILE), rows=forward.rows, cut=True), 0
        with torch.inference_mode(), _linear_kernels(model), _Operations() as operations:
            while segments := schedule.take(BATCH_TOKENS):
                forward(segments, schedule.path().intersection(segments))
                passes += 1
        how = "in one call" if at_once else "in a call for each segment"
        each = operations.count / config.num_hidden_layers / passes
        yield f"{name}, attending {how}: {each:.0f} launches a layer and pass, {passes} passes"


@contextmanager
def _linear_kernels(model: Any) -> Iterator[None]:
    """As if the kernels of linear-attention layers were here: their shapes, by as many operations as they are."""

    def causal_conv1d_fn(row: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.empty_like(row)

    def torch_chunk_gated_delta_rule(
        query: Tensor, key: Tensor, value: Tensor, *, cu_seqlens: Tensor | None = None, **__: Any
    ) -> tuple[Tensor, Tensor]:
        for _ in range(_RULE_KERNELS - 2):
            query.new_empty(0)
        n = len(value) if cu_seqlens is None else len(cu_seqlens) - 1
        return torch.empty_like(value), value.new_empty(n, value.shape[2], key.shape[3], value.shape[3])

    if (module := linear.source(model.base_model)) is None:
        yield
        return
    ours = {f.__name__: linear.over_trees(f) for f in (causal_conv1d_fn, torch_chunk_gated_delta_rule)}
    with patch.dict(vars(module), ours):
        yield


def memory(model: Any, corpora: dict[str, list[TokenSequence]], device: str) -> Iterator[str]:
    """The most above the weights."""
    if device != "cuda":
        yield "is measured on a GPU alone"
        return
    for name, sequences in corpora.items():
        engine = HFEngine(model)
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine.score(sequences)
        yield f"{name}: {(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f} MiB above the weights"


def error(model: Any, corpora: dict[str, list[TokenSequence]]) -> Iterator[str]:
    """The engine in float32 against plain passes in float32, and in half precision against those."""
    few = {name: sequences[:2] for name, sequences in corpora.items()}
    engine = HFEngine(model)
    dtype = model.dtype
    half = {name: _scored(engine, sequences) for name, sequences in few.items()}
    recast(engine, torch.float32)
    for name, sequences in few.items():
        exact = np.concatenate([plain(model, sequence) for sequence in sequences])
        apart, off = np.abs(_scored(engine, sequences) - exact).max(), np.std(half[name] - exact)
        yield f"{name}: float32 at most {apart:.1e} from a plain pass; {dtype} off by {off:.1e} (standard deviation)"
    recast(engine, dtype)


def noise(name: str, corpora: dict[str, list[TokenSequence]], device: str) -> Iterator[str]:
    """The advantage of a policy over a reference close by, in half precision against float32."""
    sequences = [sequence for of in corpora.values() for sequence in of[:2]]
    found: dict[torch.dtype, list[Logprobs]] = {dtype: [] for dtype in (torch.float32, *HALVES)}
    engine = HFEngine(build(name, torch.bfloat16, device))
    for apart in (0.0, APART):
        recast(engine, torch.float32)
        _move(engine.model, apart)
        for dtype in found:
            recast(engine, dtype)
            found[dtype].append(_scored(engine, sequences))
            recast(engine, torch.float32)  # float16 and bfloat16 do not hold each other's numbers
    exact = found[torch.float32][0] - found[torch.float32][1]
    for dtype in HALVES:
        advantage = found[dtype][0] - found[dtype][1]
        share, together = np.std(advantage - exact) / np.std(exact), np.corrcoef(advantage, exact)[0, 1]
        yield f"{dtype}: the advantage is off by {share:.1%} of its spread, correlation {together:.4f}"


@torch.no_grad()
def _move(model: Any, apart: float) -> None:
    generator = torch.Generator(model.device).manual_seed(1)
    for tensor in model.parameters():
        if tensor.dim() == 2 and apart:
            moved = torch.randn(tensor.shape, generator=generator, device=tensor.device)
            tensor.data = (tensor + apart * tensor.std() * moved).bfloat16().float()


def _scored(engine: HFEngine, sequences: Sequence[TokenSequence]) -> Logprobs:
    return np.concatenate([columns.logprob for columns in engine.score(sequences) if columns is not None])


def run(name: str, given: argparse.Namespace, ends: float) -> None:
    """Print all parts of a model."""
    if time.perf_counter() > ends:
        print(f"{name}: left out, the time is over", flush=True)
        return
    model = build(name, getattr(torch, given.dtype), given.device)
    corpora = trees(model.config.get_text_config().vocab_size, given.tokens)
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "speed": lambda: speed(model, corpora, given.repeats, given.device),
        "launches": lambda: launches(model, corpora, given.device),
        "memory": lambda: memory(model, corpora, given.device),
        "error": lambda: error(model, corpora),
        "noise": lambda: noise(name, corpora, given.device),
    }
    for part in (part for part in PARTS if part in given.parts):
        if time.perf_counter() > ends:
            print(f"{name}, {part}: left out, the time is over", flush=True)
            continue
        try:
            if part == "noise":
                del model  # the last part; two of them may be more than there is room for
                gc.collect()
            for line in parts[part]():
                print(f"{name}, {part}, {line}", flush=True)
        except RuntimeError as failed:  # one part's memory or kernel is no reason to lose the others
            print(f"{name}, {part}: {type(failed).__name__}: {str(failed).splitlines()[0]}", flush=True)


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    names = [name for name in MODELS if name != "tiny"]
    parser.add_argument("--models", default=",".join(names), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of these")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=32_000, help="of each corpus, about")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=8.5, help="nothing is begun after that")
    parser.add_argument(
        "--device",
        default="cuda",
        choices=["cuda", "cpu", "meta"],
        help="cpu tries the benchmark itself, with --models tiny; meta has no numbers, and counts launches",
    )
    given = parser.parse_args()
    given.parts, models = given.parts.split(","), given.models.split(",")
    if given.device == "meta":
        given.parts = ["launches"]
    for unknown in {*given.parts} - {*PARTS} | {*models} - {*MODELS}:
        parser.error(f"there is no {unknown!r}")
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no GPU here")
    machine = (
        torch.cuda.get_device_name()
        if given.device == "cuda"
        else f"{given.device}, {torch.get_num_threads()} CPU threads"
    )
    print(f"{machine}; torch {torch.__version__}, transformers {tf.__version__}; {given.dtype}", flush=True)
    ends = time.perf_counter() + 60 * given.minutes
    for name in models:
        run(name, given, ends)


if __name__ == "__main__":
    main()
