"""Names of hooks in SAELens' folders, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saepipe.train.formats import saelens
from saepipe.train.formats.source import read_json
from saepipe.train.sae.relu import ReLU

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("ours", "theirs", "reshaped"),
    [
        ("blocks.3.hook_resid_post", "blocks.3.hook_resid_post", "none"),
        ("blocks.3.hook_mlp_in", "blocks.3.mlp.hook_in", "none"),
        ("blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out", "none"),
        ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z", "hook_z"),
    ],
)
def test_hooks_are_written_as_transformerlens_names_them(ours: str, theirs: str, reshaped: str, tmp_path: Path) -> None:
    saelens.write(tmp_path, ReLU(d_sae=8), small_relu(), {"hook_name": ours})
    config = read_json(tmp_path / saelens.CONFIG)
    assert (config["metadata"]["hook_name"], config["reshape_activations"]) == (theirs, reshaped)
    assert saelens.source(tmp_path).hook == ours


def test_their_mlp_in_is_the_stream_before_the_norm(tmp_path: Path) -> None:
    saelens.write(tmp_path, ReLU(d_sae=8), small_relu(), {"hook_name": "blocks.3.hook_resid_mid"})
    text = (tmp_path / saelens.CONFIG).read_text()
    (tmp_path / saelens.CONFIG).write_text(text.replace("blocks.3.hook_resid_mid", "blocks.3.hook_mlp_in"))
    assert saelens.source(tmp_path).hook == "blocks.3.hook_resid_mid"


def small_relu() -> dict[str, torch.Tensor]:
    return ReLU(d_sae=8).init(4, 1.0, torch.Generator().manual_seed(0))
