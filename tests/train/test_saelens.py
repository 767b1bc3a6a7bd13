from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import saelens
from saepipe.train.load import load
from saepipe.train.sae.base import Params
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK


def change(folder: Path, **keys: object) -> None:
    path = folder / saelens.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def saelens_forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """acts and x_hat by SAELens' formulas (6.54.12, StandardSAE and TopKSAE), from its files alone."""
    config = json.loads((folder / saelens.CONFIG).read_text())
    w = load_file(folder / saelens.WEIGHTS)
    hidden = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    lengths = w["W_dec"].norm(dim=1)
    rescale = config.get("rescale_acts_by_decoder_norm", False)
    if rescale:
        hidden = hidden * lengths
    acts = hidden.relu()
    if config["architecture"] == "topk":
        kept = torch.zeros_like(hidden).scatter(-1, hidden.topk(config["k"]).indices, 1.0)
        acts = acts * kept
    return acts, (acts / lengths if rescale else acts) @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize(
    ("sae", "keys"),
    [
        (ReLU(d_sae=40), {}),
        (ReLU(d_sae=40), {"apply_b_dec_to_input": False}),
        (TopK(d_sae=40, k=6), {}),
        (TopK(d_sae=40, k=6), {"apply_b_dec_to_input": False}),
        (TopK(d_sae=40, k=6), {"rescale_acts_by_decoder_norm": True}),
    ],
)
def test_a_folder_means_to_us_what_it_means_to_saelens(
    tmp_path: Path, params: Params, x: Tensor, sae: ReLU | TopK, keys: dict[str, bool]
) -> None:
    saelens.write(tmp_path, sae, {**params, "W_dec": params["W_dec"] * 1.7}, {"hook_name": "blocks.1.hook_resid_post"})
    change(tmp_path, **keys)
    loaded = load(tmp_path)
    acts, x_hat = saelens_forward(tmp_path, x.float())
    torch.testing.assert_close(loaded.encode(x), acts)
    torch.testing.assert_close(loaded(x), x_hat)
    assert (loaded.d_in, loaded.d_sae, loaded.architecture, loaded.hook) == (
        24,
        40,
        sae.name,
        "blocks.1.hook_resid_post",
    )


def test_cfg_holds_the_keys_that_saelens_reads(tmp_path: Path, params: Params) -> None:
    saelens.write(tmp_path, TopK(d_sae=40, k=6), params, {"hook_name": "h"})
    assert json.loads((tmp_path / saelens.CONFIG).read_text()) == {
        "architecture": "topk",
        "d_in": 24,
        "d_sae": 40,
        "k": 6,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "h"},
    }


def test_what_we_cannot_read_is_refused(tmp_path: Path, params: Params) -> None:
    with pytest.raises(ConfigError, match="holds no SAE"):
        load(tmp_path)
    saelens.write(tmp_path, ReLU(d_sae=40), params, {})
    change(tmp_path, architecture="temporal")
    with pytest.raises(ConfigError, match="no architecture called 'temporal'"):
        load(tmp_path)
    change(tmp_path, architecture="standard", normalize_activations="layer_norm")
    with pytest.raises(ConfigError, match="layer_norm"):
        load(tmp_path)


def test_files_that_do_not_fit_together_are_corrupt(tmp_path: Path, params: Params) -> None:
    saelens.write(tmp_path, ReLU(d_sae=40), params, {})
    weights = load_file(tmp_path / saelens.WEIGHTS)
    save_file({**weights, "W_dec": weights["W_dec"].T.contiguous()}, tmp_path / saelens.WEIGHTS)
    with pytest.raises(CorruptDataError, match=r"W_dec has shape \(24, 40\), not \(40, 24\)"):
        load(tmp_path)
    (tmp_path / saelens.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        load(tmp_path)
