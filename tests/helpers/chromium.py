"""A real browser for our pages: Debian's chromium, headless, driven by playwright."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Yields a browser; skips the test if playwright or chromium is missing. Starting takes a second: open one browser
    per file (a fixture of scope "module") and a new context or page per test."""
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


def wait_until(page: Page, condition: str, argument: Any = None) -> None:
    """Waits until a JavaScript expression, or a function of `argument`, is true in the page; fails after ten seconds.

    playwright's own `wait_for_function` evaluates text within the page, which our pages' security policy forbids.
    """
    deadline = time.monotonic() + 10
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.02)


def screenshot(page: Page, name: str, folder: Path, *, full_page: bool = True) -> Path:
    """Writes `<name>.png` into the folder named by SAEPIPE_SCREENSHOTS, otherwise into `folder` (pytest's tmp_path)."""
    path = Path(os.environ.get("SAEPIPE_SCREENSHOTS") or folder) / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    return path
