"""A small SAE of the toy model, evaluated, and the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from saepipe.data.cache.cache import open_cache
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.use.sae import SAE, load
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

NUM_CONTEXTS = 8


@pytest.fixture(scope="session")
def toy_model() -> PreTrainedModel:
    return load_model(ModelConfig(model=str(MODEL_DIR), dtype="float32", device="cpu")).model


@pytest.fixture(scope="session")
def toy_run(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run at the hook two layers below the logits, with core measured on activations fresh from the model."""
    raw = {"cache": str(toy_cache), "hook": "blocks.2.hook_resid_post", "device": "cpu", "steps": 120}
    raw |= {"sae": {"name": "topk", "d_sae": 128, "k": 8}, "batch_size": 256, "optimizer": {"lr": 3e-3}}
    (run,) = train(TrainConfig.parse(raw), tmp_path_factory.mktemp("attached"))
    core = {"name": "core", "num_contexts": NUM_CONTEXTS}
    evaluate([run], {"device": "cpu", "activations": "live", "metrics": [core], "features": None})
    return run


@pytest.fixture
def toy_sae(toy_run: Path) -> SAE:
    return load(toy_run)


@pytest.fixture(scope="session")
def heldout_ids(toy_cache: Path) -> torch.Tensor:
    """Returns the contexts that the run was evaluated on, (num_contexts, seq) int64; each starts with BOS."""
    return torch.from_numpy(open_cache(toy_cache).heldout.contexts[:NUM_CONTEXTS]).long()
