"""Break files, rows and configs in every way we know, and count what becomes of them.

python tests/hostile.py --inputs 5000        prints the tally; a traceback or a lost row ends it
"""

import argparse
import copy
import faulthandler
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_models import save_model, save_tokenizer

from pa_dist import config
from pa_dist.config import Evaluate, Trajectories
from pa_dist.engine.hf import HFEngine
from pa_dist.engine.load import load_model
from pa_dist.engine.protocol import score_rows
from pa_dist.engine.tokens import load_tokenizer
from pa_dist.errors import ConfigError
from pa_dist.ingest.tables import ingest
from pa_dist.reduce.evaluate import evaluate
from pa_dist.runtime.attempts import Attempts, outcomes
from pa_dist.score import rows
from pa_dist.store.folder import RunFolder

# A format's inputs take seconds; what takes so long hangs.
HANG_SECONDS = 900
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 4711}'}}
MESSAGES = [
    {"role": "system", "content": "You work at an order desk."},
    {"role": "user", "content": "Please cancel my order."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"status": "shipped"}', "tool_call_id": "c1"},
    {"role": "assistant", "content": "It has shipped already."},
]
HISTORY = [{"role": "assistant", "name": "Planner", "content": "We look it up."}, {"role": "human", "content": "Do."}]
SOUND = {
    "chat": {"id": "a", "task_id": "1", "trial": 0, "messages": MESSAGES, "reward": 1.0, "mistake_step": 2},
    "tau_bench": {"task_id": 3, "trial": 1, "reward": 0.0, "info": {"task": {"user_id": "u"}}, "traj": MESSAGES},
    "tau2": {"id": "s", "task_id": "4", "trial": 0, "reward_info": {"reward": 1.0}, "messages": MESSAGES},
    "agentdojo": {
        "suite_name": "banking",
        "pipeline_name": "model",
        "user_task_id": "user_task_0",
        "utility": True,
        "messages": [
            {"role": "user", "content": [{"type": "text", "content": "Pay the bill."}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": "pay", "args": {"n": 1}}]},
        ],
    },
    "inspect_log": {
        "id": 1,
        "epoch": 1,
        "attachments": {"a": "Long."},
        "scores": {"match": {"value": "C"}},
        "messages": [
            {"role": "user", "content": "attachment://a"},
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes."}],
                "tool_calls": [{"id": "c", "function": "look", "arguments": {"x": 1}, "type": "function"}],
            },
        ],
    },
    "parquet": {"messages": MESSAGES},
    "auto": {"id": "a", "task_id": "1", "messages": MESSAGES, "reward": 1.0},
    "who_and_when": {"question_ID": "q", "mistake_step": "1", "mistake_agent": "Planner", "history": HISTORY},
}
# As JSON text, for what Python's own values cannot say.
JUNK = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "1e400",
        "-0.0",
        "NaN",
        "Infinity",
        "-Infinity",
        "99999999999999999999999",
        "[]",
        "{}",
    ),
    *(
        '""',
        '" "',
        '"../../x"',
        '"/etc/passwd"',
        '"C:\\\\x"',
        '"a\\u0000b"',
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '"\\u202e"',
    ),
    *('"<script>alert(1)</script>"', '"\\u001b[31m"', '"=1+1"', '"%s%n"', '"${HOME}"', '"assistant"', '"\\ufeff"'),
    *("[[[[]]]]", '[{"role": 1}]', '{"role": {"role": null}}', '[null, 1, "a"]', '{"function": []}', '{"a": NaN}'),
    *("[" * 60 + "]" * 60, '{"a":' * 2000 + "1" + "}" * 2000, "1" * 5000, '"' + "x" * 20000 + '"'),
]
MARK = "\x7fjunk\x7f"


def places(node, path=()):
    """All places in a JSON-like tree."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(record, rng):
    """A record's text with one to three of its values replaced, left out or doubled."""
    record, junk = copy.deepcopy(record), []
    for _ in range(rng.randint(1, 3)):
        *above, last = rng.choice([path for path in places(record) if path])
        node = record
        for key in above:
            node = node[key]
        action = rng.random()
        if action < 0.2:
            del node[last]
        elif action < 0.3 and isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        else:
            node[last] = MARK
            junk.append(rng.choice(JUNK))
        if not record:
            break
    text = json.dumps(record)
    for value in junk:
        text = text.replace(json.dumps(MARK), value, 1)
    return text


def broken(data, rng):
    """Bytes of a file with a fault of the file itself."""
    at = rng.randrange(len(data))
    return rng.choice(
        [
            lambda: data[:at],
            lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            lambda: data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:],
            lambda: data.decode(errors="replace").encode("utf-16"),
            lambda: b"\xef\xbb\xbf" + data,
            lambda: b"\x00" * rng.randint(0, 5),
            lambda: data.replace(b'"', b"'"),
            lambda: data.replace(b"{", b"[", 1),
            lambda: data + b"," + data,
            lambda: data.replace(b"e", b"\xe9", 1),
        ]
    )()


def wrapped(format, text):
    """A file's text around one record."""
    if format == "tau2":
        return '{"info": {}, "tasks": [], "simulations": [' + text + "]}"
    if format == "inspect_log":
        return '{"eval": {"task": "t"}, "samples": [' + text + "]}"
    return f"[{text}]" if format == "tau_bench" else text.replace("\n", " ")


