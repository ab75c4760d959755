"""The report of a small run whose names are hostile: what it shows, what lies beside it, that nothing of it runs."""

import pickle
import random
import re
import shutil
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe

from pa_dist import schema
from pa_dist.config import Evaluate
from pa_dist.pairs import DEMO, PAIRS
from pa_dist.reduce.evaluate import evaluate
from pa_dist.report import sections
from pa_dist.report.command import report, report_at_end
from pa_dist.report.facts import title
from pa_dist.report.figures.by_group import of_sweep
from pa_dist.report.figures.plots import saved, style
from pa_dist.report.figures.svg import inlined
from pa_dist.report.tables.comparisons import Comparisons, Differences
from pa_dist.report.tables.metrics import GroupMetrics, measured, swept
from pa_dist.report.wording import Slugs, plain
from pa_dist.store.folder import RunFolder

HOSTILE = "<script>alert(1)</script>"
REASON = "</td><img src=x onerror=alert(2)>\x1b[31m\u202e"
PNG = b"\x89PNG\r\n\x1a\n"


def _row(index: int, generator: random.Random, **labels) -> dict:
    steps = [[generator.uniform(-4, 0) for _ in range(3)] for _ in range(4)]
    columns = {f"{model}_{name}": steps for model in schema.MODELS for name in schema.TOKEN_COLUMNS}
    columns["reference_logprob"] = [[value - generator.gauss(0, 1) for value in step] for step in steps]
    columns["policy_self_certainty"] = [[generator.random() for _ in step] for step in steps]
    return {
        "trajectory_id": f"id{index:03d}",
        "benchmark": "$\\frac$",
        "step": [1, 3, 5, 7],
        "agent": ["a"] * 4,
        "text_hash": ["h"] * 4,
        "truncated": [False] * 4,
        "token_ids": [[1, 2, 3]] * 4,
        **columns,
        **labels,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Forty trials of ten tasks with rewards and mistakes, and five that all fail; evaluated and reported."""
    generator = random.Random(0)
    rows = [
        _row(i, generator, domain=HOSTILE, task_id=str(i // 4), trial=i % 4, reward=float(i % 3 == 0), mistake_step=3)
        for i in range(40)
    ] + [_row(40 + i, generator, domain="failed", reward=0.0) for i in range(5)]
    folder = RunFolder(str(tmp_path_factory.mktemp("run")))
    folder.start("score", {"pair": {"policy": "P", "reference": "R"}})
    folder.finish("score", seconds=1.0)
    folder.write("logprobs", "part-0", pa.Table.from_pylist(rows, schema.LOGPROBS))
    told = [{"trajectory_id": row["trajectory_id"], "messages": []} for row in rows]
    folder.write("trajectories", "part-0", pa.Table.from_pylist(told, schema.TRAJECTORIES))
    reject = {"source": "x", "place": "1", "stage": "score", "reason": REASON}
    folder.write("rejects", "part-0", pa.Table.from_pylist([reject] * 3, schema.REJECTS))
    settings = Evaluate(resamples=20)
    folder.start("evaluate", {"evaluate": settings.model_dump(mode="json")})
    summary = evaluate(settings, folder, lambda function, items: map(function, items))
    folder.finish("evaluate", trajectories=summary.trajectories, steps=summary.steps, seconds=1.0)
    report(folder, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def html(folder) -> str:
    return Path(folder.path("report", "index.html")).read_text()


def _table(folder: RunFolder, name: str) -> pa.Table:
    return pacsv.read_csv(folder.path("report", "figures", f"{name}.csv"))


def _metric(folder: RunFolder, **wanted) -> float:
    rows = pq.read_table(folder.path("metrics.parquet")).to_pylist()
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row["value"]


def test_names_stay_text(html):
    assert html.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(2)&gt;\ufffd[31m\ufffd" in html
    assert "\u202e" not in html


def test_the_page_reaches_for_nothing_but_its_own_figures(folder, html):
    addresses = re.findall(r"""(?:href|src)=["']([^"']*)""", html)
    files = [address for address in addresses if not address.startswith("#")]
    assert files
    assert all(re.fullmatch(r"figures/[a-z0-9-]+\.(svg|png|csv)", address) for address in files)
    assert all(Path(folder.path("report", address)).is_file() for address in files)
    assert " style=" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_each_figure_is_an_svg_a_png_and_a_table(folder, html):
    names = {path.stem for path in Path(folder.path("report", "figures")).iterdir()}
    group = "frac-script-alert-1-script"
    of_uq, of_fa = ("roc", "risk-coverage", "scores", "aggregations"), ("errors", "accuracy", "aggregations")
    expected = {f"uq-{group}-{kind}" for kind in of_uq} | {f"fa-{group}-{kind}" for kind in of_fa}
    assert names >= expected | {f"best-of-n-{group}-{kind}" for kind in ("best-of-n", "aggregations")}
    assert html.count('role="img"') == len(names)
    for name in names:
        path = folder.path("report", "figures", name)
        assert ElementTree.parse(f"{path}.svg").getroot().tag.endswith("svg")
        assert Path(f"{path}.png").read_bytes().startswith(PNG)
        assert len(_table(folder, name)) > 0


def test_ids_of_figures_do_not_meet(html):
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]*)\)", html) + re.findall(r'href="#([^"]*)"', html)
    assert {name for name in used if name and "/" not in name} <= set(ids)


