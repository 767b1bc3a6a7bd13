"""Addresses in the feature browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError
from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.story import Story


def test_addresses_of_a_served_browser(judged: Story, tmp_path: Path) -> None:
    links = BrowserLinks.find("http://127.0.0.1:8000/#run=other", tmp_path / "report.html")
    assert links.run(judged.rows[0]) == "http://127.0.0.1:8000/#run=l1/seed-0"
    assert links.latent(judged.rows[0], 12) == "http://127.0.0.1:8000/#run=l1/seed-0&latent=12"


def test_static_files_are_linked_relative_to_the_page(judged: Story, tmp_path: Path) -> None:
    site = tmp_path / "my site"
    site.mkdir()
    (site / "index.html").touch()
    for browse in (site, site / "index.html"):
        links = BrowserLinks.find(browse, tmp_path / "pages" / "report.html")
        assert links.run(judged.rows[0]) == "../my%20site/index.html#run=l1/seed-0"


@pytest.mark.parametrize("browse", ["javascript:alert(1)", "nowhere", "ftp://host/"])
def test_anything_else_is_an_error(browse: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither an address nor a folder"):
        BrowserLinks.find(browse, tmp_path / "report.html")
