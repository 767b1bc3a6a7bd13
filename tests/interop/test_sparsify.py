"""sparsify 1.3.3: it reads our top-k SAEs, and we read its folders."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.random_runs import D_IN, D_SAE, SAMPLES, K, clear_rows, random_run, rows
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


def their_values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the library's sparse activations as a dense (batch, d_sae), and x_hat."""
    with torch.no_grad():
        top = sae.encode(x)
        x_hat = sae.decode(top.top_acts, top.top_indices)
        assert torch.equal(x_hat, sae(x).sae_out)
        return torch.zeros(len(x), D_SAE).scatter(-1, top.top_indices, top.top_acts), x_hat


def test_it_reads_our_export_and_we_read_it_back(
    sparsify: ModuleType, cache: Path, tmp_path: Path, compare: Any
) -> None:
    for seed, mean in SAMPLES:
        root = tmp_path / f"{seed}-{mean:g}"
        run = random_run(root / "run", "topk", cache, seed=seed, mean=mean)
        out = export_sae(run, "sparsify", root / "out")
        theirs, ours = sparsify.SparseCoder.load_from_disk(out / "layers.1"), load(run)
        assert list(sparsify.SparseCoder.load_many(str(out), local=True)) == ["layers.1"]
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("sparsify", "ours to library", "topk", values(ours, x), their_values(theirs, x))
        theirs.save_to_disk(out / "layers.1")
        back = load(import_sae(out / "layers.1", "sparsify", cache, root / "back"))
        compare("sparsify", "there and back", "topk", values(back, x), values(ours, x))
        assert back.hook == HOOK


def test_our_decoder_has_the_layout_of_its_own(sparsify: ModuleType, cache: Path, tmp_path: Path) -> None:
    """The SAE is square: no shape check would notice a transposed W_dec."""
    run = random_run(tmp_path / "run", "topk", cache, d_sae=D_IN)
    out = export_sae(run, "sparsify", tmp_path / "out") / "layers.1"
    theirs = sparsify.SparseCoder.load_from_disk(out)
    assert torch.equal(theirs.W_dec.data, load(run).W_dec)
    assert torch.equal(theirs.encoder.weight.data, load(run).W_enc.T)
    assert {name: value.shape for name, value in load_file(out / "sae.safetensors").items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def their_random_sae(sparsify: ModuleType, seed: int, **config: Any) -> Any:
    sae = sparsify.SparseCoder(D_IN, sparsify.SparseCoderConfig(**({"num_latents": D_SAE, "k": K} | config)))
    rng = generator(seed, "sparsify")
    for value in sae.parameters():
        value.data.copy_(0.5 * torch.randn(value.shape, generator=rng))
    return sae


def test_we_read_its_folders(sparsify: ModuleType, cache: Path, tmp_path: Path, compare: Any) -> None:
    for seed, mean in SAMPLES:
        folder = tmp_path / f"run-{mean:g}" / "layers.1" / f"seed{seed}"
        theirs = their_random_sae(sparsify, seed)
        theirs.save_to_disk(folder)
        ours = load(import_sae(folder, "sparsify", cache, tmp_path / f"{seed}-{mean:g}"))
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("sparsify", "library to ours", "topk", values(ours, x), their_values(theirs, x))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'"),
        ({"transcode": True}, "it is a transcoder"),
        ({"skip_connection": True}, "a linear map of its input"),
    ],
)
def test_what_we_do_not_support_is_refused(
    sparsify: ModuleType, cache: Path, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    their_random_sae(sparsify, 0, **config).save_to_disk(tmp_path / "layers.1")
    with pytest.raises(ConfigError, match=words):
        import_sae(tmp_path / "layers.1", "sparsify", cache, tmp_path / "run")