def test_what_is_drawn_is_what_the_metrics_say(folder):
    slug = "frac-script-alert-1-script"
    drawn = _table(folder, f"uq-{slug}-roc").filter(pc.field("method") == "progress_advantage").to_pylist()
    area = sum(
        (b["false_positive_rate"] - a["false_positive_rate"]) * (a["true_positive_rate"] + b["true_positive_rate"]) / 2
        for a, b in pairwise(drawn)
    )
    mean = {"domain": HOSTILE, "method": "progress_advantage", "token_agg": "mean"}
    assert area == pytest.approx(_metric(folder, **mean, scenario="uq", step_agg="mean", metric="auroc"), abs=1e-9)
    errors = _table(folder, f"fa-{slug}-errors").to_pylist()
    exact = sum(row["count"] for row in errors if row["predictor"] == "sharpest_drop" and row["error"] == 0)
    accuracy = _metric(folder, **mean, scenario="fa", predictor="sharpest_drop", metric="step_accuracy")
    assert exact / 40 == pytest.approx(accuracy)
    best = _table(folder, f"best-of-n-{slug}-best-of-n").filter(pc.field("n") == 4).to_pylist()
    assert {row["method"] for row in best} >= {"progress_advantage", "oracle pass@n", "mean@n"}
    (oracle,) = [row["success"] for row in best if row["method"] == "oracle pass@n"]
    assert oracle == pytest.approx(_metric(folder, scenario="best_of_n", metric="oracle", at=4.0))
    spent = _metric(folder, domain=HOSTILE, scenario="best_of_n", metric="tokens", at=4.0)
    assert [row["tokens"] for row in best] == pytest.approx([spent] * len(best))
    mine = _table(folder, f"best-of-n-{slug}-best-of-n").filter(pc.field("method") == "progress_advantage").to_pylist()
    before, after = (next(row for row in mine if row["n"] == n) for n in (3, 4))
    gained = (after["success"] - before["success"]) / (spent / 4) * 1000
    assert after["gain_per_1000_tokens"] == pytest.approx(gained, abs=1e-9)


def test_what_the_labels_do_not_allow_is_left_out_with_the_reason(html):
    assert "ROC and risk-coverage curves are left out: one class only: every trajectory failed." in html


def test_a_report_is_the_same_again(folder):
    def files() -> dict[str, bytes]:
        paths = Path(folder.path("report", "figures")).iterdir()
        return {path.name: path.read_bytes() for path in paths}

    before = files()
    report(folder, lambda line: None)
    assert files() == before


def test_many_groups_are_tables_and_tasks_may_run_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "_DRAWN_GROUPS", 1)
    copied = RunFolder(str(shutil.copytree(folder.path(), tmp_path / "run")))

    def elsewhere(function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in pickle.loads(pickle.dumps(items))]

    uq = sections.build(copied, elsewhere).scenarios[0]
    assert [(group.title, bool(group.figures), bool(group.lines)) for group in uq.groups] == [
        (f"$\\frac$ {HOSTILE}", True, True),
        ("$\\frac$ failed", False, True),
    ]
    assert sections._TOO_MANY in uq.groups[1].below


