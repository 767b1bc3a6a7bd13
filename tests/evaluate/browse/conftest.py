"""Runs for most tests of the browser, and their pages from the server and from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.runs_to_browse import rewritten, serving, write_roles, write_runs
from helpers.site import EVIL, Site, quiet
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.run import browse, open_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = write_runs(tmp_path_factory.mktemp("browse"))
    write_roles(folders[0])
    return folders


@pytest.fixture(scope="module")
def resources(runs: list[Path]) -> Resources:
    return open_runs(runs)


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs with hostile tokens and with roles."""
    folders = write_runs(tmp_path_factory.mktemp("page"))
    rewritten(folders[0], dict.fromkeys(range(100, 130), EVIL))
    write_roles(folders[0])
    return folders


@pytest.fixture(scope="session")
def addresses(hostile_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    index = browse(hostile_runs, static=tmp_path_factory.mktemp("files") / "site")
    assert index is not None
    with serving(hostile_runs) as (url, _):
        yield {"server": url, "files": index.as_uri()}


@pytest.fixture(params=["server", "files"])
def site(
    request: pytest.FixtureRequest, browser: Browser, hostile_runs: list[Path], addresses: dict[str, str]
) -> Iterator[Site]:
    yield from quiet(Site(addresses[request.param], hostile_runs, request.param, browser.new_context))


@pytest.fixture
def served(browser: Browser, hostile_runs: list[Path], addresses: dict[str, str]) -> Iterator[Site]:
    """The server, for tests that do not depend on the source of the data."""
    yield from quiet(Site(addresses["server"], hostile_runs, "server", browser.new_context))
