"""sparsify 1.3.3: it reads our top-k SAEs, and we read what it saves."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.random_runs import D_IN, D_SAE, DRAWS, K, decided, drawn_run, rows
from saepipe.data.errors import ConfigError
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load
from saepipe.train.seeds import generator

pytestmark = pytest.mark.interop

HOOK = "blocks.1.hook_resid_post"


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    acts = sae.encode(x)
    return acts, sae.decode(acts)


def values_there(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Its sparse activations as a dense (batch, d_sae)."""
    with torch.no_grad():
        top = sae.encode(x)
        x_hat = sae.decode(top.top_acts, top.top_indices)
        assert torch.equal(x_hat, sae(x).sae_out)
        return torch.zeros(len(x), D_SAE).scatter(-1, top.top_indices, top.top_acts), x_hat


def test_it_reads_our_export_and_we_read_it_back(
    sparsify: ModuleType, cache: Path, tmp_path: Path, compare: Any
) -> None:
    for seed, mean in DRAWS:
        place = tmp_path / f"{seed}-{mean:g}"
        run = drawn_run(place / "run", "topk", cache, seed=seed, mean=mean)
        out = export_sae(run, "sparsify", place / "out")
        theirs, ours = sparsify.SparseCoder.load_from_disk(out / "layers.1"), load(run)
        assert list(sparsify.SparseCoder.load_many(str(out), local=True)) == ["layers.1"]
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("sparsify", "ours to library", "topk", values(ours, x), values_there(theirs, x))
        theirs.save_to_disk(out / "layers.1")
        back = load(import_sae(out / "layers.1", "sparsify", cache, place / "back"))
        compare("sparsify", "there and back", "topk", values(back, x), values(ours, x))
        assert back.hook == HOOK


def test_our_decoder_lies_as_its_own_does(sparsify: ModuleType, cache: Path, tmp_path: Path) -> None:
    """The trap of W_dec's orientation: beside a square SAE nothing would complain of the transpose."""
    run = drawn_run(tmp_path / "run", "topk", cache, d_sae=D_IN)
    out = export_sae(run, "sparsify", tmp_path / "out") / "layers.1"
    theirs = sparsify.SparseCoder.load_from_disk(out)
    assert torch.equal(theirs.W_dec.data, load(run).W_dec)
    assert torch.equal(theirs.encoder.weight.data, load(run).W_enc.T)
    assert {name: value.shape for name, value in load_file(out / "sae.safetensors").items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def made_there(sparsify: ModuleType, seed: int, **config: Any) -> Any:
    sae = sparsify.SparseCoder(D_IN, sparsify.SparseCoderConfig(**({"num_latents": D_SAE, "k": K} | config)))
    drawn = generator(seed, "sparsify")
    for value in sae.parameters():
        value.data.copy_(0.5 * torch.randn(value.shape, generator=drawn))
    return sae


def test_we_read_what_it_saves(sparsify: ModuleType, cache: Path, tmp_path: Path, compare: Any) -> None:
    for seed, mean in DRAWS:
        folder = tmp_path / f"run-{mean:g}" / "layers.1" / f"seed{seed}"
        theirs = made_there(sparsify, seed)
        theirs.save_to_disk(folder)
        ours = load(import_sae(folder, "sparsify", cache, tmp_path / f"{seed}-{mean:g}"))
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("sparsify", "library to ours", "topk", values(ours, x), values_there(theirs, x))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'"),
        ({"transcode": True}, "it is a transcoder"),
        ({"skip_connection": True}, "a linear map of its input"),
    ],
)
def test_what_it_saves_and_we_have_not_is_refused(
    sparsify: ModuleType, cache: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    made_there(sparsify, 0, **config).save_to_disk(tmp_path / "layers.1")
    with pytest.raises(ConfigError, match=words):
        import_sae(tmp_path / "layers.1", "sparsify", cache, tmp_path / "run")