def test_of_more_groups_than_a_page_holds_the_largest_are_shown(folder, tmp_path, monkeypatch):
    largest = max(measured(folder).of("uq"), key=lambda of: of.n)
    monkeypatch.setattr("pa_dist.report.tables.metrics.MOST_GROUPS", 1)
    copied = RunFolder(str(shutil.copytree(folder.path(), tmp_path / "run")))
    uq = sections.build(copied, map).scenarios[0]
    assert len(uq.groups) == 1
    assert uq.left_out == "1 group of fewer trajectories; all figures are in metrics.parquet"
    assert measured(copied).of("uq") == [largest]


def test_comparisons_stand_beside_the_plain_figures(tmp_path):
    shown = {("b", None, None), ("b", None, "other"), ("b", "other", None)}
    assert Comparisons.of(RunFolder(str(tmp_path)), shown) == Comparisons([])
    group = {"scenario": "uq", "benchmark": "b", "domain": None, "metric": "auroc", "at": None, "predictor": None}
    group["behavior"] = None
    own = {"method": "entropy", "against": None, "value": 0.6, "ci_low": 0.5, "ci_high": 0.7, "p_holm": None}
    less = {**own, "method": "progress_advantage", "against": "entropy", "value": 0.1, "ci_low": -0.1, "ci_high": 0.3}
    rows = [
        {**group, **own, "choice": "cross_fitted"},
        {**group, **own, "choice": "hindsight"},
        {**group, **less, "choice": "headline", "p_holm": 0.25},
        {**group, **less, "choice": "cross_fitted", "value": None},
        {**group, **own, "domain": "other", "choice": "cross_fitted"},
        {**group, **own, "behavior": "other", "choice": "cross_fitted"},
        {**group, **own, "domain": "not shown", "choice": "cross_fitted"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "comparisons.parquet")
    found, of = Comparisons.of(RunFolder(str(tmp_path)), shown), GroupMetrics("uq", ("b", None, None), [], [])
    assert len(found.rows) == len(rows) - 1
    assert found.cross_fitted(of) == {"entropy": "0.600 [0.50, 0.70]"}
    assert found.differences(of) == Differences(
        ["aggregation chosen beforehand", "cross-fitted"],
        [("entropy", ["0.100 [-0.10, 0.30], p 0.250", "-"])],
    )
    assert found.differences(of).below == (
        "Paired differences on the same trajectories, [95% interval]; p-values are adjusted for all differences of a "
        "column (Holm)."
    )
    bare = [{**row, "ci_low": None, "ci_high": None, "p_holm": None, "note": "too few tasks"} for row in found.rows]
    assert Comparisons(bare).differences(of).below == "Paired differences on the same trajectories. too few tasks."


def test_titles_name_the_pair_and_the_data_that_ran(folder, html, tmp_path):
    folder.remember(config={"name": "uq_tau2_qwen3.5-9b"})
    said = f"$\\frac$ {HOSTILE}, $\\frac$ failed, scored by P over R"
    assert title(folder, sections.build(folder, map).data) == said
    assert "uq_tau2" not in title(folder, [])
    for pair, name in ((PAIRS["qwen3-14b"], "the pair qwen3-14b"), (DEMO, "the pair demo")):
        folder.start("score", {"pair": {"policy": pair.policy, "reference": pair.reference}})
        assert title(folder, []) == f"Trajectories, scored by {name}"
    folder.start("score", {"pair": {"policy": "P", "reference": "R"}})
    folder.finish("score", seconds=1.0)
    several = RunFolder(str(tmp_path))
    several.start("score", {"pair": {"policy": "P", "reference": "R"}})
    several.start("reference ties-0.5", {})
    assert title(several, []) == "Trajectories, scored by P over R, and over ties-0.5"


def test_the_summary_says_what_was_scored_and_what_was_cut(folder):
    counts = {"trajectories": 2, "steps": 5, "whole_steps": 3, "of_steps": 180}
    record = folder.manifest["stages"]["evaluate"]
    folder.finish("evaluate", scored_steps=177)
    folder.finish("score", rows=45, truncated=counts)
    built = sections.build(folder, map)
    assert built.summary[0].endswith(" failed, scored by P over R: 177 of 180 steps have an advantage.")
    assert built.summary[1] == (
        "Truncation: 5 of 180 steps, in 2 of 45 trajectories, lost tokens: 3 all of them, which are not scored, 2 some."
    )
    assert dict(built.facts)["Truncation"].startswith("5 of 180 steps")
    assert record["steps"] == 180


def test_a_sweep_is_a_line_a_group_against_alpha(tmp_path):
    folder, cell = RunFolder(str(tmp_path)), {"scenario": "uq", "token_agg": "mean", "step_agg": "mean", "n": 9}
    for alpha in (0.5, 1.0):
        folder.start(f"reference ties-{alpha:g}", {"merge": {"method": "ties", "alpha": alpha}})
    folder.start("reference dpo", {})
    of = {0.0: "progress_advantage", 0.5: "progress_advantage@ties-0.5", 1.0: "progress_advantage@ties-1"}
    rows = [
        {**cell, "method": method, "domain": domain, "metric": metric, "value": alpha / 2}
        for alpha, method in of.items()
        for domain in ("a", "b")
        for metric in ("auroc", "spearman")
    ] + [
        {**cell, "method": of[0.5], "domain": "a", "metric": "auroc", "step_agg": "max", "value": 0.9},
        {**cell, "method": "progress_advantage@dpo", "domain": "a", "metric": "auroc", "value": 0.9},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema.METRICS), tmp_path / "metrics.parquet")
    found = swept(folder, measured(folder))
    drawing = of_sweep("uq", found["uq"])
    assert [(row["group"], row["alpha"], row["auroc"]) for row in drawing.rows] == [
        (domain, alpha, alpha / 2) for domain in ("a", "b") for alpha in (0.0, 0.5, 1.0)
    ]
    twice = [*found["uq"], *({**row, "merge_method": "emr"} for row in found["uq"])]
    assert {row["group"] for row in of_sweep("uq", twice).rows} == {"a, ties", "b, ties", "a, emr", "b, emr"}
    with style():
        assert saved(drawing.draw(drawing.rows), "png").startswith(PNG)
    assert of_sweep("uq", [row for row in found["uq"] if row["alpha"] == 1.0]) is None


