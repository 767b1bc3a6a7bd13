"""Inputs of both sides: one tiny Gemma-2, one text, five SAEs, and the files that the parts add."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saepipe.data import toy
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run

LAYER, CONTEXT, BATCH = 1, 128, 16
HOOK = f"blocks.{LAYER}.hook_resid_post"
NUM_DOCUMENTS, HELDOUT_SHARE = 3_000, 0.3
RECONSTRUCTION_BATCHES, SPARSITY_BATCHES = 2, 8
NUM_CONTEXTS = BATCH * (RECONSTRUCTION_BATCHES + SPARSITY_BATCHES)
D_SAE = 256
STEPS = 300
LINEAR = "linear"

HARVEST = {
    "model": {"dtype": "float32", "device": "cpu"},
    "hooks": [HOOK],
    "num_tokens": 50_000,
    "heldout_tokens": NUM_CONTEXTS * CONTEXT,
    "heldout_share": HELDOUT_SHARE,
    "context_size": CONTEXT,
    "shard_rows": 8192,
}
TRAIN = {
    "device": "cpu",
    "sae": {"name": "relu", "d_sae": D_SAE},
    "penalties": [{"name": "l1", "weight": 2.0}],
    "steps": STEPS,
    "batch_size": 512,
    "optimizer": {"lr": 2e-3},
    "variants": [
        {"name": "relu"},
        {"name": "topk", "sae": {"name": "topk", "d_sae": D_SAE, "k": 16}, "penalties": []},
        {
            "name": "jumprelu",
            "sae": {"name": "jumprelu", "d_sae": D_SAE},
            "penalties": [{"name": "l0", "target": 20, "weight": 1.0}],
        },
        {"name": "gated", "sae": {"name": "gated", "d_sae": D_SAE}},
    ],
}


class LinearSAE(nn.Module):
    """acts = x W_enc + b_enc, x_hat = acts W_dec + b_dec, so that latents can be below 0; some vectors are zeros."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    @property
    def d_sae(self) -> int:
        return len(self.W_dec)

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        acts = x @ self.W_enc + self.b_enc
        return acts if latents is None else acts[..., latents]

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.W_dec + self.b_dec


@dataclass(frozen=True)
class Material:
    """A folder that `make` filled."""

    folder: Path

    @cached_property
    def cache(self) -> Cache:
        return Cache.open(self.folder / "cache")

    @cached_property
    def language_model(self) -> LanguageModel:
        return load_model(ModelConfig.parse(HARVEST["model"]))

    @cached_property
    def runs(self) -> list[Path]:
        return [path.parent for path in sorted(self.folder.glob("runs/**/COMMITTED"))]

    @cached_property
    def linear(self) -> Subject:
        """Returns the linear SAE, which has no architecture and so no run."""
        run: Any = SimpleNamespace(variant=LINEAR, seed=0)
        sae: Any = LinearSAE(load_file(self.folder / "saes" / LINEAR / "sae_weights.safetensors"))
        return Subject(run, sae, {})

    @cached_property
    def subjects(self) -> list[Subject]:
        return [*(Subject.load(open_run(run), torch.device("cpu")) for run in self.runs), self.linear]

    def testbed(self) -> Testbed:
        """Returns a testbed in `mode: reference` whose model runs live in float32."""
        artifacts = KeptWork(self.folder / "artifacts", {**self.cache.attributes["model"], "hook": HOOK})
        load, cpu = lambda: self.language_model, torch.device("cpu")
        return Testbed(self.cache, HOOK, load, artifacts, BATCH, cpu, mode="reference", live=True)


def make(folder: Path) -> Material:
    """Harvests the text, trains the SAEs, and writes the files that the reference reads."""
    texts = [document.text for document in islice(toy.documents(seed=0), NUM_DOCUMENTS)]
    _write_lines(folder / "text.jsonl", texts)
    heldout = [text for text in texts if heldout_score(text) < HELDOUT_SHARE]
    _write_lines(folder / "text" / "heldout.jsonl", heldout)
    harvest(HarvestConfig.parse({**HARVEST, "dataset": {"source": str(folder / "text.jsonl")}}), folder / "cache")
    runs = train(TrainConfig.parse({**TRAIN, "cache": str(folder / "cache"), "hook": HOOK}), folder / "runs")
    for path in runs:
        shutil.copytree(path / "sae", folder / "saes" / open_run(path).variant)
    _write_linear(folder / "saes" / LINEAR)
    setting = {
        "model": str(toy.MODEL_DIR),
        "layer": LAYER,
        "context_size": CONTEXT,
        "batch_size": BATCH,
        "reconstruction_batches": RECONSTRUCTION_BATCHES,
        "sparsity_batches": SPARSITY_BATCHES,
    }
    (folder / "setting.json").write_text(json.dumps(setting))
    return Material(folder)


def _write_lines(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def _write_linear(folder: Path) -> None:
    """Writes 64 latents; two have no encoder direction (one of them is never above 0), two no decoder direction."""
    rng = torch.Generator().manual_seed(0)
    d_in, d_sae = 128, 64
    W_enc, W_dec = torch.randn(d_in, d_sae, generator=rng) / 30, torch.randn(d_sae, d_in, generator=rng) / 3
    b_enc, b_dec = torch.randn(d_sae, generator=rng) / 3, torch.randn(d_in, generator=rng) / 3
    W_enc[:, :2], W_dec[2:4], b_enc[:2] = 0.0, 0.0, torch.tensor([-1.0, 1.0])
    folder.mkdir(parents=True)
    tensors = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    save_file(tensors, folder / "sae_weights.safetensors")
