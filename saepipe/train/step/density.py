"""The choice between sparse and dense steps: a rule on shape and measured density, never on timing.

So a run takes the same path on every machine, and its bits are reproducible. Thresholds come from bench/density.py.
"""

from __future__ import annotations

import torch

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.entries import Entries
from saepipe.train.step.loss import Loss

SPARSE_BELOW, DENSE_ABOVE = 0.06, 0.09
"""Shares of the entries (batch, d_sae). In between, a run keeps its path, so that it does not alternate."""

MEASURE_EVERY = 100  # steps; measuring waits for the device
MIN_SPARSE_WORK = 2e8  # multiplications of one dense product; below, the overhead around the products costs more


def starts_sparse(config: TrainConfig, d_in: int) -> bool:
    """True if step 0 is sparse: the config demands it, or the architecture itself is sparse enough."""
    if config.sparse_steps != "auto":
        return config.sparse_steps == "always"
    k = config.sae.num_active
    return k is not None and _pays(config, d_in) and k <= SPARSE_BELOW * config.sae.d_sae


def measures_density(config: TrainConfig, d_in: int, step: int) -> bool:
    """True if the density measured at `step` decides whether the next step is sparse."""
    is_variable = config.sae.num_active is None and config.sparse_steps == "auto"
    return is_variable and step % MEASURE_EVERY == 0 and _pays(config, d_in)


def next_is_sparse(sparse: bool, density: float) -> bool:
    """True if the next step is sparse, given the path and the density of this one."""
    return density <= (DENSE_ABOVE if sparse else SPARSE_BELOW)


@torch.no_grad()
def density(sae: Architecture, params: Params, loss: Loss) -> float:
    """Returns the share of all entries (batch, d_sae) that a sparse step computes with."""
    activations = loss.ctx.latent_acts
    if isinstance(activations, Entries):
        return activations.pattern.num_entries / (len(loss.ctx.x) * sae.d_sae)
    return float(sae.mask(params, activations.pre_acts).float().mean())


def _pays(config: TrainConfig, d_in: int) -> bool:
    possible = config.sae.sparse and not config.transforms
    return possible and config.batch_size * d_in * config.sae.d_sae >= MIN_SPARSE_WORK
