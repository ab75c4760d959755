"""Make the README's pictures from a run of the demo: its report, and the trajectory whose failure it finds.

pa-dist demo --out runs/demo && python docs/pictures.py runs/demo
"""

import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

import pa_dist

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
SIZES = {"report": (1180, 1590), "viewer": (1180, 1330)}
LONG = 4  # steps


def main(out: str) -> None:
    page = Path(out, "report", "index.html").resolve().as_uri()
    addresses = {"report": f"{page}#section-best_of_n", "viewer": f"{page}#{quote(_found(out), safe='')}"}
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, address in addresses.items():
            width, height = SIZES[name]
            view = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            view.goto(address)
            view.wait_for_timeout(1000)
            view.evaluate("scrollTo(0, 0)")  # a trajectory opens at its most suspicious step
            view.screenshot(path=HERE / f"{name}.png")
            print(HERE.name, f"{name}.png")
        browser.close()


def _found(out: str) -> str:
    """The first failure whose labelled step `sharpest_drop` finds, of those that went on for a while after it."""
    run = pa_dist.open_run(out)
    scores, blamed = run.pandas("scores"), run.pandas("attributions")
    mean = (blamed.method == "progress_advantage") & (blamed.token_agg == "mean")
    found = blamed[mean & (blamed.predictor == "sharpest_drop") & (blamed.correct == True)]  # noqa: E712, of three values
    failed = scores[(scores.reward == 0) & (scores.n_steps >= LONG) & scores.trajectory_id.isin(found.trajectory_id)]
    return str(failed.trajectory_id.min())


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
