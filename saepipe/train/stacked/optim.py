"""`saepipe.train.step.optim.update` for stacked runs: each has its own gradient norm and its own learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saepipe.train.config_sections import OptimizerConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.optim import Moments, adam_step, clip_divisor, constrain_decoder, laid_out_like, remove_parallel


@torch.no_grad()
def update_each(
    params: Params,
    gradients: Mapping[str, Tensor],
    moments: Moments,
    rates: Sequence[tuple[int, float | Tensor]],
    config: OptimizerConfig,
    min_cosine: float = 0.0,
) -> None:
    """Makes one step of every run: projects, clips each run's gradient norm, applies Adam, constrains decoder rows.

    Args:
        params: (num_runs, ...) each; changed in place, like `gradients` and `moments`.
        gradients: (num_runs, ...) each.
        moments: (num_runs, ...) each; `step` is equal in all runs.
        rates: number of runs in each stretch of equal learning rates, and the rate; Adam is called once for each.
        config: betas, eps and clip of every run.
        min_cosine: of W_dec's rows with their start, if `moments` hold that.
    """
    remove_parallel(gradients, params)
    if config.clip is not None:
        clip_each(gradients, config.clip)
    stop = 0
    for num_runs, lr in rates:
        start, stop = stop, stop + num_runs
        adam_step(
            {name: value[start:stop] for name, value in params.items()},
            {name: value[start:stop] for name, value in gradients.items()},
            # A copy of `step`, since Adam adds 1 to what it is given.
            {
                name: {**{key: value[start:stop] for key, value in own.items()}, "step": own["step"][start].clone()}
                for name, own in moments.items()
            },
            lr,
            config,
        )
    for own in moments.values():
        own["step"].add_(1)
    constrain_decoder(params, moments, min_cosine)


def clip_each(gradients: Mapping[str, Tensor], limit: float) -> None:
    """Scales each run's whole gradient, in place, to a norm of at most `limit`."""
    divide_each(gradients, clip_divisor(norm_each(gradients), limit))


def divide_each(gradients: Mapping[str, Tensor], divisors: Tensor) -> None:
    """Divides each run's whole gradient, in place, by its divisor (num_runs,)."""
    for value in gradients.values():
        value.div_(divisors.view(-1, *(1,) * (value.dim() - 1)))


def norm_each(gradients: Mapping[str, Tensor]) -> Tensor:
    """Returns each run's gradient norm over all parameters, (num_runs,)."""
    norms = [torch.linalg.vector_norm(value.flatten(1), dim=1) for value in gradients.values()]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


@torch.no_grad()
def update_blocks(
    params: Params,
    gradients: Mapping[str, Tensor],
    runs: Sequence[tuple[Params, Moments]],
    rates: Sequence[tuple[int, float]],
    config: OptimizerConfig,
) -> None:
    """Makes one step of every run with the bits of `saepipe.train.step.optim.update`.

    Args:
        params: (num_runs, ...) each; changed in place, like `gradients`.
        gradients: (num_runs, ...) each.
        runs: parameters, which are slices of `params`, and moments of each run.
        rates: as for `update_each`.
        config: betas, eps and clip of every run.
    """
    remove_parallel(gradients, params)
    gradients = {name: laid_out_like(params[name], value) for name, value in gradients.items()}
    own = [dict(zip(gradients, values, strict=True)) for values in zip(*gradients.values(), strict=True)]
    if config.clip is not None:
        norms = torch.stack([torch.nn.utils.get_total_norm(list(each.values())) for each in own])
        divide_each(gradients, clip_divisor(norms, config.clip))
    stop = 0
    for num_runs, lr in rates:
        start, stop = stop, stop + num_runs
        numbers = range(start, stop)
        adam_step(
            {f"{number}/{name}": value for number in numbers for name, value in runs[number][0].items()},
            {f"{number}/{name}": value for number in numbers for name, value in own[number].items()},
            {f"{number}/{name}": value for number in numbers for name, value in runs[number][1].items()},
            lr,
            config,
        )
    constrain_decoder(params, {"W_dec": {}}, 0.0)