def test_a_report_that_fails_says_so(tmp_path):
    lines: list[str] = []
    report_at_end(RunFolder(str(tmp_path / "none")), lines.append)
    line, following = lines
    assert "report: not written (RunFolderError: " in line
    assert following == f"next: `pa-dist top {tmp_path}/none` lists what is most worth a look"


def test_an_inlined_svg_follows_the_page():
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="0 0 2 1" width="2pt">'
        '<defs><style>*{}</style><path id="m"/></defs>'
        '<g id="x"><use xlink:href="#m" clip-path="url(#c)" style="fill: #1b1f24; font-family: X"/></g>'
        '<path style="fill: url(#h)"/></svg>'
    )
    found = inlined(svg, "a-", 'says "it"', {"#1b1f24": "var(--ink)"})
    assert found == (
        '<svg viewBox="0 0 2 1" role="img" aria-label="says &quot;it&quot;"><defs><path id="a-m" /></defs>'
        '<g><use clip-path="url(#a-c)" fill="var(--ink)" href="#a-m" /></g><path fill="url(#a-h)" /></svg>'
    )


def test_file_names_are_safe_and_differ():
    slugs = Slugs()
    assert slugs.of("uq", "a/../b", None) == "uq-a-b"
    assert slugs.of("uq", "A B") == "uq-a-b-2"
    assert slugs.of("\u202e") == "figure"
    assert plain("a\x00b\u2066") == "a\ufffdb\ufffd"


@pytest.mark.integration
def test_in_a_browser(folder, browser_page):
    axe = Axe()
    for scheme in ("light", "dark"):
        browser_page.emulate_media(color_scheme=scheme)
        browser_page.goto(f"file://{folder.path('report', 'index.html')}")
        found = axe.run(browser_page, "#report")
        assert found.violations_count == 0, found.generate_report()
    browser_page.set_viewport_size({"width": 390, "height": 800})
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= 390
    colour = "getComputedStyle(document.querySelector('#report figure svg text')).fill"
    dark = browser_page.evaluate(colour)
    browser_page.emulate_media(color_scheme="light")
    assert browser_page.evaluate(colour) != dark
    browser_page.locator("#report details summary").first.click()
    assert not browser_page.locator("#report details").first.evaluate("element => element.open")
