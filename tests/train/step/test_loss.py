from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.schedule import settings_at
from saepipe.train.step.loss import Loss, Moment, Term, _kept, compute_loss
from saepipe.train.step.optim import remove_parallel

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]


def loss_at(config: TrainConfig, params: Params, x: Tensor, step: int, dtype: torch.dtype = torch.float64) -> Loss:
    """Returns the loss at a step of a run of 20 steps in which no latent is dead."""
    now = {label: settings_at(component, step, 20) for label, component in config.components()}
    states = {label: component.init_state(24, 40) for label, component in config.components()}
    silence = torch.zeros(40, dtype=torch.int64)
    moment = Moment(step, 20, 0, silence, dead_after=1, any_dead=False, uniform=None, now=now, states=states)
    return compute_loss(config, params, x, moment, dtype)


def gradients(loss: Tensor, params: Params) -> dict[str, Tensor]:
    """Returns the gradients of all parameters, without the part of W_dec's that is parallel to its rows."""
    partials = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
    named = dict(zip(params, partials, strict=True))
    remove_parallel(named, params)
    return named


def ours(config: TrainConfig, params: Params, x: Tensor) -> Tensor:
    return loss_at(config, params, x, step=19).total


def textbook(config: TrainConfig, params: Params, x: Tensor) -> Tensor:
    """Computes the formula of the docs, with the decoder norm that the program omits because it is 1."""
    acts = torch.relu((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"])
    squared = (x - acts @ params["W_dec"] - params["b_dec"]).pow(2).sum(1)
    fidelity = squared.mean() if config.reconstruction == "squared" else squared.sqrt().mean()
    return fidelity + 0.3 * (acts * params["W_dec"].norm(dim=1)).sum(1).mean()


@pytest.mark.parametrize("reconstruction", ["squared", "norm"])
def test_value_and_projected_gradients_equal_the_formulas(
    config: Make, params: Params, x: Tensor, reconstruction: str
) -> None:
    changed = config(reconstruction=reconstruction)
    loss, expected = ours(changed, params, x), textbook(changed, params, x)
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients(expected, params).items():
        torch.testing.assert_close(gradients(loss, params)[name], gradient, msg=name)


def test_gradients_in_closed_form(config: Make, params: Params, x: Tensor) -> None:
    """Compares squared reconstruction and L1 with the chain rule written out by hand, without autograd."""
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


def test_terms_have_the_weight_of_their_step(config: Make, params: Params, x: Tensor) -> None:
    twice = config(penalties=[{"name": "l1", "weight": 2.0, "warmup": 0.5}, {"name": "l1", "weight": 1.0}])
    loss = loss_at(twice, params, x, step=0)
    assert [(name, term.weight) for name, term in loss.terms.items()] == [
        ("reconstruction", 1.0),
        ("l1", 0.2),
        ("l1.2", 1.0),
    ]
    values = {name: term.value.item() for name, term in loss.terms.items()}
    assert values["l1"] == values["l1.2"] == pytest.approx(loss.ctx.acts.sum().item() / len(x))
    assert loss.total.item() == pytest.approx(values["reconstruction"] + 1.2 * values["l1"])


def test_bfloat16_products_stay_close_and_losses_are_float32(config: Make, params: Params, x: Tensor) -> None:
    single = {name: value.detach().float() for name, value in params.items()}
    exact = loss_at(config(), single, x.float(), step=0, dtype=torch.float32).ctx
    rough = loss_at(config(), single, x.float(), step=0, dtype=torch.bfloat16).ctx
    assert rough.acts.dtype == torch.bfloat16
    assert rough.x_hat.dtype == rough.acts_sum.dtype == torch.float32
    torch.testing.assert_close(rough.x_hat, exact.x_hat, rtol=0.03, atol=0.03)


def test_gradients_and_sums_are_those_of_the_total(config: Make, params: Params, x: Tensor) -> None:
    """With a weight that is a number, one that is a tensor, and a term without any gradient."""
    penalties = [{"name": "l1", "weight": 2.0}, {"name": "tanh", "weight": 0.5}, {"name": "auxk", "weight": 1.0}]
    loss = loss_at(config(penalties=penalties), params, x, step=0)
    loss.terms["tanh"] = Term(loss.terms["tanh"].value, torch.tensor(0.7))
    assert not loss.terms["auxk"].value.requires_grad
    weighted = torch.stack([term.weighted for term in loss.terms.values()])
    torch.testing.assert_close(loss.values.unsqueeze(1) * loss.factors, torch.stack([loss.values, weighted], dim=1))
    expected = torch.autograd.grad(loss.total, list(params.values()), retain_graph=True)
    torch.testing.assert_close(loss.gradients(params), list(expected))


@pytest.mark.parametrize("screen", ["auto", "always"])
@pytest.mark.parametrize(("penalty", "any_dead"), [("l1", True), ("auxk", False), ("auxk", True), ("preact", False)])
def test_elsewhere_pre_activations_are_left_out_only_for_a_screen_and_if_none_is_read(
    config: Make, screen: str, penalty: str, any_dead: bool
) -> None:
    silence = torch.zeros(40, dtype=torch.int64, device="meta")
    moment = Moment(3, 20, 0, silence, dead_after=1, any_dead=any_dead, uniform=None, now={}, states={})
    kept = _kept(config(penalties=[{"name": penalty, "weight": 0.1}], screen=screen), moment)
    none_read = penalty == "l1" or (penalty == "auxk" and not any_dead)
    if screen == "always" and none_read:
        assert kept is not None
        assert len(kept) == 0
        assert kept.device == silence.device
    else:
        assert kept is None
