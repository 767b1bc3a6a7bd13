"""Adam under the constraint that each latent's decoder row has unit norm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.train.config import OptimizerConfig
from saepipe.train.sae.base import Params


def make_adam(params: Params, config: OptimizerConfig) -> torch.optim.Adam:
    return torch.optim.Adam(list(params.values()), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def begin_moments(adam: torch.optim.Adam) -> None:
    """Makes the moments that torch's Adam makes at its first step, where they are not there yet."""
    for parameter in adam.param_groups[0]["params"]:
        if not adam.state[parameter]:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            adam.state[parameter] = {
                "step": step,
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def remove_parallel(gradients: Mapping[str, Tensor], W_dec: Tensor) -> None:
    """Takes from W_dec's gradient, in place, the part along each row: g_i - (g_i . d_i) d_i.

    Args:
        gradients: of the parameters by name; only W_dec (..., d_sae, d_in) changes.
        W_dec: (..., d_sae, d_in), rows d_i of unit norm along d_in.
    """
    gradient = gradients["W_dec"]
    along = torch.linalg.vecdot(gradient, W_dec.detach())
    gradient.addcmul_(W_dec.detach(), along.unsqueeze(-1), value=-1)


def laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, with the parameter's strides.

    torch's fused Adam goes through both as they lie in memory; on a CPU it says nothing where they lie differently.
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


@torch.no_grad()
def update(
    adam: torch.optim.Adam, params: Params, gradients: Mapping[str, Tensor], lr: float, clip: float | None
) -> None:
    """One step: project, clip the whole gradient's norm, Adam, rows back to unit norm."""
    remove_parallel(gradients, params["W_dec"])
    for name, parameter in params.items():
        parameter.grad = laid_out_like(parameter, gradients[name])
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(params.values(), clip)
    for group in adam.param_groups:
        group["lr"] = lr
    adam.step()
    adam.zero_grad(set_to_none=True)
    # Adam's momentum is not quite tangent, so the rows drift a little at each step.
    params["W_dec"].div_(torch.linalg.vector_norm(params["W_dec"], dim=-1, keepdim=True))
