"""Gradients of the sparse encoder and decoder, against autograd of the whole products in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.kernel_products import kernels_on, random_mask
from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.relu import ReLU

pytestmark = pytest.mark.cuda

NAMES = ["reference", "cpu", "triton"]
SHAPES = [
    (1, 1, 1, 1.0),
    (3, 5, 7, 0.5),
    (17, 5, 11, 0.1),
    (3, 130, 7, 0.5),
    (3, 5, 7, 0.0),
]  # batch, d_in, d_sae, density


@pytest.fixture(params=NAMES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device of the given kernels, which are used instead of the default ones."""
    kernels, device = kernels_on(request.param)
    monkeypatch.setattr(autograd, "kernels_for", lambda device, dtype: kernels)
    return device


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Returns whether two arrays agree, relative to the norm of the whole array."""
    return bool(torch.linalg.vector_norm(actual.double() - expected) <= tolerance * torch.linalg.vector_norm(expected))


def parameters(d_in: int, d_sae: int) -> list[Tensor]:
    """Returns W_enc, b_enc and W_dec, float64."""
    return [randn(d_in, d_sae, seed=2) / d_in**0.5, randn(d_sae, seed=3), randn(d_sae, d_in, seed=4)]


def sparse_loss(params: list[Tensor], x: Tensor, pattern: Pattern, dtype: torch.dtype) -> Tensor:
    """Computes a reconstruction's error and sums over the batch as a sparse step does; products in `dtype`."""
    W_enc, bias, W_dec = params
    inputs = x.to(dtype)
    with torch.no_grad():
        values = inputs @ W_enc.to(dtype) + bias.to(dtype)
    acts = autograd.encode_at(pattern, pattern.values_of(values), inputs, W_enc, bias).relu()
    error = autograd.decode(pattern, acts, W_dec) - x
    pre_acts = autograd.encode_all(values, inputs, W_enc, bias)
    return error.square().sum() + autograd.column_sums(pattern, acts).square().sum() + pre_acts.sigmoid().sum()


