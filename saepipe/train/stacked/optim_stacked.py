"""`saepipe.train.step.optim.update` for stacked runs: each has its own norm, is clipped alone, and has its own lr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.optim.adam import adam

from saepipe.train.config import OptimizerConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.optim import laid_out_like, remove_parallel

Moments = Mapping[str, Mapping[str, Tensor]]
"""By parameter: exp_avg and exp_avg_sq (num_runs, ...), and step (num_runs,), equal in all runs."""


@torch.no_grad()
def update_each(
    params: Params, gradients: Mapping[str, Tensor], moments: Moments, lrs: Sequence[float], config: OptimizerConfig
) -> None:
    """One step: project, clip the norm of each run's whole gradient, Adam, rows back to unit norm.

    Args:
        params: (num_runs, ...) each; changed in place, as `gradients` and `moments` are.
        gradients: likewise.
        moments: of Adam.
        lrs: num_runs of them.
        config: its betas, eps and clip are those of every run.
    """
    remove_parallel(gradients, params["W_dec"])
    if config.clip is not None:
        clip_each(gradients, config.clip)
    adam_each(params, gradients, moments, lrs, config)
    params["W_dec"].div_(torch.linalg.vector_norm(params["W_dec"], dim=-1, keepdim=True))


def adam_each(
    params: Params, gradients: Mapping[str, Tensor], moments: Moments, lrs: Sequence[float], config: OptimizerConfig
) -> None:
    """torch's fused Adam over neighbours of one lr: one call if all have the same. Arguments as for `update_each`."""
    (beta1, beta2), end = config.betas, 0
    gradients = {name: laid_out_like(value, gradients[name]) for name, value in params.items()}
    for lr, neighbours in groupby(lrs):
        begin, end = end, end + len(list(neighbours))
        adam(
            [value[begin:end] for value in params.values()],
            [gradients[name][begin:end] for name in params],
            [moments[name]["exp_avg"][begin:end] for name in params],
            [moments[name]["exp_avg_sq"][begin:end] for name in params],
            [],
            [moments[name]["step"][begin].clone() for name in params],  # it adds 1 to what it is given
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=0.0,
            eps=config.eps,
            maximize=False,
        )
    for one in moments.values():
        one["step"].add_(1)


def clip_each(gradients: Mapping[str, Tensor], most: float) -> None:
    """Scales each run's whole gradient, in place, to a norm of at most `most`."""
    factor = (most / (norm_each(gradients) + 1e-6)).clamp(max=1.0)
    for value in gradients.values():
        value.mul_(factor.view(-1, *(1,) * (value.dim() - 1)))


def norm_each(gradients: Mapping[str, Tensor]) -> Tensor:
    """The norm over all parameters (num_runs, ...) of each run: (num_runs,)."""
    norms = [torch.linalg.vector_norm(value.flatten(1), dim=1) for value in gradients.values()]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)
