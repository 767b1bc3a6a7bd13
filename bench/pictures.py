"""Writes the pictures of README.md from a finished `saepipe demo`: the report's first screen, and the browser's map.

saepipe demo --out demo
python bench/pictures.py demo
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import saepipe as sp
from saepipe.evaluate.browse.run import browse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.chromium import open_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SCREEN = (1400, 900)
WIDTH = 1000
"""Pixels of a committed picture, which has 64 colours to stay small."""
SHORTEN = """home => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replace(home, "~");
}"""
"""Replaces the path of this machine's home folder in a page."""


def main() -> None:
    runs = sorted(Path(sys.argv[1]).glob("runs/*/seed-*"))
    baseline = Path(sys.argv[1]) / "runs" / "l1" / "seed-0"
    with open_browser() as browser, tempfile.TemporaryDirectory() as folder:
        sp.report(runs, Path(folder) / "report.html", baseline=baseline)
        picture(browser, f"file://{folder}/report.html", "report")
        browse([run for run in runs if run.name == "seed-0"], static=Path(folder) / "site")
        picture(browser, f"file://{folder}/site/index.html", "browser")


def picture(browser: Browser, address: str, name: str) -> None:
    """Writes docs/pictures/<name>.png, the first screen of a page in the light theme."""
    page = browser.new_page(viewport={"width": SCREEN[0], "height": SCREEN[1]}, color_scheme="light")
    page.goto(address)
    page.evaluate(SHORTEN, str(Path.home()))
    page.wait_for_timeout(3000)  # charts render when they come into view
    screen = Image.open(BytesIO(page.screenshot())).convert("RGB")
    small = screen.resize((WIDTH, WIDTH * SCREEN[1] // SCREEN[0]), Image.Resampling.LANCZOS)
    PICTURES.mkdir(exist_ok=True)
    small.quantize(64).save(PICTURES / f"{name}.png", optimize=True)
    page.close()


if __name__ == "__main__":
    main()
