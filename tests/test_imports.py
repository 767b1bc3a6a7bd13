"""The arrows of the design: data <- harvest, data <- train, all three <- evaluate <- cli. Read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import saepipe

PACKAGE = Path(saepipe.__file__).parent
MAY_IMPORT = {
    "data": {"data"},
    "harvest": {"data", "harvest"},
    "train": {"data", "train"},
    "evaluate": {"data", "harvest", "train", "evaluate"},
    "cli.py": {"data", "harvest", "train", "evaluate"},
    "__init__.py": {"data", "harvest", "train", "evaluate"},
}


def imported(path: Path) -> set[str]:
    """The parts of saepipe that a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{path} imports relatively"
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("saepipe.")}


def test_the_top_level_is_what_the_design_says() -> None:
    found = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert found == MAY_IMPORT.keys()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_follow_the_arrows(part: str) -> None:
    paths = [PACKAGE / part] if part.endswith(".py") else list((PACKAGE / part).rglob("*.py"))
    assert paths
    for path in paths:
        assert imported(path) <= MAY_IMPORT[part], path


def test_the_help_needs_no_torch() -> None:
    code = (
        "import sys, saepipe.cli; print([m for m in ('torch', 'transformers', 'zarr', 'datasets') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
