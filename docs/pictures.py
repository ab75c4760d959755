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
SIZES = {"report": (1180, 900), "viewer": (1180, 900)}


def main(out: str) -> None:
    page = Path(out, "report", "index.html").resolve().as_uri()
    addresses = {"report": f"{page}#section-fa", "viewer": f"{page}#{quote(_found(out), safe='')}"}
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, address in addresses.items():
            width, height = SIZES[name]
            view = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            view.goto(address)
            view.wait_for_timeout(1000)
            view.screenshot(path=HERE / f"{name}.png")
            print(HERE.name, f"{name}.png")
        browser.close()


def _found(out: str) -> str:
    """The first trajectory whose labelled step is the one that `sharpest_drop` blames."""
    rows = pa_dist.open_run(out).arrow("attributions").to_pylist()
    right = [
        r for r in rows if r["correct"] and (r["method"], r["predictor"]) == ("progress_advantage", "sharpest_drop")
    ]
    return min(r["trajectory_id"] for r in right if r["token_agg"] == "mean")


if __name__ == "__main__":
    main(*sys.argv[1:])
