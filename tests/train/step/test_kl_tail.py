"""The KL tail without a language model: its windows, its reconstruction, and the scale of its term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.kl_tail import LEAST_KL, SharedWindows, kl_term, window_numbers
from saepipe.train.step.loss import Loss
from saepipe.train.step.state import Recipe, Target, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss

pytestmark = pytest.mark.quick

D_IN, NUM_WINDOWS = 24, 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Readout:
    """The simplest model above a hook: softmax(x U), on rows of its own."""

    x: Tensor
    target: Tensor
    U: Tensor

    def kl(self, x_hat: Tensor) -> Tensor:
        log_p, log_q = ((rows @ self.U).log_softmax(1) for rows in (self.target, x_hat))
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()


class Counted:
    """A model that keeps which windows it was asked for."""

    num_windows = NUM_WINDOWS

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def clean(self, numbers: Sequence[int]) -> Readout:
        self.asked.append(list(numbers))
        return readout()


def readout(d_out: int = D_IN) -> Readout:
    rng = torch.Generator().manual_seed(5)
    x, U = 3 * torch.randn(9, D_IN, generator=rng), torch.randn(d_out, 7, generator=rng)
    return Readout(x, 2 * torch.randn(9, d_out, generator=rng) if d_out != D_IN else x, U)


def make(config: Callable[..., TrainConfig], across: Target | None = None, **changes: Any) -> Recipe:
    changes = {"kl_tail": {"share": 0.25, "windows": 2}, **changes}
    resolved = config(**changes).resolved(hook="h", num_rows=1000, device=CPU)
    return Recipe(resolved, D_IN, 0.5, CPU, across)


def loss_and_state(recipe: Recipe, windows: Readout | None) -> tuple[Loss, TrainState]:
    """Computes the loss of the first step, with small random numbers in what begins at 0."""
    state, rng = fresh_state(recipe, initial_params(recipe)), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in state.all_params.values():
            value.add_(0.1 * torch.randn(value.shape, generator=rng) * (not value.any()))
    width = D_IN + (recipe.d_out if recipe.target else 0)
    rows = torch.randn(17, width, generator=torch.Generator().manual_seed(6))
    return step_loss(recipe, state, recipe.scaled(rows), windows), state


def test_every_window_is_read_once_per_epoch_in_an_order_of_the_data_seed() -> None:
    read = [window_numbers(step, 2, NUM_WINDOWS, 3) for step in range(5)]
    flat = [number for numbers in read for number in numbers]
    assert sorted(flat[:5]) == sorted(flat[5:]) == list(range(5))
    assert flat[:5] != flat[5:]
    assert read != [window_numbers(step, 2, NUM_WINDOWS, 4) for step in range(5)]
    assert window_numbers(3, 2, NUM_WINDOWS, 3) == read[3]  # without those before


def test_runs_share_the_clean_pass_of_a_step() -> None:
    model = Counted()
    windows = SharedWindows(model, 3)
    first = windows.at(7, 2)
    assert windows.at(7, 2) is first
    assert windows.at(7, 3) is not first  # another run asks for more
    assert windows.at(7, 2) is first
    assert windows.at(8, 2) is not first
    assert model.asked == [window_numbers(*at, NUM_WINDOWS, 3) for at in ((7, 2), (7, 3), (8, 2))]


def test_the_tail_begins_after_its_share_of_the_steps(config: Callable[..., TrainConfig]) -> None:
    starts = {share: make(config, kl_tail=share).tail_start for share in (0, 0.01, 0.25, 1)}
    assert starts == {0: 20, 0.01: 19, 0.25: 15, 1: 0}


def test_before_the_tail_the_term_is_zero_and_the_gradient_is_that_without(config: Callable[..., TrainConfig]) -> None:
    (loss, state), (plain, other) = (loss_and_state(make(config, kl_tail=share), None) for share in (0.25, 0))
    assert list(loss.terms) == ["reconstruction", "l1", "kl_tail"]
    assert list(plain.terms) == ["reconstruction", "l1"]
    assert loss.terms["kl_tail"].value == 0
    for ours, theirs in zip(loss.gradients(state.params), plain.gradients(other.params), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_weighted_term_is_as_large_as_the_weighted_reconstruction(
    config: Callable[..., TrainConfig], weight: float
) -> None:
    loss, state = loss_and_state(make(config, kl_tail={"share": 0.25, "weight": weight}, penalties=[]), readout())
    error, term = loss.terms["reconstruction"], loss.terms["kl_tail"]
    torch.testing.assert_close(term.weighted, weight * error.value)
    # The factor is constant: the gradient is that of KL, scaled, and leaves the reconstruction's as it is.
    factor = weight * error.value.item() / term.value.item()
    parts = [torch.autograd.grad(each, list(state.params.values()), retain_graph=True) for each in loss.values]
    for total, of_error, of_kl in zip(loss.gradients(state.params), *parts, strict=True):
        torch.testing.assert_close(total, of_error + factor * of_kl)


def test_a_divergence_within_rounding_is_not_scaled_up(config: Callable[..., TrainConfig]) -> None:
    recipe = make(config)
    windows = readout()
    loss, state = loss_and_state(recipe, windows)
    same = kl_term(recipe, state, loss, replace(windows, U=torch.zeros(D_IN, 7)))  # a model that predicts nothing
    assert same.value == 0
    torch.testing.assert_close(same.weight, loss.terms["reconstruction"].value.detach() / LEAST_KL)


SAES = {
    "relu": {"name": "relu", "d_sae": 40},
    "topk": {"name": "topk", "d_sae": 40, "k": 4},
    "batch_topk": {"name": "batch_topk", "d_sae": 40, "k": 4},
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", SAES)
def test_the_term_is_that_of_the_architecture_by_hand(
    config: Callable[..., TrainConfig], name: str, sparse: bool
) -> None:
    recipe = make(config, sae=SAES[name], penalties=[], sparse_steps="always" if sparse else "never")
    windows = readout()
    loss, state = loss_and_state(recipe, windows)
    params = {key: value.detach().double().requires_grad_() for key, value in state.all_params.items()}
    x_hat = by_hand(name, params, recipe.scale * windows.x.double()) / recipe.scale
    kl = replace(windows, target=windows.target.double(), U=windows.U.double()).kl(x_hat)
    assert loss.terms["kl_tail"].value.item() == pytest.approx(kl.item(), rel=1e-5)
    names = list(state.params)
    ours = torch.autograd.grad(loss.terms["kl_tail"].value, [state.params[key] for key in names])
    theirs = torch.autograd.grad(kl, [params[key] for key in names])
    for own, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=1e-5)


def by_hand(name: str, params: Params, x: Tensor) -> Tensor:
    """Computes x_hat of the config's architecture, 4 latents per token or per row of the batch, from its formula."""
    z = ((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]).relu()
    if name == "topk":
        z = z * (z >= z.topk(4, dim=1).values[:, -1:])
    if name == "batch_topk":
        z = z * (z >= z.flatten().topk(4 * len(z)).values[-1])
    return z @ params["W_dec"] + params["b_dec"]


def test_a_skip_transcoder_is_spliced_in_units_of_its_target(config: Callable[..., TrainConfig]) -> None:
    recipe = make(config, Target(20, 0.25), target="y", skip=True, penalties=[])
    windows = readout(20)
    loss, state = loss_and_state(recipe, windows)
    p = {name: value.detach().double() for name, value in state.all_params.items()}
    inputs = 0.5 * windows.x.double() - p["b_in"]
    y_hat = (inputs @ p["W_enc"] + p["b_enc"]).relu() @ p["W_dec"] + p["b_dec"] + inputs @ p["W_skip"]
    kl = replace(windows, target=windows.target.double(), U=windows.U.double()).kl(y_hat / 0.25)
    assert loss.terms["kl_tail"].value.item() == pytest.approx(kl.item(), rel=1e-5)


@pytest.mark.parametrize("transforms", [[], [{"name": "latent_dropout"}]])
def test_transforms_are_left_out_of_the_term(config: Callable[..., TrainConfig], transforms: list[Any]) -> None:
    losses = [loss_and_state(make(config, transforms=each), readout())[0] for each in ([], transforms)]
    values = [loss.terms["kl_tail"].value for loss in losses]
    assert torch.equal(*values)
