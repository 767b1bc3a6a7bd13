"""SAELens 6.54.12: it reads our exports, also from the hub, and we read its folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.random_runs import (
    D_IN,
    D_SAE,
    OURS_AND_SAELENS,
    SAMPLES,
    K,
    clear_rows,
    random_params,
    random_run,
    rows,
    write_evaluation,
)
from saepipe.train.formats import saelens
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load
from saepipe.train.sae.matching_pursuit import MatchingPursuit
from saepipe.train.seeds import generator

pytestmark = pytest.mark.interop

PURSUIT = {"max_iterations": K, "residual_threshold": 0, "stop_on_duplicate_support": False}
"""A matching pursuit without early stops, as in SynthSAEBench."""

THEIRS: dict[str, dict[str, Any]] = {
    "standard": {},
    "topk": {"k": K, "rescale_acts_by_decoder_norm": False},
    "topk, rescaled": {"k": K, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"jumprelu_init_threshold": 0.3},
    "jumprelu, b_dec left in": {"jumprelu_init_threshold": 0.3, "apply_b_dec_to_input": False},
    "gated": {},
    "gated, b_dec left in": {"apply_b_dec_to_input": False},
    "batchtopk": {"k": K},
    "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [8, D_SAE]},
    "matching_pursuit": PURSUIT,
}
"""Architectures that SAELens trains, with settings."""


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        acts = sae.encode(x)
        assert torch.equal(sae.decode(acts), sae(x))
        return acts, sae.decode(acts)


@pytest.mark.parametrize("name", OURS_AND_SAELENS)
def test_it_reads_our_export_and_we_read_it_back(
    sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str, compare: Any
) -> None:
    for seed, mean in SAMPLES:
        root = tmp_path / f"{seed}-{mean:g}"
        run = random_run(root / "run", name, cache, seed=seed, mean=mean)
        out = export_sae(run, "saelens", root / "out")
        theirs, ours = sae_lens.SAE.load_from_disk(str(out)), load(run)
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("saelens", "ours to library", name, values(ours, x), values(theirs, x))
        theirs.save_model(str(root / "again"))
        back = load(import_sae(root / "again", "saelens", cache, root / "back"))
        compare("saelens", "there and back", name, values(back, x), values(ours, x))


@pytest.mark.parametrize("name", OURS_AND_SAELENS)
def test_our_export_has_all_keys_of_its_own(sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str) -> None:
    """Compares key by key; the export is not mistaken for a folder from before version 6, or as trained by SAELens."""
    out = export_sae(random_run(tmp_path / "run", name, cache), "saelens", tmp_path / "out")
    theirs = sae_lens.SAE.load_from_disk(str(out))
    theirs.save_model(str(tmp_path / "again"))
    ours, again = (json.loads((folder / "cfg.json").read_text()) for folder in (out, tmp_path / "again"))
    assert ours == again
    weights, saved = (load_file(folder / "sae_weights.safetensors") for folder in (out, tmp_path / "again"))
    assert {key: value.tolist() for key, value in weights.items()} == {k: v.tolist() for k, v in saved.items()}
    assert theirs.cfg.metadata.sae_lens_version == sae_lens.__version__ == saelens.VERSION
    assert theirs.cfg.metadata.sae_lens_training_version is None
    assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.context_size) == ("blocks.1.hook_resid_post", 16)


def test_without_a_version_it_is_read_as_an_older_folder(sae_lens: ModuleType, cache: Path, tmp_path: Path) -> None:
    """This is the failure that `metadata.sae_lens_version` avoids: the rest of the metadata would be dropped."""
    out = export_sae(random_run(tmp_path / "run", "topk", cache), "saelens", tmp_path / "out")
    config = json.loads((out / "cfg.json").read_text())
    assert sae_lens.SAE.load_from_disk(str(out)).cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    del config["metadata"]["sae_lens_version"]
    (out / "cfg.json").write_text(json.dumps(config))
    assert sae_lens.SAE.load_from_disk(str(out)).cfg.metadata.hook_name is None


def their_random_sae(sae_lens: ModuleType, name: str, seed: int) -> Any:
    """Returns an SAE of SAELens' training classes with random parameters, no zeros, decoder rows of uneven norm."""
    training_class, config = sae_lens.registry.get_sae_training_class(name.partition(",")[0])
    metadata = sae_lens.saes.sae.SAEMetadata(**METADATA)
    sae = training_class(config(d_in=D_IN, d_sae=D_SAE, metadata=metadata, **THEIRS[name]))
    rng = generator(seed, "theirs")
    for key, value in [*sae.named_parameters(), *sae.named_buffers()]:
        sample = torch.randn if key in ("W_enc", "W_dec") else torch.rand
        value.data.copy_(0.1 + 0.4 * sample(value.shape, generator=rng))
    return sae


