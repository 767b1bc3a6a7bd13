"""Adam under the constraint that each latent's decoder row has unit norm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from saepipe.train.config_sections import OptimizerConfig, SkipConfig
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import total_norm
from saepipe.train.sae.base import Params
from saepipe.train.step.near_start import keep_near_start

Moments = dict[str, dict[str, Tensor]]
"""Adam's state by parameter: exp_avg and exp_avg_sq (the parameter's shape), and step (), float32.

With `freeze: soft_decoder`, W_dec has `start` too, the rows (d_sae, d_out) that it must stay near.
"""


STRETCH = 2**19
"""Numbers that a CPU's caches hold; what goes over rows twice goes over so many at a time."""


def initial_moments(params: Params) -> Moments:
    """Returns Adam's state before the first step."""
    return {
        name: {
            "step": torch.zeros((), dtype=torch.float32, device=value.device),
            "exp_avg": torch.zeros_like(value, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(value, requires_grad=False),
        }
        for name, value in params.items()
    }


def remove_parallel(gradients: Mapping[str, Tensor], params: Params) -> None:
    """Removes from W_dec's gradient, in place, the part along each row: g_i - (g_i . d_i) d_i.

    Args:
        gradients: by parameter; only W_dec (..., d_sae, d_out) changes.
        params: those that are trained; rows d_i of W_dec, if it is among them, have unit norm along d_out.
    """
    if "W_dec" not in params:
        return
    gradient, W_dec = gradients["W_dec"], params["W_dec"].detach()
    for part, directions in zip(_in_stretches(gradient), _in_stretches(W_dec), strict=True):
        if gradient.device.type == "cpu":  # a product per row takes twice as long, and its array stays in the cache
            along = torch.linalg.vecdot(part, directions)
        else:
            along = torch.einsum("...i,...i->...", part, directions)
        part.addcmul_(directions, along.unsqueeze(-1), value=-1)


@torch.no_grad()
def constrain_decoder(params: Params, moments: Moments, min_cosine: float) -> None:
    """Scales the rows of W_dec (..., d_sae, d_out), if it is trained, to unit norm along d_out; changes it in place.

    If `moments` hold their start, they are then turned back to a cosine of at least `min_cosine` with it.
    """
    if "W_dec" not in params:
        return
    W_dec = params["W_dec"]
    for directions in _in_stretches(W_dec):
        directions.div_(torch.linalg.vector_norm(directions, dim=-1, keepdim=True))
    if "start" in moments["W_dec"]:
        keep_near_start(W_dec, moments["W_dec"]["start"], min_cosine)


def _in_stretches(rows: Tensor) -> Sequence[Tensor]:
    """Splits rows (..., num_rows, width) along num_rows: on a CPU into what its caches hold, elsewhere not at all."""
    *_, num_rows, width = rows.shape
    return torch.split(rows, max(1, STRETCH // width) if rows.device.type == "cpu" else num_rows, dim=-2)


def laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient with the parameter's strides.

    torch's fused Adam walks both in memory order; on a CPU it does not notice that their strides differ.
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def in_memory_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns each tensor, or its transposed view if that is contiguous; of others fused Adam would make a copy."""
    return [tensor.mT if tensor.dim() > 1 and tensor.mT.is_contiguous() else tensor for tensor in tensors]


def whole_norm(gradients: Mapping[str, Tensor], mesh: Mesh | None) -> Tensor:
    """Returns the norm, (), of a gradient over all parameters, of which each rank of `mesh` has a part."""
    return torch.nn.utils.get_total_norm(list(gradients.values())) if mesh is None else total_norm(gradients, mesh)


def clip_divisor(norm: Tensor, limit: float) -> Tensor:
    """Returns what a gradient of this norm is divided by, so that its norm is at most `limit`; any shape."""
    return (norm / limit if limit != 1 else norm).clamp(min=1.0)


def groups(params: Params, lr: float | Tensor, skip: SkipConfig | None) -> list[tuple[Params, float | Tensor]]:
    """Returns the parameters that learn at one rate, with that rate: all, but a skip, which has its own."""
    own = {name: value for name, value in params.items() if name == "W_skip"}
    if not own or skip is None or skip.lr == 1:
        return [(params, lr)]
    return [({name: value for name, value in params.items() if name not in own}, lr), (own, lr * skip.lr)]


@torch.no_grad()
def decay_skip(params: Params, lr: float | Tensor, skip: SkipConfig | None) -> None:
    """Shrinks W_skip in place by the decay of one step, before Adam's step: AdamW."""
    if skip is not None and skip.weight_decay:
        params["W_skip"].mul_(1 - lr * (skip.lr * skip.weight_decay))


@torch.no_grad()
def adam_step(
    params: Params,
    gradients: Mapping[str, Tensor],
    moments: Moments,
    lr: float | Tensor,
    config: OptimizerConfig,
    divisor: Tensor | None = None,
) -> None:
    """Makes one step of torch's fused Adam on gradients / `divisor` (); changes params and moments in place.

    On CUDA `lr` is a number, or () float32 there.
    """
    beta1, beta2 = config.betas
    aligned = [laid_out_like(value, gradients[name]) for name, value in params.items()]
    adam(
        in_memory_order(params.values()),
        in_memory_order(aligned),
        in_memory_order(moments[name]["exp_avg"] for name in params),
        in_memory_order(moments[name]["exp_avg_sq"] for name in params),
        [],
        [moments[name]["step"] for name in params],
        fused=True,
        grad_scale=divisor,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=0.0,
        eps=config.eps,
        maximize=False,
    )


@torch.no_grad()
def update(
    params: Params,
    gradients: Mapping[str, Tensor],
    moments: Moments,
    lr: float | Tensor,
    config: OptimizerConfig,
    skip: SkipConfig | None = None,
    min_cosine: float = 0.0,
    mesh: Mesh | None = None,
) -> None:
    """Makes one step: projects, clips the norm of the whole gradient, applies Adam, constrains the decoder's rows."""
    remove_parallel(gradients, params)
    gradients = {name: laid_out_like(value, gradients[name]) for name, value in params.items()}
    divisor = None
    if config.clip is not None:
        divisor = clip_divisor(whole_norm(gradients, mesh).float(), config.clip)
    decay_skip(params, lr, skip)
    for group, rate in groups(params, lr, skip):
        adam_step(group, gradients, moments, rate, config, divisor)
    # Adam's momentum is not quite tangent, so the rows drift a little at each step.
    constrain_decoder(params, moments, min_cosine)
