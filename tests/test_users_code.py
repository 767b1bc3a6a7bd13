"""Python code for users passes mypy: in README.md and docs/, in docstrings of public names, and in notebooks."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import saepipe as sp
from helpers.repository import DOCS, EXAMPLES, ROOT
from helpers.users_code import code_of_docstring, code_of_notebook, code_of_page

PRELUDE = """\
from typing import Any
import torch
import saepipe as sp
x: torch.Tensor
sae: sp.SAE
model: Any
inputs: dict[str, torch.Tensor]
"""
"""Names that a fragment takes for granted."""
FRAGMENTS = ("README.md",)
"""Pages whose blocks need the prelude; the others must stand alone."""

NOT_OURS = ("[no-untyped-call]", "[misc]")
"""Untyped functions of transformers, and its models, which do not fit the type of its own `generate`.

Other options of mypy would do, but not with the cache of `make lint`.
"""


def examples() -> dict[str, str]:
    """Returns the code of each public name's docstring."""
    docs = {name: inspect.getdoc(getattr(sp, name)) or "" for name in sp.__all__}
    docs["SAE_attach"] = inspect.getdoc(sp.SAE.attach) or ""
    return {name: code_of_docstring(doc) for name, doc in docs.items()}


def sources() -> dict[str, str]:
    """Returns all code by the name of a file."""
    pages = {path.stem: code_of_page(path) for path in [ROOT / "README.md", *DOCS.rglob("*.md")]}
    fragments = {Path(name).stem for name in FRAGMENTS}
    code = {f"page_{name}": PRELUDE * (name in fragments) + text for name, text in pages.items() if text}
    code |= {f"example_{name}": PRELUDE + text for name, text in examples().items()}
    return code | {f"notebook_{path.stem}": code_of_notebook(path) for path in EXAMPLES.glob("*.ipynb")}


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_has_an_example_that_uses_it(name: str) -> None:
    code = examples()[name]
    uses = {"SAE": "sp.load", "Run": "sp.open_run", "Table": "sp.compare", "Cache": "sp.open_cache"}
    assert uses.get(name, f"sp.{name}(") in code


def test_it_passes_mypy(tmp_path: Path) -> None:
    """With the cache of `make lint`, since a cold run takes minutes, and with a mistake that shows what is checked."""
    files = []
    for name, text in sources().items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(text)
    assert {"page_README.py", "page_use.py", "notebook_tour.py", "example_train.py"} <= {file.name for file in files}
    mistake = tmp_path / "mistake.py"
    mistake.write_text("import saepipe as sp\nsp.compare(3)\nsp.train().nonsense\nsp.open_cache('cache').shapes\n")
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    process = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, files), str(mistake)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in process.stdout.splitlines() if ": error:" in line and not line.endswith(NOT_OURS)]
    wrong = [line for line in lines if "mistake.py" in line]
    assert {int(line.split(":")[1]) for line in wrong} == {2, 3, 4}, process.stdout + process.stderr
    assert [line for line in lines if line not in wrong] == []
