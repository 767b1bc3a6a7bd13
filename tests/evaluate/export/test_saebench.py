"""The SAE for SAEBench: it has the interface that SAEBench 0.6.0 needs, and computes the same function as the run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import ARCHITECTURES, D_IN, D_SAE, K, random_run, rows
from saepipe.data.errors import ConfigError
from saepipe.evaluate.export.saebench import CustomConfig, custom_sae
from saepipe.train.formats import saelens
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load

CFG_FIELDS = [
    *("model_name", "d_in", "d_sae", "hook_layer", "hook_name", "context_size", "hook_head_index", "architecture"),
    *("apply_b_dec_to_input", "finetuning_scaling_factor", "activation_fn_str", "prepend_bos", "dtype", "device"),
    *("normalize_activations", "dataset_path", "dataset_trust_remote_code", "seqpos_slice", "training_tokens"),
    *("sae_lens_training_version", "neuronpedia_id"),
]
"""The fields of SAEBench's CustomSAEConfig."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows_by_hook = {"blocks.1.hook_resid_post": structured_rows(600, D_IN)}
    return write_cache(tmp_path_factory.mktemp("custom") / "cache", rows_by_hook)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_computes_the_same_as_the_run(cache: Path, tmp_path: Path, name: str) -> None:
    """The input has two axes of tokens, as in SAEBench."""
    run = random_run(tmp_path / "run", name, cache, mean=50.0)
    sae, ours = custom_sae(run), load(run)
    x = rows(12, D_IN, 0, 50.0).view(3, 4, D_IN)
    assert torch.equal(sae.encode(x), ours.encode(x))
    assert torch.equal(sae(x), ours(x))
    assert torch.equal(sae.decode(sae.encode(x)), sae(x))
    assert (sae.W_enc.shape, sae.W_dec.shape) == ((D_IN, D_SAE), (D_SAE, D_IN))
    assert (sae.b_enc.shape, sae.b_dec.shape) == ((D_SAE,), (D_IN,))
    assert all(isinstance(value, torch.nn.Parameter) for value in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    assert sae.check_decoder_norms()
    architecture = "standard" if name == "relu" else name
    assert (sae.cfg.architecture, sae.cfg.d_in, sae.cfg.d_sae) == (architecture, D_IN, D_SAE)
    assert (sae.cfg.hook_name, sae.cfg.hook_layer, sae.cfg.model_name) == ("blocks.1.hook_resid_post", 1, "made up")


def test_cfg_has_the_fields_that_saebench_needs_and_is_mutable(cache: Path, tmp_path: Path) -> None:
    cfg = custom_sae(random_run(tmp_path / "run", "topk", cache), model_name="toy").cfg
    assert {field.name for field in fields(CustomConfig)} >= {*CFG_FIELDS, "activation_fn_kwargs"}
    cfg.dtype, cfg.exclude_special_tokens = "bfloat16", True  # type: ignore[attr-defined]
    assert (cfg.to_dict()["dtype"], cfg.to_dict()["model_name"]) == ("bfloat16", "toy")
    assert (cfg.activation_fn_str, cfg.activation_fn_kwargs) == ("topk", {"k": K})


def test_it_moves_between_devices_and_dtypes(cache: Path, tmp_path: Path) -> None:
    """Calls `to` by position and by name; device and dtype are those of the parameters."""
    sae = custom_sae(random_run(tmp_path / "run", "jumprelu", cache))
    assert (sae.device, sae.dtype) == (torch.device("cpu"), torch.float32)
    assert sae.to(dtype=torch.bfloat16) is sae
    assert sae.dtype == sae.encode(rows(3, D_IN, 0, 0.0)).dtype == torch.bfloat16
    assert sae.check_decoder_norms()
    sae.to("meta", torch.float32)
    assert (sae.device.type, sae.dtype) == ("meta", torch.float32)


@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated"])
def test_rows_get_unit_norm_and_the_reconstruction_stays(cache: Path, tmp_path: Path, name: str) -> None:
    """An imported SAE may have rows of any norm; activations scale with the norm, and the same latents are active."""
    ours = load(random_run(tmp_path / "run", name, cache))
    params = dict(ours.named_parameters())
    norms = 0.5 + torch.rand(D_SAE, generator=torch.Generator().manual_seed(3))
    metadata = {"hook_name": ours.hook, "model_name": "made up"}
    saelens.write(tmp_path / "theirs", ours.settings, params | {"W_dec": params["W_dec"] * norms[:, None]}, metadata)
    run = import_sae(tmp_path / "theirs", "saelens", cache, tmp_path / "imported")
    sae, uneven = custom_sae(run), load(run)
    x = rows(50, D_IN, 0, 0.0)
    assert sae.check_decoder_norms()
    torch.testing.assert_close(sae.encode(x), uneven.encode(x) * norms, rtol=1e-5, atol=1e-5)
    assert torch.equal(sae.encode(x) > 0, uneven.encode(x) > 0)
    torch.testing.assert_close(sae(x), uneven(x), rtol=1e-5, atol=1e-5)
    assert sae.cfg.architecture == ("standard" if name == "relu" else name)


def test_a_zero_row_is_detected(cache: Path, tmp_path: Path) -> None:
    sae = custom_sae(random_run(tmp_path / "run", "relu", cache))
    sae.W_dec.data[3] = 0
    assert not sae.check_decoder_norms()


def test_a_hook_that_is_not_of_the_residual_stream_is_refused(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"blocks.1.hook_mlp_out": structured_rows(600, D_IN)})
    with pytest.raises(ConfigError, match="SAEBench reads the residual stream"):
        custom_sae(random_run(tmp_path / "run", "relu", cache))
