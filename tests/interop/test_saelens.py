"""SAELens 6.54.12: it reads what we export, we read what it saves, and its own loaders read our other exports."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.random_runs import ARCHITECTURES, D_IN, D_SAE, DRAWS, K, decided, drawn_run, rows, write_evaluation
from saepipe.train.formats import saelens
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load
from saepipe.train.seeds import generator

pytestmark = pytest.mark.interop

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
}
"""What SAELens trains, with settings."""


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        acts = sae.encode(x)
        assert torch.equal(sae.decode(acts), sae(x))
        return acts, sae.decode(acts)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_reads_our_export_and_we_read_it_back(
    sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str, compare: Any
) -> None:
    for seed, mean in DRAWS:
        place = tmp_path / f"{seed}-{mean:g}"
        run = drawn_run(place / "run", name, cache, seed=seed, mean=mean)
        out = export_sae(run, "saelens", place / "out")
        theirs, ours = sae_lens.SAE.load_from_disk(str(out)), load(run)
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("saelens", "ours to library", name, values(ours, x), values(theirs, x))
        theirs.save_model(str(place / "again"))
        back = load(import_sae(place / "again", "saelens", cache, place / "back"))
        compare("saelens", "there and back", name, values(back, x), values(ours, x))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_our_export_says_all_that_its_own_says(sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str) -> None:
    """Key by key; and it is not taken for a folder from before version 6, nor as trained by SAELens."""
    out = export_sae(drawn_run(tmp_path / "run", name, cache), "saelens", tmp_path / "out")
    theirs = sae_lens.SAE.load_from_disk(str(out))
    theirs.save_model(str(tmp_path / "again"))
    said, again = (json.loads((folder / "cfg.json").read_text()) for folder in (out, tmp_path / "again"))
    assert said == again
    weights, saved = (load_file(folder / "sae_weights.safetensors") for folder in (out, tmp_path / "again"))
    assert {key: value.tolist() for key, value in weights.items()} == {k: v.tolist() for k, v in saved.items()}
    assert theirs.cfg.metadata.sae_lens_version == sae_lens.__version__ == saelens.VERSION
    assert theirs.cfg.metadata.sae_lens_training_version is None
    assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.context_size) == ("blocks.1.hook_resid_post", 16)


def test_without_a_version_it_would_be_read_as_an_older_one(sae_lens: ModuleType, cache: Path, tmp_path: Path) -> None:
    """The trap that `metadata.sae_lens_version` avoids: the rest of the metadata would be dropped."""
    out = export_sae(drawn_run(tmp_path / "run", "topk", cache), "saelens", tmp_path / "out")
    config = json.loads((out / "cfg.json").read_text())
    assert sae_lens.SAE.load_from_disk(str(out)).cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    del config["metadata"]["sae_lens_version"]
    (out / "cfg.json").write_text(json.dumps(config))
    assert sae_lens.SAE.load_from_disk(str(out)).cfg.metadata.hook_name is None


def trained_there(sae_lens: ModuleType, name: str, seed: int) -> Any:
    """An SAE of SAELens' training classes with drawn parameters, none at zero; decoder rows of uneven norm."""
    made, config = sae_lens.registry.get_sae_training_class(name.partition(",")[0])
    sae = made(config(d_in=D_IN, d_sae=D_SAE, metadata=sae_lens.saes.sae.SAEMetadata(**PLACE), **THEIRS[name]))
    drawn = generator(seed, "theirs")
    for own, value in [*sae.named_parameters(), *sae.named_buffers()]:
        scale = torch.randn if own in ("W_enc", "W_dec") else torch.rand
        value.data.copy_(0.1 + 0.4 * scale(value.shape, generator=drawn))
    return sae


PLACE = {"hook_name": "blocks.1.hook_resid_post", "model_name": "made up"}


def test_it_finds_an_export_on_the_hub_with_its_density(
    sae_lens: ModuleType, cache: Path, tmp_path: Path, repository: Path
) -> None:
    """`SAE.from_pretrained(release="org/name", sae_id="folder")`; log10(density + 1e-10), -10 of a silent latent."""
    run = drawn_run(tmp_path / "run", "gated", cache)
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
def test_we_read_what_it_saves(sae_lens: ModuleType, cache: Path, tmp_path: Path, name: str, compare: Any) -> None:
    for seed, mean in DRAWS:
        place = tmp_path / f"{seed}-{mean:g}"
        trained_there(sae_lens, name, seed).save_inference_model(str(place / "theirs"))
        theirs = sae_lens.SAE.load_from_disk(str(place / "theirs"))
        ours = load(import_sae(place / "theirs", "saelens", cache, place / "run"))
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("saelens", "library to ours", name, values(ours, x), values(theirs, x))
