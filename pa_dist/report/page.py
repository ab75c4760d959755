"""`OUT/report/index.html`: the report and the viewer in one page that a browser opens from disk.

Styles and scripts stand in the page, allowed by their hashes; nothing else may run, and nothing reaches the network.
What comes from trajectories gets into it by two ways alone: jinja's escaping, and text that scripts set as text.
"""

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pa_dist.store.folder import REPORT, RunFolder

_ASSETS = files("pa_dist.report") / "assets"
_STYLES = ("page.css", "report.css", "viewer.css")
_SCRIPTS = (
    "page.js",
    "report.js",
    "viewer_text.js",
    "viewer_data.js",
    "viewer_link.js",
    "viewer_list.js",
    "viewer_strip.js",
    "viewer_tokens.js",
    "viewer_conversation.js",
    "viewer_trials.js",
    "viewer.js",
)


def write_page(folder: RunFolder, **values: Any) -> str:
    """Render the page of a run folder.

    Args:
      folder: where it goes, as `report/index.html`.
      values: what the templates read.

    Returns:
      The page's path or URI.
    """
    styles, scripts = _read(_STYLES), _read(_SCRIPTS)
    loader = jinja2.FunctionLoader(lambda name: (_ASSETS / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.get_template("page.html").render(
        policy=_policy(styles, scripts), styles=Markup(styles), scripts=Markup(scripts), **values
    )
    folder.filesystem.create_dir(folder.path(REPORT), recursive=True)
    with (
        folder.replacing(REPORT, "index.html") as path,
        folder.filesystem.open_output_stream(path) as out,
    ):
        out.write(html.encode())
    return folder.below(REPORT, "index.html")


def _read(names: tuple[str, ...]) -> str:
    return "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in names)


def _policy(styles: str, scripts: str) -> str:
    """The page's content security policy: its own style and script, and chunks that lie beside it."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (styles, scripts))
    style, script = (f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; style-src {style}; script-src {script} 'self' file:; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
