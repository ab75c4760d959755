"""The reports of the demo and of real Who & When files, as a reader goes through them."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pyarrow.dataset as pads
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.integration

DATA = Path(os.environ.get("PA_DIST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def who_and_when(pair, tmp_path_factory):
    """A run of the command over eight files, with a pair that knows nothing."""
    if not DATA.is_dir():
        pytest.skip(f"no published trajectories in {DATA}; set PA_DIST_DATA")
    out = tmp_path_factory.mktemp("who") / "out"
    files = {"format": "who_and_when", "paths": [str(DATA / "who_and_when" / "Algorithm-Generated")], "limit": 8}
    settings = {"name": "who", "trajectories": files, "pair": pair, "score": {"max_length": 500}, "output": str(out)}
    config = out.parent / "who.yaml"
    config.write_text(yaml.safe_dump(settings))
    done = subprocess.run([sys.executable, "-m", "pa_dist", "run", config], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture(params=["demo", "who_and_when"])
def out(request):
    """The run folder of one of the two."""
    made = request.getfixturevalue(request.param)
    return made[0] if request.param == "demo" else made


def test_a_reader_goes_through_the_report(out, browser_page):
    labels = pads.dataset(out / "scores").to_table().select(["trajectory_id", "mistake_step"])
    address = (out / "report" / "index.html").as_uri()
    browser_page.goto(address)
    assert browser_page.locator("#section-fa table").count() > 0
    assert browser_page.locator("#report figure svg").count() > 0
    browser_page.locator("#to-viewer").click()
    expect(browser_page.locator("#list-rows tr")).to_have_count(min(100, len(labels)))
    browser_page.locator("#list-head").get_by_role("button", name="Score").click()
    first = browser_page.locator("#list-rows th a").first.inner_text()
    browser_page.fill("#filter-text", first)
    expect(browser_page.locator("#list-rows th a").first).to_have_text(first)

    labelled = labels.filter(labels["mistake_step"].is_valid()).to_pylist()[0]
    browser_page.goto(f"{address}#{quote(labelled['trajectory_id'], safe='')}")
    expect(browser_page.locator(".trajectory-heading")).to_have_text(labelled["trajectory_id"])
    steps = pads.dataset(out / "steps").to_table().select(["trajectory_id", "step"]).to_pylist()
    places = [row["step"] for row in steps if row["trajectory_id"] == labelled["trajectory_id"]]
    step = f"step {places.index(labelled['mistake_step']) + 1} of {len(places)}"
    expect(browser_page.locator(".conversation")).to_contain_text(f"labelled mistake: {step}")
    browser_page.keyboard.press("j")
    expect(browser_page.locator(".message.current")).to_have_count(1)
    browser_page.locator(".token:not(.unscored)").first.hover()
    expect(browser_page.locator(".details")).to_contain_text("policy")
    assert Axe().run(browser_page).violations_count == 0
    browser_page.set_viewport_size({"width": 390, "height": 800})
    # The strip is drawn again for a new width.
    browser_page.wait_for_function("document.documentElement.scrollWidth <= 390", timeout=5000)
