"""Files of the page: plain HTML, CSS and scripts, one of which differs between server and files."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

SCRIPTS = (
    "dom.js", "table.js", "scales.js", "map.js", "list.js", "examples.js", "counterparts.js", "latent.js", "compare.js",
    "text.js", "browse.js",
)  # fmt: skip


def page_files(source: Literal["server", "static"]) -> dict[str, bytes]:
    """Returns the files by name. `source.js` loads the page's data and stores its notes."""
    folder = files(__name__)
    names = ("index.html", "browse.css", "icon.svg", *SCRIPTS)
    return {name: (folder / name).read_bytes() for name in names} | {
        "source.js": (folder / f"source_{source}.js").read_bytes()
    }
