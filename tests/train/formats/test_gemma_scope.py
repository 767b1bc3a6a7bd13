"""Gemma Scope's archives, and the paths that serve as their configs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from helpers.other_libraries import check_function, tensors, write_gemma_scope
from helpers.resealed import limited_memory
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import gemma_scope

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("change", [str, str.lower])
def test_gemma_scope_has_the_function_that_its_authors_give(
    tmp_path: Path, rows: Tensor, change: Callable[[str], str]
) -> None:
    source = gemma_scope.source(write_gemma_scope(tmp_path / "layer_3" / "average_l0_7" / "params.npz", change).parent)
    w = tensors("JumpReluAutoEncoder")
    p = rows @ w["W_enc"] + w["b_enc"]
    acts = (p > w["threshold"]) * p.relu()
    check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (source.name, source.layer, source.hook, source.model) == ("layer_3-average_l0_7", 3, None, None)


@pytest.mark.parametrize(
    ("path", "name", "hook", "model"),
    [
        (
            "gemma-scope-2b-pt-res/layer_20/average_l0_71",
            "layer_20-average_l0_71",
            "blocks.20.hook_resid_post",
            "google/gemma-2-2b",
        ),
        (
            "models--google--gemma-scope-9b-it-res/snapshots/0a/layer_9/average_l0_4",
            "layer_9-average_l0_4",
            "blocks.9.hook_resid_post",
            "google/gemma-2-9b-it",
        ),
        (
            "gemma-scope-27b-pt-att/layer_2/canonical",
            "layer_2",
            "blocks.2.attn.hook_z",
            "google/gemma-2-27b",
        ),
        ("gemma-scope-2b-pt-res/embedding/average_l0_5", "average_l0_5", "hook_embed", "google/gemma-2-2b"),
        ("mine", "mine", None, None),
    ],
)
def test_the_path_gives_name_hook_and_model(
    tmp_path: Path, path: str, name: str, hook: str | None, model: str | None
) -> None:
    source = gemma_scope.source(write_gemma_scope(tmp_path / path / "params.npz"))
    assert (source.name, source.hook, source.model) == (name, hook, model)


def test_transcoders_of_gemma_scope_1_are_refused(tmp_path: Path) -> None:
    """They read a tensor that no cache holds."""
    path = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_2" / "params.npz"
    with pytest.raises(ConfigError, match="without the norm's gain: no hook of a cache is that"):
        gemma_scope.source(write_gemma_scope(path))


@pytest.mark.parametrize(
    ("width", "num_latents"),
    [("4k", 4096), ("16k", 2**14), ("65k", 2**16), ("131k", 2**17), ("524k", 2**19), ("1m", 2**20), ("odd", None)],
)
def test_the_width_in_a_path(width: str, num_latents: int | None) -> None:
    assert gemma_scope._num_latents(width) == num_latents


def test_other_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 40 latents, but its path says width_16k \(16,384\)"):
        gemma_scope.source(write_gemma_scope(tmp_path / "width_16k" / "params.npz"))
    with pytest.raises(ConfigError, match="unexpected tensors affine_skip_connection"):
        gemma_scope.source(
            write_gemma_scope(tmp_path / "skip" / "params.npz", affine_skip_connection=np.zeros((24, 24)))
        )
    with pytest.raises(ConfigError, match=r"threshold of a Gemma Scope SAE has shape \(39,\), not \(40,\)"):
        gemma_scope.source(write_gemma_scope(tmp_path / "short" / "params.npz", threshold=np.zeros(39)))
    with pytest.raises(ConfigError, match="no matrix W_enc among its arrays"):
        gemma_scope.source(write_gemma_scope(tmp_path / "none" / "params.npz", W_enc=np.zeros(3)))
    with pytest.raises(CorruptDataError, match="holds object, not numbers"):
        gemma_scope.source(write_gemma_scope(tmp_path / "pickle" / "params.npz", W_enc=np.array([{}])))
    with pytest.raises(ConfigError, match=r"params\.npz is missing"):
        gemma_scope.source(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"PK\3\4torn")
    with pytest.raises(CorruptDataError):
        gemma_scope.source(tmp_path)


def archive(path: Path, header: dict[str, object], data: bytes, **settings: int) -> Path:
    """Writes an archive with one array, whose header says anything."""
    text = repr(header).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", **settings) as file:
        file.writestr("W_enc.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((2**40, 2**20), "<f4"), ((-1, 24), "<f4"), ((3,), "<f4"), ((6, 4), "<f8"), ((24,), "|O"), ((6, 4), "<U1")],
)
def test_an_array_that_declares_more_than_it_has(tmp_path: Path, shape: tuple[int, ...], descr: str) -> None:
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    path = archive(tmp_path / "params.npz", header, bytes(96))
    with limited_memory(), pytest.raises(CorruptDataError, match=r"params\.npz"):
        gemma_scope.source(path)


def test_an_archive_that_unpacks_to_much_more_than_its_file(tmp_path: Path) -> None:
    """16 MB of zeros in 16 KB."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**11, 2**11)}
    path = archive(tmp_path / "params.npz", header, bytes(2**24), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptDataError, match="its arrays would have"):
        gemma_scope.source(path)