METADATA = {"hook_name": "blocks.1.hook_resid_post", "model_name": "made up"}


def test_it_loads_an_export_from_the_hub_with_its_density(
    sae_lens: ModuleType, cache: Path, tmp_path: Path, repository: Path
) -> None:
    """`SAE.from_pretrained(release="org/name", sae_id="folder")`; log10(density + 1e-10) is -10 for a silent latent."""
    run = random_run(tmp_path / "run", "gated", cache)
    density = torch.arange(D_SAE, dtype=torch.float64) / D_SAE
    write_evaluation(run, density.tolist())
    export_sae(run, "saelens", repository / "some" / "folder")
    pretrained = sae_lens.SAE.from_pretrained_with_cfg_and_sparsity
    theirs, config, log_density = pretrained(release="org/name", sae_id="some/folder")
    torch.testing.assert_close(log_density.double(), (density + 1e-10).log10(), rtol=1e-6, atol=1e-6)
    assert (float(log_density[0]), config["metadata"]["l0"]) == (-10.0, 4.5)
    x = rows(9, D_IN, 0, 0.0)
    torch.testing.assert_close(theirs.encode(x), load(run).encode(x))


@pytest.mark.parametrize("name", THEIRS)
def test_we_read_its_folders(sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str, compare: Any) -> None:
    for seed, mean in SAMPLES:
        root = tmp_path / f"{seed}-{mean:g}"
        their_random_sae(sae_lens, name, seed).save_inference_model(str(root / "theirs"))
        theirs = sae_lens.SAE.load_from_disk(str(root / "theirs"))
        ours = load(import_sae(root / "theirs", "saelens", cache, root / "run"))
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("saelens", "library to ours", name, values(ours, x), values(theirs, x))


def test_a_matching_pursuit_learns_as_theirs_does(sae_lens: ModuleType, compare: Any) -> None:
    """Their training class and ours have equal codes, and equal gradients of the squared error."""
    ours, x = MatchingPursuit(d_sae=D_SAE, k=K), rows(200, D_IN, 0, 50.0)
    params = random_params(ours, D_IN, 0, 50.0)
    training_class, config = sae_lens.registry.get_sae_training_class("matching_pursuit")
    theirs = training_class(config(d_in=D_IN, d_sae=D_SAE, **PURSUIT))
    for name, value in theirs.named_parameters():
        value.data.copy_(params[name])
        params[name].requires_grad_()
    x = clear_rows(ours, params, x)
    acts, their_acts = ours.activate_training(params, ours.pre_acts(params, x)), theirs.encode(x)
    x_hat, their_x_hat = ours.decode(params, acts), theirs.decode(their_acts)
    compare("saelens", "training class", "matching_pursuit", (acts, x_hat), (their_acts, their_x_hat))
    leaves = {name: (params[name], value) for name, value in theirs.named_parameters()}
    for name, (own, their) in leaves.items():
        (gradient,) = torch.autograd.grad((x - x_hat).square().sum(), own, retain_graph=True)
        (expected,) = torch.autograd.grad((x - their_x_hat).square().sum(), their, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-2, msg=name)
        assert expected.abs().max() > 10
