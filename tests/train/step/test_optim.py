from __future__ import annotations

import pytest
import torch

from saepipe.train.config_sections import OptimizerConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.optim import in_memory_order, initial_moments, remove_parallel, update

pytestmark = pytest.mark.quick


def random_gradients(params: Params, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=rng, dtype=value.dtype) for name, value in params.items()}


def test_the_projected_gradient_is_orthogonal_to_each_decoder_row(params: Params) -> None:
    gradients = random_gradients(params, 0)
    before = gradients["W_dec"].clone()
    remove_parallel(gradients, params)
    W_dec = params["W_dec"].detach()
    assert torch.einsum("ij,ij->i", gradients["W_dec"], W_dec).abs().max() < 1e-12
    removed = before - gradients["W_dec"]  # each row is a multiple of the decoder row
    torch.testing.assert_close(removed, torch.einsum("ij,ij->i", removed, W_dec)[:, None] * W_dec)
    assert removed.norm(dim=1).min() > 0


def test_rows_have_unit_norm_after_every_step(params: Params) -> None:
    moments = initial_moments(params)
    for step in range(5):
        update(params, random_gradients(params, step), moments, 0.1, OptimizerConfig(clip=None))
        torch.testing.assert_close(params["W_dec"].detach().norm(dim=1), torch.ones(40, dtype=torch.float64))
    columns = params["W_dec"].detach().norm(dim=0)
    assert (columns - 1).abs().max() > 0.1  # norms along the other axis are free


def test_a_step_is_adam_on_the_clipped_projected_gradient(params: Params) -> None:
    gradients = random_gradients(params, 0)
    expected = {name: value.detach().clone() for name, value in params.items()}
    W_dec = expected["W_dec"]
    projected = {name: value.clone() for name, value in gradients.items()}
    projected["W_dec"] -= (projected["W_dec"] * W_dec).sum(1, keepdim=True) * W_dec
    norm = torch.cat([value.flatten() for value in projected.values()]).norm()
    assert norm > 2
    config = OptimizerConfig(eps=1.0, clip=2.0)  # a large eps, so that the gradient's length shows
    update(params, gradients, initial_moments(params), 0.1, config)
    for name, value in expected.items():
        # Adam's first step: both moments, bias-corrected, are the gradient and its square.
        clipped = projected[name] * 2 / norm
        value -= 0.1 * clipped / (clipped.abs() + 1.0)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    for name, value in expected.items():
        torch.testing.assert_close(params[name].detach(), value, rtol=1e-5, atol=1e-7, msg=name)


def test_the_memory_layout_of_a_gradient_does_not_matter(params: Params) -> None:
    """Fused Adam on a CPU would read it in the wrong order, without an error."""
    other = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    gradients = random_gradients(params, 0)
    transposed = {name: value.T.contiguous().T if value.dim() == 2 else value for name, value in gradients.items()}
    for leaves, given in ((params, gradients), (other, transposed)):
        update(leaves, given, initial_moments(leaves), 0.1, OptimizerConfig(clip=None))
    for name, value in params.items():
        torch.testing.assert_close(other[name], value, msg=name)


def test_fused_adam_is_given_contiguous_views(params: Params) -> None:
    """Of a parameter that is transposed in memory, as W_enc is, it would make a copy."""
    W_enc = params["W_dec"].detach().clone().T
    views = in_memory_order([W_enc, params["b_enc"], params["W_dec"]])
    assert all(view.is_contiguous() for view in views)
    assert views[0].data_ptr() == W_enc.data_ptr()
    strange = torch.zeros(4, 6)[:, ::2]
    assert in_memory_order([strange])[0] is strange
