"""Dead latents: how they are counted, and how they are resampled.

Resampling (Bricken et al. 2023): a dead latent takes the direction of a badly reconstructed token, its encoder column
becomes short, its bias and threshold return to their initial values, and its optimiser moments to 0. A frozen part is
left as it is, and a soft-frozen decoder row turns as far as it may.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.train.sae.base import PER_CHANNEL
from saepipe.train.sae.transcoder import skipped, split_rows
from saepipe.train.seeds import generator
from saepipe.train.step.near_start import keep_near_start
from saepipe.train.step.state import Recipe, TrainState, initial_params

ENCODER_SHARE = 0.2
"""Norm of a resampled encoder column, as a share of the mean norm of the living ones (Bricken et al. 2023)."""


def count_silence(tokens_since_fired: Tensor, acts_sum: Tensor, batch: int) -> None:
    """Adds a batch of tokens to each latent's count, in place; sets it to 0 if the latent was active.

    Args:
        tokens_since_fired: (d_sae,) int64.
        acts_sum: (d_sae,) activations summed over the batch; they are never negative, so a sum of 0 means silence.
        batch: number of tokens in the batch.
    """
    tokens_since_fired.add_(batch).masked_fill_(acts_sum > 0, 0)


def dead_mask(recipe: Recipe, tokens_since_fired: Tensor) -> Tensor:
    """Returns which latents (..., d_sae) have been silent for at least the run's threshold, bool."""
    return tokens_since_fired >= recipe.dead_after


def any_dead(recipe: Recipe, step: int, tokens_since_fired: Tensor) -> bool:
    """False only if no latent is dead; looks at the tensor only if that does not wait for a device."""
    if step * recipe.config.batch_size < recipe.dead_after:
        return False
    return tokens_since_fired.device.type != "cpu" or bool(dead_mask(recipe, tokens_since_fired).any())


@torch.no_grad()
def resample(recipe: Recipe, state: TrainState, rows: Tensor) -> int:
    """Gives each dead latent the direction of a token sampled from the scaled rows of a batch by its squared error.

    A transcoder's latent reads the token's x and writes its target.

    A token is used once, so no more latents are resampled than there are tokens with an error.

    Returns:
        Number of latents resampled.
    """
    sae, params = recipe.config.sae, state.params
    dead = dead_mask(recipe, state.tokens_since_fired)
    x, target = split_rows(rows, recipe.d_in)
    x_hat = sae.decode(state.all_params, sae.encode(state.all_params, x, recipe.dtype))
    if (skip := skipped(state.all_params, x, recipe.dtype)) is not None:
        x_hat = x_hat + skip
    # The draw is made on the CPU, so that a seed means the same on every device.
    chances = (target - x_hat).square().sum(1).double().cpu()
    num_new = min(int(dead.sum()), int((chances > 0).sum()))
    if num_new == 0:
        return 0
    rng = generator(recipe.config.seed, "resample", state.step)
    tokens = torch.multinomial(chances, num_new, replacement=False, generator=rng).to(x.device)
    latents = dead.nonzero().squeeze(1)[:num_new]
    written = torch.nn.functional.normalize(target[tokens] - params["b_dec"], dim=1)
    read = written
    if recipe.target is not None:
        read = torch.nn.functional.normalize(x[tokens] - state.buffers["b_in"], dim=1)
    lengths = torch.linalg.vector_norm(state.all_params["W_enc"], dim=0)
    length = ENCODER_SHARE * (lengths[~dead].mean() if not dead.all() else lengths.mean())
    replace_latents(recipe, state, latents, {"W_dec": written, "W_enc": length * read})
    state.tokens_since_fired[latents] = 0
    return num_new


def replace_latents(recipe: Recipe, state: TrainState, latents: Tensor, rows: Mapping[str, Tensor]) -> None:
    """Gives latents new weights, their initial biases and thresholds, and moments of 0; what is frozen stays.

    Args:
        recipe: of the run.
        state: changed in place.
        latents: (num_latents,) indices.
        rows: W_dec (num_latents, d_out) of unit norm, and W_enc (num_latents, d_in), a row per latent.
    """
    initial = initial_params(recipe)
    for name, value in state.params.items():
        if name in rows:
            new = rows[name]
        elif value.dim() == 1 and name not in PER_CHANNEL:  # biases, and an architecture's thresholds
            new = initial[name].to(value.device)[latents]
        else:
            continue
        moments = state.moments[name]
        if "start" in moments:
            keep_near_start(new, moments["start"][latents], recipe.config.freeze_cosine)
        for tensor, replacement in ((value, new), (moments["exp_avg"], 0.0), (moments["exp_avg_sq"], 0.0)):
            (tensor.T if name == "W_enc" else tensor)[latents] = replacement