def parquet(text):
    """A file of one row, whose messages are those of the record as JSON text."""
    text = text.removeprefix('{"messages": ').removesuffix("}")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"messages": [text.encode(errors="replace").decode()]}), sink)
    return sink.getvalue().to_pybytes()


def write_files(place, format, n, rng):
    """`n` files of one record each, most of them broken somehow; how many hold exactly one record."""
    whole = 0
    for index in range(n):
        sound = {name: f"run-{index}" if name == "id" else value for name, value in SOUND[format].items()}
        text = wrapped(format, mutated(sound, rng) if rng.random() < 0.95 else json.dumps(sound))
        data, suffix = text.encode(errors="surrogatepass"), "jsonl" if format in ("chat", "auto") else "json"
        if format == "parquet":
            data, suffix = parquet(text), "parquet"
        if rng.random() < 0.25:
            data = broken(data, rng)
        else:
            whole += 1
        if rng.random() < 0.05 and format != "parquet":
            data, suffix = gzip.compress(data), f"{suffix}.gz"
            if rng.random() < 0.5:
                data = broken(data, rng)
        (place / f"{index:05d}.{suffix}").write_bytes(data)
    return whole


def large(place):
    """A message of 50 MB, a history of a million steps, and one nested as deep as text goes."""
    say = '{"role": "assistant", "content": "%s"}'
    (place / "long.jsonl").write_text('{"messages": [' + say % ("word " * 10_000_000) + "]}\n")
    (place / "many.jsonl").write_text('{"messages": [' + ", ".join([say % "go on"] * 1_000_000) + "]}\n")
    (place / "deep.jsonl").write_text('{"messages": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}\n")


def run(format, sources, out, engine, tokenizer):
    """Ingest, tokenise and score what is in a folder, holding rows in against rows out; a tally."""
    folder = RunFolder(str(out))
    counts = ingest(Trajectories(format=format, paths=[str(sources)]), folder, map)
    assert counts.read == counts.kept + counts.rejected, counts
    assert counts.rejected == folder.count("rejects"), counts
    table = folder.dataset("trajectories").to_table()
    assert len(table) == counts.kept
    tokens, rejects = rows.tokenize_rows(table, [tokenizer], [engine.model.config.vocab_size], "auto", 64)
    assert len(tokens) + len(rejects) == len(table)
    ids, of_model = tokens["trajectory_id"].to_pylist(), rows.token_rows(tokens, "policy")
    found = outcomes(partial(score_rows, engine), ids, of_model, Attempts())
    kept, columns, lost = rows.split_lost(tokens, "policy", found)
    assert len(kept) + len(lost) == len(tokens)
    scored = rows.with_columns(kept, "policy", "policy", columns)
    scored = rows.logprobs_table(rows.with_columns(scored, "reference", "policy", columns))
    folder.write("logprobs", "part-00000", scored)
    summary = evaluate(Evaluate(intervals="none"), folder, map)
    assert summary.trajectories == len(scored)
    return Counter(read=counts.read, rejected=counts.rejected + len(rejects) + len(lost), scored=len(scored))


CONFIG = {
    "name": "x",
    "trajectories": {"format": "chat", "paths": ["a.jsonl"], "limit": 3},
    "pair": {"policy": "p", "reference": "r"},
    "score": {"dtype": "float32", "max_length": 60, "policy": {"replicas": 2, "labels": {"a": "b"}}},
    "evaluate": {"resamples": 10, "within": [1]},
    "output": "out",
}


def read_configs(place, n, rng):
    """How many of `n` broken configs were refused; the others must be configs."""
    refused = 0
    for _ in range(n):
        text = mutated(CONFIG, rng)
        data = broken(text.encode(errors="surrogatepass"), rng) if rng.random() < 0.4 else text.encode(errors="replace")
        (place / "config.yaml").write_bytes(data)
        try:
            config.load(place / "config.yaml")
        except ConfigError as error:
            lines = str(error).splitlines()
            refused += 1
            if len(lines) != 1:
                raise
    return refused


def main(inputs, seed, with_large=True):
    rng, began = random.Random(seed), time.monotonic()
    total = Counter()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        save_model(place / "model", 0)
        save_tokenizer(place / "model", bos=True)
        engine, tokenizer = HFEngine(load_model(str(place / "model"))), load_tokenizer(str(place / "model"))
        for format in SOUND:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            (place / format).mkdir()
            n = inputs // (len(SOUND) + 1)
            whole = write_files(place / format, format, n, rng)
            tally = run(format, place / format, place / f"{format}-out", engine, tokenizer)
            # A file that is whole is one record; one that is broken is told of at least once.
            assert tally["read"] >= n >= whole
            print(f"{format}: {n} files, {dict(tally)}", flush=True)
            total += tally
        if with_large:
            (place / "large").mkdir()
            large(place / "large")
            tally = run("chat", place / "large", place / "large-out", engine, tokenizer)
            print(f"large: 3 files, {dict(tally)}", flush=True)
            total += tally
        refused = read_configs(place, inputs // (len(SOUND) + 1), rng)
        print(f"configs: {inputs // (len(SOUND) + 1)}, {refused} of them refused in one line")
    faulthandler.cancel_dump_traceback_later()
    assert total["read"] == total["rejected"] + total["scored"]
    print(f"{inputs} inputs: 0 tracebacks, 0 hangs")
    print(f"rows: {total['read']} = {total['scored']} + {total['rejected']} rejects")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())))
