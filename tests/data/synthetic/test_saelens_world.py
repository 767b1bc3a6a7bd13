"""Reading a world in SAELens' files, written here by hand; tests/interop reads those that SAELens writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError, SaepipeError
from saepipe.data.synthetic import read_saelens_world

CONFIG: dict[str, Any] = {
    "num_features": 6,
    "hidden_dim": 3,
    "mean_firing_magnitudes": {"generator_name": "linear", "start": 5.0, "end": 4.0},
    "std_firing_magnitudes": {
        "generator_name": "folded_normal",
        "mean": 0.5,
        "std": 0.5,
        "min_value": None,
        "max_value": None,
    },
    "seed": 42,
}


def node(feature: int | None, *children: dict[str, Any], exclusive: bool = False, scales: bool = False) -> Any:
    flags = {"mutually_exclusive_children": exclusive, "scale_children_by_parent": scales}
    return {"feature_index": feature, "feature_id": None, "children": list(children), **flags}


FOREST = [node(0, node(1), node(None, node(2), node(3), exclusive=True), scales=True), node(5)]
"""Feature 0 above 1 and, through a node without a feature, 2 and 3; 4 is in no tree."""


def write(folder: Path, *, roots: list[Any] | None = None, drop: str = "", **config: Any) -> Path:
    weights: dict[str, Tensor] = {
        "feature_vectors": torch.eye(6, 3),
        "bias": torch.ones(3),
        "firing_probabilities": torch.tensor([0.5, 0.1, 0.2, 0.3, 1.0, 0.05]),
        "correlation_factor": torch.full((6, 2), 0.1),
        "correlation_diag": torch.full((6,), 0.98),
    }
    weights.pop(drop, None)
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "synthetic_model.safetensors")
    (folder / "synthetic_model_config.json").write_text(json.dumps(CONFIG | config))
    if roots is not None:
        (folder / "hierarchy.json").write_text(json.dumps({"roots": roots}))
    return folder


def test_all_parts_are_read(tmp_path: Path) -> None:
    world = read_saelens_world(write(tmp_path, roots=FOREST))
    assert world.parent.tolist() == [-1, 0, 0, 0, -1, -1]
    assert world.group.tolist() == [-1, -1, 0, 0, -1, -1]
    assert world.scaled.tolist() == [False, True, False, False, False, False]  # 2 and 3: the node between decides
    torch.testing.assert_close(
        torch.special.ndtr(-world.threshold), torch.tensor([0.5, 0.1, 0.2, 0.3, 1.0, 0.05]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(world.own_share.square(), torch.full((6,), 0.98))
    torch.testing.assert_close(world.mean, torch.tensor([5.0, 4.8, 4.6, 4.4, 4.2, 4.0]))
    normal = torch.randn(6, generator=torch.Generator().manual_seed(43))
    torch.testing.assert_close(world.std, (0.5 + 0.5 * normal).abs())


def test_hierarchy_and_correlations_may_be_missing(tmp_path: Path) -> None:
    world = read_saelens_world(write(tmp_path, drop="correlation_factor"))
    assert world.loadings.shape == (6, 0)
    assert (world.parent == -1).all()


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [
        (2, [2.0] * 6),
        ({"generator_name": "constant", "value": 3.0}, [3.0] * 6),
        ({"generator_name": "exponential", "start": 1.0, "end": 32.0}, [1, 2, 4, 8, 16, 32]),
    ],
)
def test_magnitudes_follow_from_the_config(tmp_path: Path, magnitude: Any, expected: list[float]) -> None:
    world = read_saelens_world(write(tmp_path, mean_firing_magnitudes=magnitude))
    torch.testing.assert_close(world.mean, torch.tensor(expected, dtype=torch.float32))


def test_folded_magnitudes_may_be_bounded(tmp_path: Path) -> None:
    bounded = CONFIG["std_firing_magnitudes"] | {"min_value": 0.4, "max_value": 0.6}
    assert read_saelens_world(write(tmp_path, std_firing_magnitudes=bounded)).std.aminmax() == (
        pytest.approx(0.4),
        pytest.approx(0.6),
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"seed": None}, ConfigError, "no seed"),
        ({"std_firing_magnitudes": {"generator_name": "new"}}, ConfigError, "'new'.* not known"),
        ({"num_features": 7}, CorruptDataError, "7 features"),
        ({"roots": [node(9)]}, CorruptDataError, "IndexError"),
        ({"roots": [{"children": []}]}, CorruptDataError, "feature_index"),
        ({"drop": "bias"}, CorruptDataError, "bias"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, settings: dict[str, Any], error: type[SaepipeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_saelens_world(write(tmp_path, **settings))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="synthetic_model_config.json cannot be read"):
        read_saelens_world(tmp_path / "nowhere")
    folder = write(tmp_path / "world")
    (folder / "synthetic_model.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptDataError, match="no readable world"):
        read_saelens_world(folder)
    (folder / "synthetic_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors is missing"):
        read_saelens_world(folder)
    (folder / "hierarchy.json").write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        read_saelens_world(folder)
