"""dictionary_learning 0.1.0: it reads what we export, we read what it saves, and SAELens reads the same folder."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.random_runs import ARCHITECTURES, CLASSES, D_IN, D_SAE, DRAWS, K, decided, drawn_run, rows
from saepipe.train.formats import dictionary_learning as ours_of
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.importing import import_sae
from saepipe.train.rundir.load import load
from saepipe.train.seeds import generator

pytestmark = pytest.mark.interop


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        acts = sae.encode(x)
        assert torch.equal(sae.decode(acts), sae(x))
        return acts, sae.decode(acts)


def load_there(folder: Path) -> Any:
    """The library's own way in; of these it prints that it normalises where rows are not of unit norm."""
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
    for seed, mean in DRAWS:
        place = tmp_path / f"{seed}-{mean:g}"
        run = drawn_run(place / "run", name, cache, seed=seed, mean=mean)
        out = export_sae(run, "dictionary_learning", place / "out")
        theirs, ours = load_there(out), load(run)
        assert type(theirs).__name__ == CLASSES[name]
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("dictionary_learning", "ours to library", name, values(ours, x), values(theirs, x))
        torch.save(theirs.state_dict(), out / "ae.pt")
        back = load(import_sae(out, "dictionary_learning", cache, place / "back"))
        compare("dictionary_learning", "there and back", name, values(back, x), values(ours, x))
    assert "Normalizing" not in capsys.readouterr().out


def test_a_batch_topk_whose_k_is_not_whole_is_a_jumprelu_there(
    dictionary_learning: ModuleType, cache: Path, tmp_path: Path, compare: Any
) -> None:
    run = drawn_run(tmp_path / "run", "batch_topk", cache, k=4.5)
    theirs, ours = load_there(export_sae(run, "dictionary_learning", tmp_path / "out")), load(run)
    assert type(theirs).__name__ == "JumpReluAutoEncoder"
    x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, 0, 0.0))
    compare("dictionary_learning", "ours to library", "batch_topk, k = 4.5", values(ours, x), values(theirs, x))


def test_saelens_reads_the_same_folder(
    dictionary_learning: ModuleType, sae_lens: ModuleType, cache: Path, repository: Path, tmp_path: Path, compare: Any
) -> None:
    """Its loader looks at `buffer.ctx_len`, and takes the output of `trainer.layer` for the place."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    for name in ARCHITECTURES:
        run = drawn_run(tmp_path / name, name, cache, mean=50.0)
        export_sae(run, "dictionary_learning", repository / name)
        theirs = sae_lens.SAE.from_pretrained(
            release="org/name", sae_id=name, converter=loaders.dictionary_learning_sae_huggingface_loader_1
        )
        ours = load(run)
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, 1, 50.0))
        compare("dictionary_learning", "ours to SAELens", name, values(ours, x), values(theirs, x))
        assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.context_size) == (ours.hook, 16)


def test_saelens_would_not_read_it_without_a_buffer(
    sae_lens: ModuleType, cache: Path, repository: Path, tmp_path: Path
) -> None:
    """The trap that `buffer` avoids."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    out = export_sae(drawn_run(tmp_path / "run", "relu", cache), "dictionary_learning", repository / "relu")
    config = json.loads((out / "config.json").read_text())
    assert config.pop("buffer") == {"ctx_len": 16, "d_submodule": D_IN, "io": "out"}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(KeyError, match="buffer"):
        loaders.dictionary_learning_sae_huggingface_loader_1("org/name", "relu")


def made_there(kind: str, seed: int) -> Any:
    """One of its dictionaries with drawn parameters; decoder rows of uneven norm."""
    folder = "dictionary_learning"
    module = {
        "AutoEncoderTopK": f"{folder}.trainers.top_k",
        "BatchTopKSAE": f"{folder}.trainers.batch_top_k",
        "MatryoshkaBatchTopKSAE": f"{folder}.trainers.matryoshka_batch_top_k",
    }.get(kind, f"{folder}.dictionary")
    k = {"k": K} if module.startswith(f"{folder}.trainers") else {}
    groups = {"group_sizes": [7, 9, D_SAE - 16]} if kind == "MatryoshkaBatchTopKSAE" else {}
    made = getattr(importlib.import_module(module), kind)(D_IN, D_SAE, **k, **groups)
    drawn = generator(seed, kind)
    for _name, value in made.named_parameters():
        scale = 0.3 if value.ndim == 2 else 1.0
        value.data.copy_(scale * torch.randn(value.shape, generator=drawn))
    if "threshold" in dict(made.named_buffers()):
        made.threshold.fill_(0.7)
    elif hasattr(made, "threshold"):
        made.threshold.data.abs_()
    return made


@pytest.mark.parametrize("kind", ours_of.KEYS)
def test_we_read_what_it_saves(
    dictionary_learning: ModuleType, cache: Path, tmp_path: Path, kind: str, compare: Any
) -> None:
    for seed, mean in DRAWS:
        theirs = tmp_path / f"{seed}-{mean:g}" / "trainer_0"
        theirs.mkdir(parents=True)
        made = made_there(kind, seed)
        torch.save({name: value.cpu() for name, value in made.state_dict().items()}, theirs / "ae.pt")
        trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 1, "lm_name": "made up"}
        trainer |= {"k": K} if hasattr(made, "k") else {}
        (theirs / "config.json").write_text(json.dumps({"trainer": trainer}))
        ours = load(import_sae(theirs, "dictionary_learning", cache, tmp_path / f"{seed}-{mean:g}" / "run"))
        x = decided(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, seed, mean))
        compare("dictionary_learning", "library to ours", kind, values(ours, x), values(load_there(theirs), x))
