"""The wheel holds every file that is no Python: pyproject.toml names each by a pattern."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import saepipe

pytestmark = pytest.mark.quick

PACKAGE = Path(saepipe.__file__).parent


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["saepipe"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files - packed == set()


def test_every_folder_with_python_files_is_a_package() -> None:
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {path.parent for path in PACKAGE.rglob("__init__.py")}
