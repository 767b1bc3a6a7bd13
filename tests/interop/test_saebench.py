"""SAEBench 0.6.0: its core evaluation accepts our custom SAE, and its loaders read our dictionary_learning exports."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.made_caches import structured_rows, write_cache
from helpers.random_runs import ARCHITECTURES, D_IN, D_SAE, clear_rows, random_run, rows
from saepipe.evaluate.export.saebench import CustomConfig, custom_sae
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.load import load

pytestmark = pytest.mark.interop

REASON = (
    "sae-bench 0.6.0 is not installed: it needs datasets<4, which conflicts with our pins; "
    "`pip install --no-deps sae-bench==0.6.0 tabulate` next to the extra [interop]"
)
LOADERS = {
    "relu": "relu_sae.load_dictionary_learning_relu_sae",
    "topk": "topk_sae.load_dictionary_learning_topk_sae",
    "jumprelu": "jumprelu_sae.load_dictionary_learning_jump_relu_sae",
    "gated": "gated_sae.load_dictionary_learning_gated_sae",
    "batch_topk": "batch_topk_sae.load_dictionary_learning_batch_topk_sae",
    "matryoshka_batch_topk": "batch_topk_sae.load_dictionary_learning_matryoshka_batch_topk_sae",
}


@pytest.fixture(scope="session")
def core(sae_lens: ModuleType) -> ModuleType:
    return pytest.importorskip("sae_bench.evals.core.main", reason=REASON)


def values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return sae.encode(x), sae(x)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_loaders_read_our_export(
    core: ModuleType, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compare: Any
) -> None:
    """They distinguish classes by `trainer_class`, and refuse decoder rows without unit norm."""
    file, _, function = LOADERS[name].partition(".")
    module = importlib.import_module(f"sae_bench.custom_saes.{file}")
    run = random_run(tmp_path / "run", name, cache, mean=50.0)
    out = export_sae(run, "dictionary_learning", tmp_path / "out")
    monkeypatch.setattr(module, "hf_hub_download", lambda filename, **_: str(out / Path(filename).name))
    read = getattr(module, function)
    theirs = read("org/name", "out/ae.pt", "made up", torch.device("cpu"), torch.float32, layer=1)
    ours = load(run)
    x = clear_rows(ours.settings, dict(ours.named_parameters()), rows(200, D_IN, 0, 50.0))
    compare("dictionary_learning", "ours to SAEBench", name, values(ours, x), values(theirs, x))
    architecture = "standard" if name == "relu" else name
    assert theirs.cfg.architecture == custom_sae(run).cfg.architecture == architecture


def test_our_custom_sae_has_all_attributes_of_theirs(core: ModuleType, cache: Path, tmp_path: Path) -> None:
    identity = importlib.import_module("sae_bench.custom_saes.identity_sae").IdentitySAE
    theirs = identity(D_IN, "made up", 1, torch.device("cpu"), torch.float32)
    ours = custom_sae(random_run(tmp_path / "run", "relu", cache))
    names = {name for name in dir(theirs) if not name.startswith("_")} - {"test_sae"}  # test_sae downloads a model
    assert names <= set(dir(ours))
    assert {field.name for field in fields(theirs.cfg)} <= {field.name for field in fields(CustomConfig)}
    assert theirs.cfg.to_dict().keys() <= ours.cfg.to_dict().keys()


class Store:
    """The part of SAELens' activation store that the core evaluation uses: tokens."""

    context_size = 8

    def get_batch_tokens(self, batch_size: int) -> Tensor:
        return torch.randint(0, 50, (batch_size, 8), generator=torch.Generator().manual_seed(1))

    def reset_input_dataset(self) -> None:
        """Does nothing: every batch is the first one here."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_core_evaluation_accepts_our_sae(core: ModuleType, tmp_path: Path, name: str) -> None:
    """The model is random, with two layers; figures agree with the SAE's own activations at its hook."""
    lens = importlib.import_module("transformer_lens")
    torch.manual_seed(0)  # transformer_lens samples from the global generator
    sizes = {"n_layers": 2, "d_model": D_IN, "n_ctx": 8, "d_head": 6, "d_vocab": 50, "act_fn": "relu"}
    model = lens.HookedTransformer(lens.HookedTransformerConfig(**sizes, device="cpu", init_weights=True))
    cache = write_cache(tmp_path / "cache", {"blocks.1.hook_resid_post": structured_rows(600, D_IN)})
    run = random_run(tmp_path / "run", name, cache)
    general = importlib.import_module("sae_bench.sae_bench_utils.general_utils")
    _, sae, _ = general.load_and_format_sae("ours", custom_sae(run), "cpu")
    config = importlib.import_module("sae_bench.evals.core.eval_config").CoreEvalConfig
    everything = dict.fromkeys((name for name in config.__dataclass_fields__ if name.startswith("compute_")), True)
    settings = config(batch_size_prompts=5, n_eval_reconstruction_batches=1, **everything)
    metrics, latents = core.run_evals(sae, Store(), model, settings)
    _, acts_at = model.run_with_cache(Store().get_batch_tokens(5))
    x = acts_at["blocks.1.hook_resid_post"].flatten(0, 1)
    acts, x_hat = values(load(run), x)
    assert metrics["sparsity"]["l0"] == pytest.approx(float((acts > 0).float().sum(1).mean()), rel=1e-4)
    cosine = torch.cosine_similarity(x, x_hat, dim=1).mean()
    assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(float(cosine), rel=1e-4)
    assert metrics["shrinkage"]["l2_norm_out"] == pytest.approx(float(x_hat.norm(dim=1).mean()), rel=1e-4)
    assert latents["feature_density"] == pytest.approx((acts > 0).float().mean(0).tolist(), abs=1e-6)
    assert len(latents["encoder_bias"]) == D_SAE
    bias = load(run).b_mag if name == "gated" else load(run).b_enc
    assert latents["encoder_bias"] == pytest.approx(bias.tolist())
    assert metrics["model_performance_preservation"]["ce_loss_with_sae"] > 0
