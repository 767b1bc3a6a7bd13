"""Latents that no longer fire: how they are counted, and how they start anew.

Resampling (Bricken et al. 2023): a dead latent takes the direction of a token that is badly reconstructed, its
encoder column is short, its bias and threshold are as at the start, and its optimiser moments 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.seeds import generator
from saepipe.train.step.state import Recipe, TrainState, initial_params

ENCODER_SHARE = 0.2
"""Norm of a resampled encoder column, as a share of the living ones' mean (Bricken et al. 2023)."""


def count_silence(tokens_since_fired: Tensor, acts_sum: Tensor, batch: int) -> None:
    """Adds a batch of tokens to each latent's count, in place; 0 where it fired.

    Args:
        tokens_since_fired: (d_sae,) int64.
        acts_sum: (d_sae,) activations summed over the batch; none is negative, so a sum of 0 is silence.
        batch: tokens in it.
    """
    tokens_since_fired.add_(batch).masked_fill_(acts_sum > 0, 0)


def dead_mask(recipe: Recipe, state: TrainState) -> Tensor:
    """(d_sae,) bool: silent for at least the run's threshold."""
    return state.tokens_since_fired >= recipe.dead_after


def any_dead(recipe: Recipe, state: TrainState, dead: Tensor) -> bool:
    """False only where no latent is dead; looks at `dead` only where that does not wait for a device."""
    possible = state.step * recipe.config.batch_size >= recipe.dead_after
    return possible and (dead.device.type != "cpu" or bool(dead.any()))


@torch.no_grad()
def resample(recipe: Recipe, state: TrainState, x: Tensor) -> int:
    """Gives each dead latent the direction of a token drawn from x (batch, d_in) by its squared error.

    A token is taken once, so at most as many latents as there are badly reconstructed tokens start anew.

    Returns:
        How many did.
    """
    sae, params = recipe.config.sae, state.params
    dead = dead_mask(recipe, state)
    x_hat = sae.decode(state.all_params, sae.encode(state.all_params, x, recipe.dtype))
    # The draw is made on the CPU, so that a seed means the same on every device.
    chances = (x - x_hat).square().sum(1).double().cpu()
    num_new = min(int(dead.sum()), int((chances > 0).sum()))
    if num_new == 0:
        return 0
    rng = generator(recipe.config.seed, "resample", state.step)
    tokens = torch.multinomial(chances, num_new, replacement=False, generator=rng).to(x.device)
    latents = dead.nonzero().squeeze(1)[:num_new]
    directions = torch.nn.functional.normalize(x[tokens] - params["b_dec"], dim=1)
    lengths = torch.linalg.vector_norm(params["W_enc"], dim=0)
    length = ENCODER_SHARE * (lengths[~dead].mean() if not dead.all() else lengths.mean())
    params["W_dec"][latents] = directions
    params["W_enc"][:, latents] = length * directions.T
    initial = initial_params(recipe)
    of_each = [name for name, value in params.items() if value.dim() == 1 and name != "b_dec"]
    for name in of_each:  # biases, and what else an architecture keeps of a latent, such as its threshold
        params[name][latents] = initial[name].to(x.device)[latents]
    for name, index in (("W_dec", latents), ("W_enc", (slice(None), latents)), *((name, latents) for name in of_each)):
        moments = state.adam.state[params[name]]
        moments["exp_avg"][index] = 0
        moments["exp_avg_sq"][index] = 0
    state.tokens_since_fired[latents] = 0
    return num_new
