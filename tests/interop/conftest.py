"""Our SAEs in the libraries themselves and theirs here; what was compared makes a table at the end.

`$SAEPIPE_INTEROP_TABLE` names a file that the table is written to, as JSON.
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
"""In float32, whose sums may be added up in another order; activations reach 500, reconstructions 330."""
COLUMNS = ("format", "direction", "sae", "acts", "largest_acts", "x_hat", "largest_x_hat")


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Asserts that two libraries compute the same, and keeps the largest difference for the table."""

    def check(format_: str, direction: str, sae: str, ours: Values, theirs: Values) -> None:
        found: dict[str, Any] = {"format": format_, "direction": direction, "sae": sae}
        for name, here, there in zip(("acts", "x_hat"), ours, theirs, strict=True):
            here, there = here.detach(), there.detach()
            assert here.shape == there.shape
            found[name] = float((here - there).abs().max())
            found[f"largest_{name}"] = float(there.abs().max())
        request.node.user_properties.append(("interop", found))
        torch.testing.assert_close(ours[0].detach(), theirs[0].detach(), rtol=1e-5, atol=TOLERANCE)
        torch.testing.assert_close(ours[1].detach(), theirs[1].detach(), rtol=1e-5, atol=TOLERANCE)
        assert torch.equal(ours[0] > 0, theirs[0] > 0)
        assert 0.01 < float((theirs[0] > 0).float().mean()) < 0.9

    return check


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 made-up rows of width 12 at `blocks.1.hook_resid_post`."""
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
        patch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # its Triton decoder wants a GPU; read once, at import
        yield _installed("sparsify")


@pytest.fixture
def repository(sae_lens: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that SAELens' loaders take for every repository of the hub; only the download is left out."""
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
    """The largest differences, by format, direction and SAE, over all that a test drew."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, found in getattr(report, "user_properties", []):
                if name == "interop":
                    row = rows.setdefault((found["format"], found["direction"], found["sae"]), dict(found))
                    row |= {column: max(row[column], found[column]) for column in COLUMNS[3:]}
    if not rows:
        return
    terminalreporter.section("interop: largest differences, and the largest values beside them")
    for row in rows.values():
        place = f"{row['format']:22}{row['direction']:22}{row['sae']:24}"
        terminalreporter.write_line(
            f"{place}acts {row['acts']:.1e} of {row['largest_acts']:<8.3g}x_hat {row['x_hat']:.1e} of "
            f"{row['largest_x_hat']:.3g}"
        )
    if path := os.environ.get("SAEPIPE_INTEROP_TABLE"):
        Path(path).write_text(json.dumps(list(rows.values()), indent=2) + "\n")
