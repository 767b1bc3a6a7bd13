from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import saelens
from saepipe.train.rundir.load import load
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.matryoshka_batch_topk import MatryoshkaBatchTopK
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK
from saepipe.train.seeds import generator

pytestmark = pytest.mark.quick


NORMALISATIONS = {
    "layer_norm": "cannot be a run",
    "constant_norm_rescale": "cannot be a run",
    "expected_average_only_in": "fold_activation_norm_scaling_factor",
    "covariance_whitening": "fold_activation_whitening",
}
"""Part of the hint for each normalisation of SAELens'."""


def change(folder: Path, **keys: object) -> None:
    path = folder / saelens.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def saelens_forward(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes acts and x_hat by SAELens' formulas (6.54.12: Standard, TopK, JumpReLU and GatedSAE), from its files."""
    config = json.loads((folder / saelens.CONFIG).read_text())
    w = load_file(folder / saelens.WEIGHTS)
    x = x - w["b_dec"] * config["apply_b_dec_to_input"]
    if config["architecture"] == "gated":
        magnitude = (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
        acts = (x @ w["W_enc"] + w["b_gate"] > 0) * magnitude
        return acts, acts @ w["W_dec"] + w["b_dec"]
    hidden = x @ w["W_enc"] + w["b_enc"]
    lengths = w["W_dec"].norm(dim=1)
    rescale = config.get("rescale_acts_by_decoder_norm", False)
    if rescale:
        hidden = hidden * lengths
    acts = hidden.relu()
    if config["architecture"] == "topk":
        kept = torch.zeros_like(hidden).scatter(-1, hidden.topk(config["k"]).indices, 1.0)
        acts = acts * kept
    if config["architecture"] == "jumprelu":
        acts = acts * (hidden > w["threshold"])
    return acts, (acts / lengths if rescale else acts) @ w["W_dec"] + w["b_dec"]


def own_parameters(sae: Architecture) -> Params:
    """Returns random parameters of the architecture, none of them zero."""
    rng = generator(4)
    return {name: 0.1 + 0.4 * torch.rand(value.shape, generator=rng) for name, value in sae.init(24, 1, rng).items()}


@pytest.mark.parametrize(
    ("sae", "keys"),
    [
        (ReLU(d_sae=40), {}),
        (ReLU(d_sae=40), {"apply_b_dec_to_input": False}),
        (TopK(d_sae=40, k=6), {}),
        (TopK(d_sae=40, k=6), {"apply_b_dec_to_input": False}),
        (TopK(d_sae=40, k=6), {"rescale_acts_by_decoder_norm": True}),
        (JumpReLU(d_sae=40), {}),
        (JumpReLU(d_sae=40), {"apply_b_dec_to_input": False}),
        (Gated(d_sae=40), {}),
        (Gated(d_sae=40), {"apply_b_dec_to_input": False}),
        (MatryoshkaBatchTopK(d_sae=40, k=6), {}),
    ],
)
def test_a_folder_has_the_same_function_as_in_saelens(
    tmp_path: Path, params: Params, x: Tensor, sae: Architecture, keys: dict[str, bool]
) -> None:
    params = {**own_parameters(sae), **params, "W_dec": params["W_dec"] * 1.7}
    saelens.write(tmp_path, sae, params, {"hook_name": "blocks.1.hook_resid_post"})
    change(tmp_path, **keys)
    loaded = load(tmp_path)
    acts, x_hat = saelens_forward(tmp_path, x.float())
    torch.testing.assert_close(loaded.encode(x), acts)
    torch.testing.assert_close(loaded(x), x_hat)
    assert (loaded.d_in, loaded.d_sae, loaded.architecture, loaded.hook) == (
        24,
        40,
        sae.inference(params)[0].name,
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


def test_unsupported_folders_are_refused(tmp_path: Path, params: Params) -> None:
    with pytest.raises(ConfigError, match="holds no SAE"):
        load(tmp_path)
    saelens.write(tmp_path, ReLU(d_sae=40), params, {})
    change(tmp_path, architecture="temporal")
    with pytest.raises(ConfigError, match="no architecture called 'temporal'"):
        load(tmp_path)
    for normalize, possible in NORMALISATIONS.items():
        change(tmp_path, architecture="standard", normalize_activations=normalize)
        with pytest.raises(ConfigError, match=normalize) as error:
            load(tmp_path)
        assert possible in str(error.value.hint)
    change(tmp_path, normalize_activations="none", reshape_activations="hook_z")
    with pytest.raises(ConfigError, match="several heads at once"):
        load(tmp_path)
    change(tmp_path, reshape_activations="none")
    saelens.write(tmp_path, JumpReLU(d_sae=40), {**own_parameters(JumpReLU(d_sae=40)), **params}, {})
    change(tmp_path, architecture="standard")
    with pytest.raises(ConfigError, match="holds tensors that a relu does not have: threshold"):
        load(tmp_path)


def test_inconsistent_files_are_corrupt(tmp_path: Path, params: Params) -> None:
    saelens.write(tmp_path, ReLU(d_sae=40), params, {})
    weights = load_file(tmp_path / saelens.WEIGHTS)
    save_file({**weights, "W_dec": weights["W_dec"].T.contiguous()}, tmp_path / saelens.WEIGHTS)
    with pytest.raises(CorruptDataError, match=r"W_dec has shape \(24, 40\), not \(40, 24\)"):
        load(tmp_path)
    (tmp_path / saelens.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        load(tmp_path)
