"""Pages of the feature browser in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.chromium import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

EVIL = "<img src=x onerror=\"document.title='broken'\">"
ROWS = "tbody tr:not(.spacer)"


@dataclass
class Site:
    """Address of the browser; opens its pages and collects their messages and errors."""

    url: str
    runs: list[Path]
    kind: str
    context: Callable[..., Any]
    complaints: list[str] = field(default_factory=list)

    def open(self, where: str = "", **options: Any) -> Page:
        context = self.context(offline=self.kind == "files", **({"viewport": {"width": 1280, "height": 850}} | options))
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.go(page, where)
        return page

    def go(self, page: Page, where: str) -> None:
        page.goto(f"{self.url}{where}")
        page.wait_for_selector("h1")


def quiet(site: Site) -> Iterator[Site]:
    """Fails the test on any message on the console."""
    yield site
    assert site.complaints == []


def column(page: Page, name: str) -> list[str]:
    return page.locator(f"{ROWS} td.c-{name}").all_inner_texts()


def heading(page: Page, text: str) -> None:
    """Waits for a view by its heading."""
    wait_until(page, "text => document.querySelector('h1')?.textContent === text", text)
