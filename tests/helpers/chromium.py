"""A real browser for pages that we write: Debian's chromium, headless, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Skips the tests that ask for it where there is no playwright or no chromium. Starting takes a second: open one a
    file (a fixture of scope "module") and a new context or page a test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'saepipe[dev]'")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as engines:
        browser = engines.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def screenshot(page: Page, name: str, folder: Path, *, full_page: bool = True) -> Path:
    """Writes `<name>.png` into the folder that SAEPIPE_SCREENSHOTS names, else into `folder` (pytest's tmp_path)."""
    path = Path(os.environ.get("SAEPIPE_SCREENSHOTS") or folder) / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    return path
