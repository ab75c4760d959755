"""The viewer at scale: a corpus of many trajectories, the weight of its report, and how long a browser takes."""

import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSelector

from pa_dist import schema
from pa_dist.config import Evaluate, Ray
from pa_dist.demo.agreement import shipped_rollouts
from pa_dist.engine.tokens import load_tokenizer
from pa_dist.ingest import read as formats
from pa_dist.ingest import sources
from pa_dist.ingest.messages import messages
from pa_dist.reduce.evaluate import evaluate
from pa_dist.render.plain import render
from pa_dist.report.command import report
from pa_dist.runtime import cluster, tasks
from pa_dist.store.folder import RunFolder
from pa_dist.trajectory import Trajectory

Row = dict[str, Any]
# The share of words that a copy has of another place of the corpus, so that no two copies say the same.
_CHANGED = 0.2
_PER_FILE = 200


def corpus(data: Path, n: int) -> Iterator[Row]:
    """Copies with changes of tau-bench where it is there, else of the demo's rollouts."""
    found = list(_tau_bench(data)) or [_demo_row(dict(row)) for row in shipped_rollouts()]
    words = [word for row in found for m in row["messages"] for word in (m["content"] or "").split(" ")[:200]]
    rng = np.random.default_rng(0)
    for i in range(n):
        copy, row = divmod(i, len(found))
        key = {"trajectory_id": f"{copy:04d}-{row}", "task_id": f"{copy:04d}-{found[row]['task_id']}"}
        messages = [{**m, "content": _changed(m["content"], words, rng)} for m in found[row]["messages"]]
        yield {**found[row], **key, "messages": messages}


def _tau_bench(data: Path) -> Iterator[Row]:
    try:
        given = sources.expand([str(data / "tau_bench" / "*.json")])
    except Exception:  # nothing matches
        return
    for source in given:
        for record in formats.read("tau_bench", source):
            if isinstance(record, Trajectory):
                yield {name: getattr(record, name) for name in schema.TRAJECTORIES.names}


def _demo_row(row: Row) -> Row:
    read = messages(list(row["messages"])).messages
    return {**{name: row.get(name) for name in schema.TRAJECTORIES.names}, "messages": read}


def _changed(text: str | None, words: list[str], rng: np.random.Generator) -> str | None:
    # A system message is every trajectory's own in no corpus: long ones stay.
    if text is None or len(text) > 4000:
        return text
    parts = text.split(" ")
    for at in np.flatnonzero(rng.random(len(parts)) < _CHANGED):
        parts[at] = words[rng.integers(len(words))]
    return " ".join(parts)


def write_run(folder: RunFolder, rows: Iterator[Row], model: str) -> None:
    """A run folder of these trajectories, evaluated, with log-probs drawn at random: numbers that compress worst."""
    tokenizer, rng = load_tokenizer(model), np.random.default_rng(0)
    folder.claim()
    waiting: list[Row] = []
    n = 0
    for row in rows:
        waiting.append(row)
        n += 1
        if len(waiting) == _PER_FILE:
            _write_part(folder, n, waiting, tokenizer, rng)
            waiting = []
    if waiting:
        _write_part(folder, n, waiting, tokenizer, rng)
    pair = {"policy": model, "reference": model, "policy_revision": None, "reference_revision": None}
    settings = Evaluate(intervals="none", scenarios=["best_of_n"])
    folder.start("score", {"pair": pair, "score": {"max_length": 16384}}, commits={"policy": None, "reference": None})
    folder.finish("score", rows=n, rejects=0, seconds=1.0)
    folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
    summary = evaluate(settings, folder, tasks.map_tasks)
    folder.finish("evaluate", **asdict(summary), seconds=1.0)


def _write_part(folder: RunFolder, number: int, given: list[Row], tokenizer: Any, rng: np.random.Generator) -> None:
    scored = []
    for row in given:
        rendered = render(row["messages"], "assistant")
        ids = tokenizer([rendered.texts[i] for i in rendered.actions], add_special_tokens=False)["input_ids"]
        policy = [-rng.exponential(0.5, len(step)) for step in ids]
        reference = [of_step + rng.normal(0, 0.3, len(of_step)) for of_step in policy]
        values = {
            f"{m}_{c}": v for m, v in zip(schema.MODELS, (policy, reference), strict=True) for c in schema.TOKEN_COLUMNS
        }
        told = {"step": rendered.actions, "agent": rendered.agents, "text_hash": [None] * len(ids)}
        keys = {field.name: row.get(field.name) for field in (*schema.KEYS, *schema.LABELS, schema.STEP_LABELS)}
        scored.append({**keys, **told, "truncated": [False] * len(ids), "token_ids": ids, **values})
    folder.write("trajectories", f"part-{number:07d}", pa.Table.from_pylist(given, schema.TRAJECTORIES))
    folder.write("logprobs", f"part-{number:07d}", pa.Table.from_pylist(scored, schema.LOGPROBS))


def measure(model: str, data: Path, place: str, n: int, repeats: int) -> None:
    """Make a corpus, write its report, open it; print the figures."""
    folder = RunFolder(place)
    cluster.connect(Ray())
    write_run(folder, corpus(data, n), model)
    began = time.perf_counter()
    report(folder, lambda line: None, n)
    print(f"{n:,} trajectories: the report took {time.perf_counter() - began:.0f} s to write")
    (page,) = folder.filesystem.get_file_info([folder.path("report", "index.html")])
    selector = FileSelector(folder.path("report", "data"), allow_not_found=True)
    chunks = sorted(file.size for file in folder.filesystem.get_file_info(selector))
    print(f"page: {page.size / 1e6:.2f} MB")
    if chunks:
        middle = statistics.median(chunks) / 1e3
        print(f"chunks: {len(chunks)}, median {middle:.0f} kB, largest {chunks[-1] / 1e3:.0f} kB")
        print(f"all chunks: {sum(chunks) / 1e6:.0f} MB")
    for name, seconds in _browse(page.path, repeats).items():
        least, most = min(seconds), max(seconds)
        print(f"{name}: {statistics.median(seconds):.3f} s ({least:.3f} to {most:.3f}, {len(seconds)} times)")


# What an input event does until the new rows stand in the page.
_FILTER = """(wanted) => { const began = performance.now(); const box = document.getElementById("filter-text");
box.value = wanted; box.dispatchEvent(new Event("input", {bubbles: true})); document.body.offsetHeight;
return (performance.now() - began) / 1000; }"""
_SORT = """() => { const began = performance.now(); document.querySelector("[data-key=score] button").click();
document.body.offsetHeight; return (performance.now() - began) / 1000; }"""


def _browse(page_path: str, repeats: int) -> dict[str, list[float]]:
    """Seconds to the first rows, to one trajectory's tokens, to filter and to sort, each time in a new page."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {name: [] for name in ("first view", "open a trajectory", "filter", "sort")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        for i in range(repeats):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(f"file://{page_path}#/trajectories")
            page.wait_for_selector("#list-rows tr")
            times["first view"].append(time.perf_counter() - began)
            times["filter"].append(page.evaluate(_FILTER, f"-{i}"))
            times["sort"].append(page.evaluate(_SORT))
            began = time.perf_counter()
            page.evaluate(f"document.querySelectorAll('#list-rows a')[{i}].click()")
            page.wait_for_selector(".tokens .token")
            times["open a trajectory"].append(time.perf_counter() - began)
            page.close()
        browser.close()
    return times


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
