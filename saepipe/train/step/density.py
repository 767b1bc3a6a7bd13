"""Whether a run's steps are sparse or dense: a rule on shape and measured density, never on timing.

So a run takes the same path on every machine, and its bits repeat. The thresholds are from bench/density.py.
"""

from __future__ import annotations

import torch

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.step.loss import Loss

SPARSE_BELOW, DENSE_ABOVE = 0.06, 0.09
"""Shares of the entries (batch, d_sae). Between them a run goes on as it did: it does not swing to and fro."""

LOOK_EVERY = 100  # steps; a look waits for the device
LEAST_WORK = 2e8  # multiplications of one whole product, below which what surrounds the products counts more


def sparse_at_first(config: TrainConfig, d_in: int) -> bool:
    """Whether step 0 is sparse: where that is asked for, or the architecture itself is sparse enough."""
    if config.sparse_steps != "auto":
        return config.sparse_steps == "always"
    k = config.sae.num_active
    return k is not None and _pays(config, d_in) and k <= SPARSE_BELOW * config.sae.d_sae


def looks_at_density(config: TrainConfig, d_in: int, step: int) -> bool:
    """Whether the density of the step that ends at `step` decides on the next one's path."""
    decides_itself = config.sae.num_active is None and config.sparse_steps == "auto"
    return decides_itself and step % LOOK_EVERY == 0 and _pays(config, d_in)


def sparse_next(sparse: bool, density: float) -> bool:
    """Whether the next step is sparse, given this step's path and its density."""
    return density <= (DENSE_ABOVE if sparse else SPARSE_BELOW)


@torch.no_grad()
def density(sae: Architecture, params: Params, loss: Loss) -> float:
    """The share of all entries (batch, d_sae) that a sparse step computes with."""
    ctx = loss.ctx
    if ctx.entries is not None:
        return ctx.entries.pattern.num_entries / (len(ctx.x) * sae.d_sae)
    return float(sae.mask(params, ctx.pre_acts).float().mean())


def _pays(config: TrainConfig, d_in: int) -> bool:
    possible = config.sae.sparse and not config.transforms
    return possible and config.batch_size * d_in * config.sae.d_sae >= LEAST_WORK