def dense_loss(params: list[Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Computes the same loss with whole products."""
    W_enc, bias, W_dec = params
    pre_acts = x @ W_enc + bias
    acts = torch.where(mask, pre_acts, 0.0).relu()
    return (acts @ W_dec - x).square().sum() + acts.sum(0).square().sum() + pre_acts.sigmoid().sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize(("batch", "d_in", "d_sae", "density"), SHAPES)
def test_gradients_are_those_of_the_whole_products(
    device: str, batch: int, d_in: int, d_sae: int, density: float, dtype: torch.dtype, tolerance: float
) -> None:
    x, mask = randn(batch, d_in), random_mask(batch, d_sae, density)
    exact = [param.requires_grad_() for param in parameters(d_in, d_sae)]
    params = [param.detach().to(device, torch.float32).requires_grad_() for param in exact]
    expected = dense_loss(exact, x, mask)
    actual = sparse_loss(params, x.to(device, torch.float32), Pattern.of_mask(mask.to(device)), dtype)
    assert close(actual.cpu(), expected, tolerance)
    for param, gradient, truth in zip(
        params, torch.autograd.grad(actual, params), torch.autograd.grad(expected, exact), strict=True
    ):
        assert gradient.dtype == param.dtype
        assert gradient.is_contiguous()
        assert close(gradient.cpu(), truth, tolerance)


@pytest.mark.parametrize(("batch", "d_in", "d_sae", "density"), [(1, 1, 1, 1.0), (4, 3, 7, 0.5), (4, 3, 7, 0.0)])
def test_gradients_are_finite_differences(batch: int, d_in: int, d_sae: int, density: float) -> None:
    """By gradcheck in float64, for which the reference kernels are used."""
    x, pattern = randn(batch, d_in), Pattern.of_mask(random_mask(batch, d_sae, density))
    W_enc, bias, W_dec = (param.requires_grad_() for param in parameters(d_in, d_sae))
    values = randn(pattern.num_entries, seed=5).requires_grad_()

    def encode_at(W_enc: Tensor, bias: Tensor) -> Tensor:
        values = pattern.values_of((x @ W_enc + bias).detach())
        return autograd.encode_at(pattern, values, x, W_enc, bias)

    def encode_all(W_enc: Tensor, bias: Tensor) -> Tensor:
        return autograd.encode_all((x @ W_enc + bias).detach(), x, W_enc, bias)

    assert torch.autograd.gradcheck(encode_all, (W_enc, bias))
    if pattern.num_entries:  # gradcheck needs outputs that depend on something
        assert torch.autograd.gradcheck(encode_at, (W_enc, bias))
    assert torch.autograd.gradcheck(lambda values, W_dec: autograd.decode(pattern, values, W_dec), (values, W_dec))
    assert torch.autograd.gradcheck(lambda values: autograd.column_sums(pattern, values), (values,))


def test_an_unneeded_gradient_is_not_computed(device: str) -> None:
    """With a frozen decoder, and with constant activations; the other gradient stays correct."""
    mask = random_mask(3, 7, 0.5).to(device)
    pattern, W_dec = Pattern.of_mask(mask), randn(7, 5).to(device, torch.float32)
    values = randn(pattern.num_entries, seed=5).to(device, torch.float32)
    ones = torch.ones(3, 5, device=device)
    (to_values,) = torch.autograd.grad(autograd.decode(pattern, values.requires_grad_(), W_dec).sum(), values)
    (to_W,) = torch.autograd.grad(autograd.decode(pattern, values.detach(), W_dec.requires_grad_()).sum(), W_dec)
    torch.testing.assert_close(to_values, pattern.values_of(ones @ W_dec.detach().T))
    torch.testing.assert_close(to_W, pattern.dense(values.detach()).T @ ones)


def test_the_encoders_gradient_has_the_encoders_memory_layout(device: str) -> None:
    """Otherwise each step would copy it for the fused optimiser."""
    params = ReLU(d_sae=7).init(3, 0.5, torch.Generator().manual_seed(0))
    W_enc, bias = (params[name].to(device).requires_grad_() for name in ("W_enc", "b_enc"))
    x, pattern = randn(4, 3).to(device, torch.float32), Pattern.of_mask(random_mask(4, 7, 0.5).to(device))
    pre_acts = autograd.encode_at(pattern, pattern.values_of((x @ W_enc + bias).detach()), x, W_enc, bias)
    (gradient,) = torch.autograd.grad(pre_acts.sum(), W_enc)
    assert gradient.stride() == W_enc.stride()


@pytest.mark.parametrize("one_by_one", [False, True])
def test_decoded_zeros_pass_a_gradient_to_their_carrier(one_by_one: bool) -> None:
    mask, W_dec, carrier = random_mask(40, 7, 0.3), randn(7, 3), torch.zeros(7, dtype=torch.float64)
    pattern = Pattern.of_mask(mask) if one_by_one else None
    actual = autograd.decode_zeros(mask, pattern, carrier.requires_grad_(), W_dec)
    expected = (mask.double() * carrier) @ W_dec
    upstream = randn(40, 3, seed=6)
    assert torch.equal(actual, expected)
    (gradient,), (truth,) = (torch.autograd.grad(x_hat, carrier, upstream) for x_hat in (actual, expected))
    torch.testing.assert_close(gradient, truth)


def test_a_known_gradient_is_added_to_that_of_the_value() -> None:
    """For each of two values under vmap, and for their product with a factor."""
    x, known = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    values = torch.func.vmap(lambda x, known: autograd.with_gradient(x.square().sum(), x, known))(x, known)
    torch.testing.assert_close(values, x.square().sum(1))
    (gradient,) = torch.autograd.grad(5 * values.sum(), x)
    torch.testing.assert_close(gradient, 5 * (2 * x + known))
