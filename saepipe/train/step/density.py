"""The choice between sparse and dense steps: a rule on device, shape and measured density, never on timing.

So a run takes the same path on every machine with that device. Whether its encoder is screened (`sae/screen.py`) also
depends on the processor's instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.room import reached
from saepipe.train.step.loss import Loss

MEASURE_EVERY = 100  # steps; measuring waits for the device


@dataclass(frozen=True)
class Thresholds:
    """When steps are sparse on a device. In between the shares a run keeps its path, so that it does not alternate."""

    sparse_below: float
    """share of the entries (batch, d_sae)"""
    dense_above: float
    """share of the entries (batch, d_sae)"""
    least_work: float
    """multiplications of one dense product; below, the overhead around the products costs more"""


THRESHOLDS: dict[tuple[str, str], Thresholds] = {
    ("cpu", "float32"): Thresholds(0.06, 0.09, least_work=2e8),  # bench/density.py, bench/results/density.json
    ("cpu", "bfloat16"): Thresholds(0.06, 0.09, least_work=2e8),  # that of float32; not measured
}
"""By type of device and dtype of the products; where there is none, steps are dense unless the config demands others.

CUDA has none until a result of bench/gpu.py is committed. A sparse step there reads rows where a dense one multiplies,
so it pays below a density of about bandwidth / rate of multiplication: 4e12 B/s over 7e14 bfloat16 operations/s, 0.6 %.
"""


def starts_sparse(config: TrainConfig, d_in: int, device: torch.device) -> bool:
    """True if a step is sparse: the config demands it, or the architecture, that of the step, is sparse enough."""
    if config.sparse_steps != "auto":
        return config.sparse_steps == "always"
    k, thresholds = config.sae.num_active, _thresholds(config, d_in, device)
    return k is not None and thresholds is not None and k <= thresholds.sparse_below * config.sae.d_sae


def thresholds_at(step: int, config: TrainConfig, d_in: int, device: torch.device) -> Thresholds | None:
    """Returns the thresholds by which the density at `step` decides on the next step; None if it does not."""
    if config.sae.num_active is not None or config.sparse_steps != "auto" or step % MEASURE_EVERY:
        return None
    return _thresholds(config, d_in, device)


def next_is_sparse(sparse: bool, density: float, thresholds: Thresholds) -> bool:
    """True if the next step is sparse, given the path and the density of this one."""
    return density <= (thresholds.dense_above if sparse else thresholds.sparse_below)


@torch.no_grad()
def density(config: TrainConfig, params: Params, loss: Loss) -> float:
    """Returns the share of all entries (batch, d_sae) that a sparse step computes with."""
    sae, activations = config.sae, loss.ctx.latent_acts
    if isinstance(activations, Entries):
        return activations.pattern.num_entries / (len(loss.ctx.x) * sae.d_sae)
    computed = reached(sae, params, activations.pre_acts, transformed=bool(config.transforms))
    return float(computed.float().mean())


def _thresholds(config: TrainConfig, d_in: int, device: torch.device) -> Thresholds | None:
    """Returns the thresholds of a run whose sparse steps can pay, else None."""
    thresholds = THRESHOLDS.get((device.type, config.compute_dtype))
    if thresholds is None or config.why_dense:
        return None
    return thresholds if config.batch_size * d_in * config.sae.d_sae >= thresholds.least_work else None
