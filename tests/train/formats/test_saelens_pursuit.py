"""A matching pursuit in SAELens' folder: two tensors, and settings under SAELens' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.random_runs import D_IN, D_SAE, K, random_params
from saepipe.data.errors import ConfigError
from saepipe.train.formats import saelens
from saepipe.train.sae.matching_pursuit import MatchingPursuit

pytestmark = pytest.mark.quick

SAE = MatchingPursuit(d_sae=D_SAE, k=K)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saelens.write(tmp_path, SAE, random_params(SAE, D_IN, 0, 1.0), {"hook_name": "blocks.1.hook_resid_post"})
    return tmp_path


def change(folder: Path, changes: dict[str, Any]) -> None:
    config = json.loads((folder / saelens.CONFIG).read_text()) | changes
    kept = {key: value for key, value in config.items() if value != "left out"}
    (folder / saelens.CONFIG).write_text(json.dumps(kept))


def test_the_folder_has_saelens_keys_and_no_encoder(folder: Path) -> None:
    config = json.loads((folder / saelens.CONFIG).read_text())
    pursuit = {"max_iterations": K, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
    assert pursuit.items() <= config.items()
    assert "k" not in config
    tensors, (sae, params, _) = load_file(folder / saelens.WEIGHTS), saelens.read(folder)
    assert tensors.keys() == {"W_dec", "b_dec"}
    assert sae == SAE
    assert torch.equal(params["W_enc"], tensors["W_dec"].T)
    assert not params["b_enc"].any()


@pytest.mark.parametrize("limit", [None, "left out"])
def test_without_a_limit_it_takes_d_in_steps(folder: Path, limit: str | None) -> None:
    change(folder, {"max_iterations": limit})
    assert saelens.read(folder)[0] == MatchingPursuit(d_sae=D_SAE, k=D_IN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual_threshold": 0.5}, "residual_threshold 0.5"),
        ({"residual_threshold": "left out"}, "residual_threshold at its default"),
        ({"stop_on_duplicate_support": True}, "stop_on_duplicate_support True"),
        ({"apply_b_dec_to_input": False}, "apply_b_dec_to_input False"),
    ],
)
def test_what_ours_never_does_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, changes)
    with pytest.raises(ConfigError, match=f"a matching_pursuit with {message} is none of saepipe's"):
        saelens.read(folder)
