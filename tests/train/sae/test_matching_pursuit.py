"""Matching pursuit against its definition: a loop over residuals, through which autograd differentiates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load
from saepipe.train.sae.base import Params
from saepipe.train.sae.matching_pursuit import MatchingPursuit
from saepipe.train.sae.topk import TopK
from saepipe.train.seeds import generator

D_IN, D_SAE, BATCH, K = 24, 40, 17, 6
Make = Callable[..., TrainConfig]


@pytest.fixture
def params() -> Params:
    """Unit rows and a centre, float64; W_enc and b_enc are wrong, since nothing may read them."""
    rng = generator(0, "pursuit")
    W_dec = normalize(torch.randn(D_SAE, D_IN, generator=rng, dtype=torch.float64), dim=1)
    return {
        "W_enc": torch.full((D_IN, D_SAE), 7.0, dtype=torch.float64),
        "b_enc": torch.full((D_SAE,), 7.0, dtype=torch.float64),
        "W_dec": W_dec.requires_grad_(),
        "b_dec": torch.randn(D_IN, generator=rng, dtype=torch.float64).requires_grad_(),
    }


@pytest.fixture
def x() -> Tensor:
    return 3 * torch.randn(BATCH, D_IN, generator=generator(1, "pursuit"), dtype=torch.float64)


def by_residuals(params: Params, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns acts (batch, d_sae) and what is left of x - b_dec, (batch, d_in), token by token."""
    acts, left = [], []
    for row in x:
        residual, own = row - params["b_dec"], torch.zeros(len(params["W_dec"]), dtype=x.dtype)
        for _ in range(k):
            latent = int((params["W_dec"] @ residual).argmax())
            value = (params["W_dec"][latent] @ residual).clamp_min(0)
            own = own + value * torch.eye(len(own), dtype=x.dtype)[latent]
            residual = residual - value * params["W_dec"][latent]
        acts.append(own)
        left.append(residual)
    return torch.stack(acts), torch.stack(left)


@pytest.mark.parametrize("k", [1, 2, K])
def test_acts_errors_and_gradients_are_those_of_the_loop(params: Params, x: Tensor, k: int) -> None:
    sae = MatchingPursuit(d_sae=D_SAE, k=k)
    acts = sae.encode(params, x, torch.float64)
    expected, left = by_residuals(params, x, k)
    torch.testing.assert_close(acts, expected)
    torch.testing.assert_close(x - sae.decode(params, acts), left)
    upstream = torch.randn(acts.shape, generator=generator(2), dtype=torch.float64)
    leaves = [params["W_dec"], params["b_dec"]]
    ours, theirs = (torch.autograd.grad((each * upstream).sum(), leaves) for each in (acts, expected))
    torch.testing.assert_close(ours, theirs)


def test_without_a_gradient_the_acts_are_the_same(params: Params, x: Tensor) -> None:
    sae = MatchingPursuit(d_sae=D_SAE, k=K)
    with torch.no_grad():
        plain = sae.encode(params, x, torch.float64)
    torch.testing.assert_close(plain, sae.encode(params, x, torch.float64).detach())


def test_a_latent_may_be_chosen_twice(params: Params, x: Tensor) -> None:
    """With many steps it happens, and the loop agrees."""
    acts = MatchingPursuit(d_sae=D_SAE, k=30).encode(params, x, torch.float64)
    torch.testing.assert_close(acts, by_residuals(params, x, 30)[0])
    assert ((acts > 0).sum(1) < 30).any()


def test_among_orthogonal_rows_it_is_a_topk(x: Tensor) -> None:
    rows = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator(3), dtype=torch.float64))[0]
    params = {"W_dec": rows, "W_enc": rows.T, "b_enc": x.new_zeros(D_IN), "b_dec": x.new_zeros(D_IN)}
    acts = MatchingPursuit(d_sae=D_IN, k=K).encode(params, x, torch.float64)
    torch.testing.assert_close(acts, TopK(d_sae=D_IN, k=K).encode(params, x, torch.float64))


@pytest.mark.parametrize("grad", [False, True])
def test_rows_of_another_norm_overshoot_and_stop(grad: bool) -> None:
    """SAELens does not keep rows at unit norm. Here both latents are overshot, and the last steps add nothing."""
    rows, x = 1.5 * torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    params = {"W_dec": rows, "W_enc": rows.T, "b_enc": x.new_zeros(4), "b_dec": x.new_zeros(2)}
    with torch.set_grad_enabled(grad):
        acts = MatchingPursuit(d_sae=4, k=4).encode(params, x, torch.float64)
    torch.testing.assert_close(acts, by_residuals(params, x, 4)[0])
    assert acts.tolist() == [[pytest.approx(1.5), pytest.approx(0.15), 0.0, 0.0]]


def test_what_no_row_points_to_leaves_every_latent_off(params: Params) -> None:
    ones = torch.ones(1, D_IN, dtype=torch.float64)
    positive = {**params, "W_dec": normalize(params["W_dec"].detach().abs(), dim=1), "b_dec": torch.zeros(D_IN)}
    assert not MatchingPursuit(d_sae=D_SAE, k=K).encode(positive, -ones, torch.float64).any()
    nan = MatchingPursuit(d_sae=D_SAE, k=K).encode(positive, torch.nan * ones, torch.float64)
    assert nan.isnan().any()


def test_training_keeps_the_encoder_tied(config: Make, tmp_path: Path) -> None:
    (run,) = train(config(sae={"name": "matching_pursuit", "d_sae": D_SAE, "k": K}, penalties=[], steps=40), tmp_path)
    sae = load(run)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert load_file(run / "sae" / "sae_weights.safetensors").keys() == {"W_dec", "b_dec"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "blocks.1.hook_mlp_out"}, "cannot be a transcoder"),
        ({"hooks": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]}, "nor a crosscoder"),
        ({"freeze": "encoder"}, "has no encoder of its own; use decoder"),
        ({"sae": {"name": "matching_pursuit", "d_sae": 4, "k": 5}}, "k = 5 is more than d_sae = 4"),
        ({"penalties": [{"name": "l0", "weight": 1.0}]}, "always keeps k = 6 latents"),
        ({"sparse_steps": "always"}, "matching_pursuit has no sparse steps"),
    ],
)
def test_what_it_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    raw = {"cache": "none", "steps": 3, "sae": {"name": "matching_pursuit", "d_sae": D_SAE, "k": K}}
    with pytest.raises(ConfigError, match=message):
        TrainConfig.parse(raw | changes)
