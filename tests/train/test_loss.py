from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.loss import compute_loss, forward
from saepipe.train.optim import remove_parallel
from saepipe.train.sae.base import Params

Make = Callable[..., TrainConfig]
NOBODY = torch.zeros(40, dtype=torch.bool)


def gradients(loss: Tensor, params: Params) -> dict[str, Tensor]:
    """Of all parameters, with the part of W_dec's along its rows removed."""
    found = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
    named = dict(zip(params, found, strict=True))
    remove_parallel(named, params["W_dec"])
    return named


def ours(config: TrainConfig, params: Params, x: Tensor) -> Tensor:
    ctx = forward(config, params, x, NOBODY, any_dead=False, dtype=torch.float64)
    return compute_loss(config, ctx, {"l1": {}}, step=19, num_steps=20).total


def textbook(config: TrainConfig, params: Params, x: Tensor) -> Tensor:
    """The formula of the docs, with the decoder norm that the program leaves out."""
    acts = torch.relu((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"])
    squared = (x - acts @ params["W_dec"] - params["b_dec"]).pow(2).sum(1)
    fidelity = squared.mean() if config.reconstruction == "squared" else squared.sqrt().mean()
    return fidelity + 0.3 * (acts * params["W_dec"].norm(dim=1)).sum(1).mean()


@pytest.mark.parametrize("reconstruction", ["squared", "norm"])
def test_value_and_projected_gradients_are_those_of_the_formula(
    config: Make, params: Params, x: Tensor, reconstruction: str
) -> None:
    asked = config(reconstruction=reconstruction)
    mine, theirs = ours(asked, params, x), textbook(asked, params, x)
    torch.testing.assert_close(mine, theirs)
    for name, gradient in gradients(theirs, params).items():
        torch.testing.assert_close(gradients(mine, params)[name], gradient, msg=name)


def test_gradients_in_closed_form(config: Make, params: Params, x: Tensor) -> None:
    """Squared reconstruction and L1, by hand: the chain rule written out, no autograd."""
    with torch.no_grad():
        W_enc, W_dec = params["W_enc"], params["W_dec"]
        acts = torch.relu((x - params["b_dec"]) @ W_enc + params["b_enc"])
        d_x_hat = 2 * (acts @ W_dec + params["b_dec"] - x) / len(x)
        d_pre = (d_x_hat @ W_dec.T + 0.3 / len(x)) * (acts > 0)
        d_W_dec = acts.T @ d_x_hat
        expected = {
            "W_enc": (x - params["b_dec"]).T @ d_pre,
            "b_enc": d_pre.sum(0),
            "W_dec": d_W_dec - (d_W_dec * W_dec).sum(1, keepdim=True) * W_dec,
            "b_dec": d_x_hat.sum(0) - d_pre.sum(0) @ W_enc.T,
        }
    for name, gradient in gradients(ours(config(), params, x), params).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_terms_carry_their_weight_of_the_moment(config: Make, params: Params, x: Tensor) -> None:
    asked = config(penalties=[{"name": "l1", "weight": 2.0, "warmup": 0.5}, {"name": "l1", "weight": 1.0}])
    ctx = forward(asked, params, x, NOBODY, any_dead=False, dtype=torch.float64)
    loss = compute_loss(asked, ctx, {"l1": {}, "l1.2": {}}, step=0, num_steps=20)
    assert [(name, term.weight) for name, term in loss.terms.items()] == [
        ("reconstruction", 1.0),
        ("l1", 0.2),
        ("l1.2", 1.0),
    ]
    values = {name: term.value.item() for name, term in loss.terms.items()}
    assert values["l1"] == values["l1.2"] == pytest.approx(ctx.acts.sum().item() / len(x))
    assert loss.total.item() == pytest.approx(values["reconstruction"] + 1.2 * values["l1"])


def test_bfloat16_products_stay_close_and_losses_are_float32(config: Make, params: Params, x: Tensor) -> None:
    single = {name: value.detach().float() for name, value in params.items()}
    exact = forward(config(), single, x.float(), NOBODY, any_dead=False, dtype=torch.float32)
    rough = forward(config(), single, x.float(), NOBODY, any_dead=False, dtype=torch.bfloat16)
    assert rough.acts.dtype == torch.bfloat16
    assert rough.x_hat.dtype == rough.acts_sum.dtype == torch.float32
    torch.testing.assert_close(rough.x_hat, exact.x_hat, rtol=0.03, atol=0.03)
