"""Interoperability tests: our SAEs in other libraries, and theirs in ours, with a table of all comparisons at the end.

`$SAEPIPE_INTEROP_TABLE` names a file to which the table is written, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import D_IN

Values = tuple[Tensor, Tensor]
"""acts (batch, d_sae) and x_hat (batch, d_in)."""
Compare = Callable[[str, str, str, Values, Values], None]

TOLERANCE = 1e-4
"""In float32, where the order of summation may differ; activations reach 500, reconstructions 330."""
COLUMNS = ("format", "direction", "sae", "acts", "largest_acts", "x_hat", "largest_x_hat")


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Returns a check that two libraries compute the same, which keeps the largest difference for the table."""

    def check(format_: str, direction: str, sae: str, ours: Values, theirs: Values) -> None:
        row: dict[str, Any] = {"format": format_, "direction": direction, "sae": sae}
        for name, actual, expected in zip(("acts", "x_hat"), ours, theirs, strict=True):
            actual, expected = actual.detach(), expected.detach()
            assert actual.shape == expected.shape
            row[name] = float((actual - expected).abs().max())
            row[f"largest_{name}"] = float(expected.abs().max())
        request.node.user_properties.append(("interop", row))
        torch.testing.assert_close(ours[0].detach(), theirs[0].detach(), rtol=1e-5, atol=TOLERANCE)
        torch.testing.assert_close(ours[1].detach(), theirs[1].detach(), rtol=1e-5, atol=TOLERANCE)
        assert torch.equal(ours[0] > 0, theirs[0] > 0)
        assert 0.01 < float((theirs[0] > 0).float().mean()) < 0.9

    return check


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 600 synthetic rows of width 12 at `blocks.1.hook_resid_post`."""
    rows = {"blocks.1.hook_resid_post": structured_rows(600, D_IN)}
    return write_cache(tmp_path_factory.mktemp("interop") / "cache", rows)


@pytest.fixture(scope="session")
def sae_lens() -> ModuleType:
    return _installed("sae_lens")


@pytest.fixture(scope="session")
def dictionary_learning() -> ModuleType:
    _installed("dictionary_learning.utils")
    return importlib.import_module("dictionary_learning")


@pytest.fixture(scope="session")
def sparsify() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # its Triton decoder needs a GPU; read once, at import
        yield _installed("sparsify")


@pytest.fixture
def repository(sae_lens: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for every hub repository in SAELens' loaders; only the download is replaced."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    folder = tmp_path / "repository"
    folder.mkdir()

    def download(repo_id: str, filename: str, subfolder: str = "", force_download: bool = False) -> str:
        path = folder / subfolder / filename
        if not path.is_file():
            raise LocalEntryNotFoundError(f"{path} is missing")
        return str(path)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        return {name: list(value.shape) for name, value in load_file(folder / filename).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    return folder


def _installed(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed: `make interop` installs it")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the largest differences by format, direction and SAE, over all samples of a test."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, values in getattr(report, "user_properties", []):
                if name == "interop":
                    row = rows.setdefault((values["format"], values["direction"], values["sae"]), dict(values))
                    row |= {column: max(row[column], values[column]) for column in COLUMNS[3:]}
    if not rows:
        return
    terminalreporter.section("interop: largest differences, and the largest values beside them")
    for row in rows.values():
        label = f"{row['format']:22}{row['direction']:22}{row['sae']:24}"
        terminalreporter.write_line(
            f"{label}acts {row['acts']:.1e} of {row['largest_acts']:<8.3g}x_hat {row['x_hat']:.1e} of "
            f"{row['largest_x_hat']:.3g}"
        )
    if path := os.environ.get("SAEPIPE_INTEROP_TABLE"):
        Path(path).write_text(json.dumps(list(rows.values()), indent=2) + "\n")
