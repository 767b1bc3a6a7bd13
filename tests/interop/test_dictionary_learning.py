"""dictionary_learning 0.1.0: it reads our exports, we read its folders, and SAELens reads our export too."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.dictionaries import import_here
from helpers.random_runs import ARCHITECTURES, CLASSES, D_IN, D_SAE, SAMPLES, K, clear_rows, random_run, rows
from saepipe.train.formats import dictionary_learning as ours_of
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.load import load
from saepipe.train.seeds import generator

pytestmark = pytest.mark.interop


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        acts = sae.encode(x)
        assert torch.equal(sae.decode(acts), sae(x))
        return acts, sae.decode(acts)


def load_theirs(folder: Path) -> Any:
    """Loads with the library's own loader, which prints that it normalises if decoder rows do not have unit norm."""
    return importlib.import_module("dictionary_learning.utils").load_dictionary(str(folder), device="cpu")[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_reads_our_export_and_we_read_it_back(
    dictionary_learning: ModuleType,
    cache: Path,
    tmp_path: Path,
    name: str,
    compare: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed, mean in SAMPLES:
        root = tmp_path / f"{seed}-{mean:g}"
        run = random_run(root / "run", name, cache, seed=seed, mean=mean)
        out = export_sae(run, "dictionary_learning", root / "out")
        theirs, ours = load_theirs(out), load(run)
        assert type(theirs).__name__ == CLASSES[name]
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("dictionary_learning", "ours to library", name, values(ours, x), values(theirs, x))
        torch.save(theirs.state_dict(), out / "ae.pt")
        back = load(import_here(out, "dictionary_learning", cache, root / "back"))
        compare("dictionary_learning", "there and back", name, values(back, x), values(ours, x))
    assert "Normalizing" not in capsys.readouterr().out


def test_a_batch_topk_with_fractional_k_becomes_their_jumprelu(
    dictionary_learning: ModuleType, cache: Path, tmp_path: Path, compare: Any
) -> None:
    run = random_run(tmp_path / "run", "batch_topk", cache, k=4.5)
    theirs, ours = load_theirs(export_sae(run, "dictionary_learning", tmp_path / "out")), load(run)
    assert type(theirs).__name__ == "JumpReluAutoEncoder"
    x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, 0, 0.0))
    compare("dictionary_learning", "ours to library", "batch_topk, k = 4.5", values(ours, x), values(theirs, x))


def test_saelens_reads_the_same_folder(
    dictionary_learning: ModuleType, sae_lens: ModuleType, cache: Path, repository: Path, tmp_path: Path, compare: Any
) -> None:
    """Its loader needs `buffer.ctx_len`, and takes the output of `trainer.layer` as the hook."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    for name in ARCHITECTURES:
        run = random_run(tmp_path / name, name, cache, mean=50.0)
        export_sae(run, "dictionary_learning", repository / name)
        theirs = sae_lens.SAE.from_pretrained(
            release="org/name", sae_id=name, converter=loaders.dictionary_learning_sae_huggingface_loader_1
        )
        ours = load(run)
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, 1, 50.0))
        compare("dictionary_learning", "ours to SAELens", name, values(ours, x), values(theirs, x))
        assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.context_size) == (ours.hook, 16)


def test_saelens_cannot_read_it_without_a_buffer(
    sae_lens: ModuleType, cache: Path, repository: Path, tmp_path: Path
) -> None:
    """This is the failure that writing `buffer` avoids."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    out = export_sae(random_run(tmp_path / "run", "relu", cache), "dictionary_learning", repository / "relu")
    config = json.loads((out / "config.json").read_text())
    assert config.pop("buffer") == {"ctx_len": 16, "d_submodule": D_IN, "io": "out"}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(KeyError, match="buffer"):
        loaders.dictionary_learning_sae_huggingface_loader_1("org/name", "relu")


def their_random_dictionary(kind: str, seed: int) -> Any:
    """Returns one of the library's dictionaries with random parameters and decoder rows of uneven norm."""
    folder = "dictionary_learning"
    module = {
        "AutoEncoderTopK": f"{folder}.trainers.top_k",
        "BatchTopKSAE": f"{folder}.trainers.batch_top_k",
        "MatryoshkaBatchTopKSAE": f"{folder}.trainers.matryoshka_batch_top_k",
    }.get(kind, f"{folder}.dictionary")
    k = {"k": K} if module.startswith(f"{folder}.trainers") else {}
    groups = {"group_sizes": [7, 9, D_SAE - 16]} if kind == "MatryoshkaBatchTopKSAE" else {}
    dictionary = getattr(importlib.import_module(module), kind)(D_IN, D_SAE, **k, **groups)
    rng = generator(seed, kind)
    for _name, value in dictionary.named_parameters():
        scale = 0.3 if value.ndim == 2 else 1.0
        value.data.copy_(scale * torch.randn(value.shape, generator=rng))
    if "threshold" in dict(dictionary.named_buffers()):
        dictionary.threshold.fill_(0.7)
    elif hasattr(dictionary, "threshold"):
        dictionary.threshold.data.abs_()
    return dictionary


@pytest.mark.parametrize("kind", ours_of.KEYS)
def test_we_read_its_folders(
    dictionary_learning: ModuleType, cache: Path, tmp_path: Path, kind: str, compare: Any
) -> None:
    for seed, mean in SAMPLES:
        theirs = tmp_path / f"{seed}-{mean:g}" / "trainer_0"
        theirs.mkdir(parents=True)
        dictionary = their_random_dictionary(kind, seed)
        torch.save({name: value.cpu() for name, value in dictionary.state_dict().items()}, theirs / "ae.pt")
        trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 1, "lm_name": "made up"}
        trainer |= {"k": K} if hasattr(dictionary, "k") else {}
        (theirs / "config.json").write_text(json.dumps({"trainer": trainer}))
        ours = load(import_here(theirs, "dictionary_learning", cache, tmp_path / f"{seed}-{mean:g}" / "run"))
        x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("dictionary_learning", "library to ours", kind, values(ours, x), values(load_theirs(theirs), x))
