"""The notebooks of examples/: their cells run in order, and are kept without outputs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from helpers.repository import EXAMPLES
from helpers.users_code import code_of_notebook

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_the_notebooks_are_those_that_the_docs_name() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["own_penalty", "steering", "tour"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel: as one file, of which an error names the line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(code_of_notebook(path), str(path), "exec"), names)
    assert (names["folder"] / "runs").is_relative_to(tmp_path)
    if path.stem == "steering":
        latent, clean = int(names["latent"]), names["clean"]
        rising = (names["steered"] - clean).topk(8).indices
        assert (names["ablated"] - clean)[rising].mean() < 0
        assert names["attribution"][0, :, latent].any()
