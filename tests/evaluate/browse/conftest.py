"""Runs for most tests of the browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.runs_to_browse import write_roles, write_runs
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.run import open_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = write_runs(tmp_path_factory.mktemp("browse"))
    write_roles(folders[0])
    return folders


@pytest.fixture(scope="module")
def resources(runs: list[Path]) -> Resources:
    return open_runs(runs)
