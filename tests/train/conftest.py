"""A small training config, parameters and a step for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import StepContext
from saepipe.train.sae.base import Params
from saepipe.train.sae.dense_acts import DenseActs

D_IN, D_SAE, BATCH = 24, 40, 17  # all different, so that swapped axes fail


@pytest.fixture
def config(tiny_cache: Path) -> Callable[..., TrainConfig]:
    """A config of 20 steps on the tiny cache; arguments replace its keys."""

    def make(**changes: Any) -> TrainConfig:
        raw = {
            "cache": str(tiny_cache),
            "sae": {"name": "relu", "d_sae": D_SAE},
            "penalties": [{"name": "l1", "weight": 0.3, "warmup": 0.2}],
            "steps": 20,
            "batch_size": BATCH,
            "optimizer": {"lr": 3e-3},
            "init": {"b_dec_rows": 200},
            "log_every": 5,
            "checkpoint_every": 5,
            "device": "cpu",
        }
        return TrainConfig.parse({**raw, **changes})

    return make


@pytest.fixture
def params() -> Params:
    """float64 leaves with decoder rows of unit norm and no parameter at zero."""
    rng = torch.Generator().manual_seed(1)
    sample = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    W_dec = torch.nn.functional.normalize(sample(D_SAE, D_IN), dim=1)
    values = {"W_enc": 0.3 * sample(D_IN, D_SAE), "b_enc": 0.3 * sample(D_SAE), "W_dec": W_dec, "b_dec": sample(D_IN)}
    return {name: value.requires_grad_() for name, value in values.items()}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def ctx(params: Params, x: torch.Tensor) -> StepContext:
    """A step of a ReLU SAE with each field a leaf of its own; every third latent is dead."""
    with torch.no_grad():
        pre_acts = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
        acts = pre_acts.relu()
        fields = {
            "pre_acts": pre_acts,
            "acts": acts,
            "acts_sum": acts.sum(0),
            "gate_acts": acts,
            "x_hat": acts @ params["W_dec"] + params["b_dec"],
            **params,
        }
    leaves = {name: value.detach().clone().requires_grad_() for name, value in fields.items()}
    activations = DenseActs(**{name: leaves.pop(name) for name in ("pre_acts", "acts", "acts_sum", "gate_acts")})
    return StepContext(
        x=x,
        target=x,
        latent_acts=activations,
        x_hat=leaves.pop("x_hat"),
        weights=leaves,
        threshold=None,
        tokens_since_fired=(torch.arange(D_SAE) % 3 == 0).long(),
        dead_after=1,
        any_dead=True,
        step=0,
        num_steps=10,
        uniform=torch.rand(D_SAE, generator=torch.Generator().manual_seed(3)),
    )
