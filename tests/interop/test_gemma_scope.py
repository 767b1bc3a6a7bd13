"""Gemma Scope and Gemma Scope 2, which no library writes: SAELens' readers and ours give the same function."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, randn, write_gemma_scope, write_gemma_scope_2
from helpers.random_runs import clear_rows
from saepipe.train.formats import gemma_scope

pytestmark = pytest.mark.interop


def compared(theirs: Any, path: Path, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns our (acts, x_hat), and theirs."""
    source = gemma_scope.source(path)
    x = clear_rows(source.sae, source.params, x)
    acts = source.sae.encode(source.params, x)
    return (acts, source.sae.decode(source.params, acts)), (theirs.encode(x), theirs(x))


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_gemma_scope(sae_lens: ModuleType, repository: Path, compare: Any, mean: float) -> None:
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    folder = write_gemma_scope(repository / "layer_3" / "average_l0_7" / "params.npz").parent
    config, weights, _ = loaders.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", "layer_3/average_l0_7")
    theirs = sae_lens.SAE.from_dict(config | {"d_in": D_IN, "d_sae": D_SAE, "normalize_activations": "none"})
    theirs.load_state_dict(weights)
    compare("gemma-scope", "SAELens and ours", "jumprelu", *compared(theirs, folder, mean + randn(200, D_IN, seed=9)))


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_gemma_scope_2(sae_lens: ModuleType, repository: Path, compare: Any, mean: float) -> None:
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    name = "resid_post/layer_9_width_16k_l0_small"
    folder = write_gemma_scope_2(repository / name)
    theirs = sae_lens.SAE.from_pretrained(
        release="org/name", sae_id=name, converter=loaders.gemma_3_sae_huggingface_loader
    )
    source = gemma_scope.source(folder)
    assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.model_name) == (source.hook, source.model)
    compare("gemma-scope 2", "SAELens and ours", "jumprelu", *compared(theirs, folder, mean + randn(200, D_IN, seed=9)))
