"""The viewer in Chromium, from disk: what trajectories say stays text, and everything can be reached."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from pyarrow.fs import FileSelector
from small_run import message, rows, trajectory, write_run
from tiny_models import save_tokenizer

from pa_dist.report.command import report
from pa_dist.report.viewer import chunks as viewer

pytestmark = pytest.mark.integration

HOSTILE = (
    "<script>window.ran = 1</script></script><img src=x onerror='window.ran = 2'> [a](javascript:window.ran=3) "
    "\x1b[31mred\x1b]8;;http://example.com\x07 \u202egnp.exe\u2066 \x00 \u2028 ]]> --> {{ 7*7 }}"
)
ODD = "/trajectories"
LIKE_A_SECTION = "section-<b>&step=1"
LONG = "x" * 1_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    tokenizer = save_tokenizer(root / "policy", bos=True)
    call = ("__proto__", '{"__proto__": {"polluted": true}, "n": 12345678901234567890, "half": "\\ud800"}')
    given = [
        *rows(),
        trajectory(
            ODD,
            HOSTILE,
            None,
            [message("user", HOSTILE), message("assistant", HOSTILE, call, reasoning=HOSTILE)],
            reward=0.5,
        ),
        trajectory(
            LIKE_A_SECTION,
            None,
            None,
            [message(HOSTILE, "hi"), message("assistant", "yes"), message("tool", LONG)],
            step_labels=[-1, -1, None],
        ),
    ]
    given = sorted(given, key=lambda row: row["trajectory_id"])
    folder = write_run(str(root / "run"), given, tokenizer, str(root / "policy"))
    report(folder, lambda line: None)
    return folder


@pytest.fixture
def opened(run, browser_page):
    """Opens the page at an address, waits for the viewer to be there, and gives the page."""

    def opened(hash_="#/trajectories", **size):
        browser_page.set_viewport_size({"width": 1200, "height": 900, **size})
        browser_page.goto(f"file://{run.path('report', 'index.html')}{hash_}")
        browser_page.wait_for_selector("#list-rows tr" if hash_ == "#/trajectories" else ".conversation")
        return browser_page

    return opened


def ids(page):
    return page.locator("#list-rows th a").all_inner_texts()


def by_score(run):
    """All ids, the lowest score first."""
    scores = run.dataset("scores").to_table().to_pylist()
    return [row["trajectory_id"] for row in sorted(scores, key=lambda row: row["progress_advantage__mean__mean"])]


def test_what_trajectories_say_is_text(opened):
    page = opened("#%2Ftrajectories")
    page.locator(".recorded summary").click()
    said = page.locator(".message .text").first.inner_text()
    for part in ("<script>window.ran = 1</script></script>", "onerror=", "javascript:", "{{ 7*7 }}"):
        assert part in said
    for mark in ("␛[31m", "␀", "U+202E", "U+2066", "U+2028"):
        assert mark in said
    assert page.locator(".message img, .message script, .message a:not([href^='#'])").count() == 0
    assert "12345678901234567890" in page.locator(".recorded pre").inner_text()
    assert "__proto__" in page.locator(".recorded .call").inner_text()
    assert page.evaluate("[window.ran, {}.polluted]") == [None, None]
    tokens = page.locator(".tokens").inner_text()
    assert "<script>window.ran = 1</script>" in tokens
    assert "\u202e" not in page.content()


def test_half_a_character_stays_what_it_is(opened):
    page = opened()
    shown = page.evaluate(
        """async (text) => { document.body.dataset.half = JSON.stringify(JSON.parse(text));
        return viewerText.show(document.createElement("p"), JSON.parse(text)).textContent; }""",
        json.dumps("a\ud800b😀"),
    )
    assert shown == "aU+D800b😀"


def test_an_id_like_a_section_of_the_report_has_an_address_and_long_messages_are_folded(opened):
    page = opened()
    page.get_by_role("link", name=LIKE_A_SECTION).click()
    page.wait_for_selector(".conversation")
    assert page.evaluate("location.hash").startswith("#%73ection-%3Cb%3E%26step%3D1")
    assert page.locator(".trajectory-heading").inner_text() == LIKE_A_SECTION
    tool = page.locator(".message .text").last
    assert len(tool.inner_text()) < 1000
    tool.locator("button").click()
    assert len(tool.text_content()) == len(LONG)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


def test_filters_and_sorting(opened):
    page = opened()
    assert page.locator("#list-count").inner_text() == "14 trajectories"
    page.select_option("#filter-outcome", "success")
    assert sorted(ids(page)) == ["run-0-0", "run-1-0", "run-2-0"]
    page.fill("#filter-text", "4701")
    assert ids(page) == ["run-1-0"]
    assert page.locator("#list-count").inner_text() == "1 of 14 trajectories"
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#list-rows tr")).to_have_count(14)
    for order in ("descending", "ascending", "descending"):
        page.locator("#list-head").get_by_role("button", name="Score").click()
        assert page.locator("#list-head th[aria-sort]").get_attribute("aria-sort") == order
        numbers = [float(t.replace("−", "-")) for t in page.locator("#list-rows td:nth-child(6)").all_inner_texts()]
        assert numbers == sorted(numbers, reverse=order == "descending")
    middle = numbers[6]
    page.fill("#filter-low", str(middle - 0.001))
    assert page.locator("#list-rows tr").count() == 7


def test_every_step_that_is_labelled_wrong_is_marked(opened):
    page = opened()
    page.get_by_role("link", name=LIKE_A_SECTION).click()
    expect(page.locator(".badge.label")).to_have_text(["labelled wrong"])
    expect(page.locator(".mark.label")).to_have_text(
        ["✕ labelled wrong: message 0, which is no step", "✕ labelled wrong: step 1 of 1"]
    )


def test_the_list_opens_with_the_lowest_scores_and_a_trajectory_at_its_most_suspicious_step(opened, run):
    page = opened()
    assert page.locator("#list-head th[aria-sort]").inner_text().startswith("Score")
    assert ids(page) == by_score(run)
    blamed = run.dataset("attributions").to_table().to_pylist()
    cell = {"method": "progress_advantage", "token_agg": "mean", "predictor": "sharpest_drop"}
    found = {a["trajectory_id"]: a for a in blamed if cell.items() <= a.items()}
    suspected = {key: of["number"] for key, of in found.items() if not of["fallback"] and key.startswith("run-")}
    assert set(suspected.values()) == {1, 2}
    for number in (1, 2):
        key = next(key for key, of in suspected.items() if of == number)
        page.evaluate(f"location.hash = '#{key}'")
        expect(page.locator(".trajectory-heading")).to_have_text(key)
        expect(page.locator(".message.current .badge.predicted").first).to_have_text("most suspicious")
        assert page.evaluate("location.hash") == f"#{key}&step={number}"
    without = next(key for key, of in found.items() if of["fallback"] and key.startswith("run-"))
    page.evaluate(f"location.hash = '#{without}'")
    expect(page.locator(".trajectory-heading")).to_have_text(without)
    expect(page.locator(".trajectory-heading")).to_be_focused()


def test_keys(opened):
    page = opened()
    page.locator("#list-head").get_by_role("button", name="Trajectory").click()
    page.get_by_role("link", name="run-0-1").click()
    page.wait_for_selector(".conversation")
    page.evaluate("location.hash = '#run-0-1&step=1'")
    expect(page.locator(".message.current h3")).to_contain_text("Step 1 of 2")
    assert page.evaluate("location.hash") == "#run-0-1&step=1"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.classList.contains('current')")
    assert page.locator(".message.current h3").inner_text().startswith("Step 2 of 2")
    assert page.locator(".message.current .message-number").inner_text() == "message 3"
    assert page.locator(".message.current .badge.label").inner_text() == "labelled mistake"
    page.keyboard.press("k")
    assert page.evaluate("location.hash") == "#run-0-1&step=1"
    page.keyboard.press("n")
    expect(page.locator(".trajectory-heading")).to_have_text("run-0-2")
    page.keyboard.press("p")
    expect(page.locator(".trajectory-heading")).to_have_text("run-0-1")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()
    page.keyboard.press("Escape")
    page.wait_for_selector("#list-rows tr")
    expect(page.locator("#list-rows a", has_text="run-0-1")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("jn?")
    assert page.input_value("#filter-text") == "jn?"
    assert page.evaluate("location.hash") == "#/trajectories"


def test_a_tokens_numbers_are_those_of_the_tables(opened, run):
    page = opened("#run-0-1&step=1")
    table = run.dataset("logprobs").to_table().to_pylist()
    (row,) = [row for row in table if row["trajectory_id"] == "run-0-1"]
    policy, reference = row["policy_logprob"][0][4], row["reference_logprob"][0][4]
    wanted = f"advantage {policy - reference:+.3f}, policy {policy:+.3f}, reference {reference:+.3f}".replace("-", "−")
    page.locator(".message.current .token").nth(4).hover()
    assert wanted in page.locator(".details").inner_text()
    page.keyboard.press("t")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert f"{wanted} · token 5 of {len(row['token_ids'][0])}, step 1" in page.locator(".details").inner_text()
    joined = page.locator(".message.action").nth(1).locator(".token", has_text="😀").first
    joined.click()
    assert page.locator(".details").inner_text().count("advantage") == 4


def test_a_strip_marks_steps_and_goes_to_them(opened):
    page = opened("#run-0-1")
    assert page.locator(".strip-sign.label").count() == 1
    page.locator(".strip svg").scroll_into_view_if_needed()
    box = page.locator(".strip svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + 60)
    assert page.evaluate("location.hash") == "#run-0-1&step=2"
    assert page.locator(".strip text", has_text=re.compile("^[12]$")).count() == 2


def test_links_to_steps_and_to_messages(opened):
    page = opened("#run-0-1&message=3")  # which is the second action
    expect(page.locator(".message.current h3")).to_contain_text("Step 2 of 2")
    assert page.evaluate("location.hash") == "#run-0-1&step=2"
    page.evaluate("location.hash = '#run-0-1&message=2'")
    expect(page.locator(".message", has_text="shipped").first).to_be_focused()
    page.evaluate("location.hash = '#run-0-1&step=3'")  # as older links named message 3
    expect(page.locator("#viewer-trouble")).to_contain_text("There is no step 3 here, of 2.")
    page.evaluate("location.hash = '#run-0-1&step=1'")
    expect(page.locator("#viewer-trouble")).to_be_hidden()


def test_the_list_claims_no_failure_that_nobody_labelled(opened):
    page = opened()
    page.fill("#filter-text", "section-")
    row = page.locator("#list-rows tr")
    expect(row).to_have_count(1)
    assert row.locator("td:nth-child(5)").inner_text() == "? unknown"
    assert "Most suspicious step" in page.locator("#list-head").inner_text()
    assert "fail" not in row.inner_text().lower()
    page.fill("#filter-text", "")
    page.select_option("#filter-outcome", "unknown")
    assert ids(page) == [LIKE_A_SECTION]


def test_reasoning_is_folded_text_above_what_was_said(opened):
    page = opened(f"#{ODD.replace('/', '%2F')}&step=1")
    thought = page.locator(".message.action .reasoning")
    assert thought.locator("summary").inner_text() == (
        f"Reasoning, {len(HOSTILE)} characters, no part of the plain rendering and not scored"
    )
    assert page.locator(".reasoning .text").count() == 0
    thought.locator("summary").click()
    assert "<script>window.ran = 1</script>" in thought.locator(".text").inner_text()
    assert page.evaluate("window.ran") is None
    assert thought.bounding_box()["y"] < page.locator(".message.action .tokens").bounding_box()["y"]


def test_trials_side_by_side(opened):
    page = opened("#run-1-0")
    assert page.locator(".trials tbody tr").count() == 4
    assert page.locator(".trials .chosen").count() == 1
    page.get_by_role("link", name="show beside this one: run-1-2").click()
    page.wait_for_selector(".columns.of-2")
    assert page.evaluate("location.hash") == "#run-1-0&with=run-1-2"
    assert page.locator(".trajectory-heading").all_inner_texts() == ["run-1-0", "run-1-2"]


def test_an_unknown_id_says_so(opened):
    page = opened()
    page.evaluate("location.hash = '#no-such'")
    page.wait_for_selector("#viewer-trouble:not([hidden])")
    assert 'no trajectory "no-such"' in page.locator("#viewer-trouble").inner_text()
    page.keyboard.press("Escape")
    expect(page.locator("#list-rows tr")).to_have_count(14)


def test_a_link_to_a_message_that_is_not_there_opens_the_trajectory(opened):
    page = opened("#run-0-1&message=99")
    expect(page.locator(".trajectory-heading")).to_be_focused()
    expect(page.locator("#viewer-trouble")).to_contain_text("no message 99")


@pytest.mark.parametrize("hash_", ["#/trajectories", "#run-0-1&step=2", "#run-0-1&with=run-0-2", "#%2Ftrajectories"])
@pytest.mark.parametrize("width", [320, 390])
def test_a_phones_width(opened, hash_, width):
    assert opened(hash_, width=width).evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash_", ["#/trajectories", "#run-0-1&step=2"])
def test_axe_finds_nothing(opened, browser_page, scheme, hash_):
    browser_page.emulate_media(color_scheme=scheme)
    found = Axe().run(opened(hash_))
    assert not found.response["violations"], found.generate_report()


def test_chunks_beside_the_page(run, opened, monkeypatch):
    monkeypatch.setattr(viewer, "_EMBEDDED_BYTES", 0)
    monkeypatch.setattr(viewer, "_CHUNK_CHARS", 1)
    report(run, lambda line: None)
    assert len(list(run.filesystem.get_file_info(FileSelector(run.path("report", "data"))))) == 14
    first, second, *_ = (key for key in by_score(run) if key.startswith("run-"))
    page = opened(f"#{second}")
    assert page.locator(".trajectory-heading").inner_text() == second
    page.keyboard.press("p")
    expect(page.locator(".trajectory-heading")).to_have_text(first)
