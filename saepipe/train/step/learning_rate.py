"""Schedules that depend only on the step: the learning rate, and when dead latents are resampled."""

from __future__ import annotations

from saepipe.train.config_sections import DeadConfig, OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, dead: DeadConfig, step: int, num_steps: int) -> float:
    """Returns the rate at a step (from 0): linear up, flat, linear down, up again after a resampling; never 0."""
    up = _ramp(step + 1, optimizer.warmup * num_steps)
    down = _ramp(num_steps - step, optimizer.decay * num_steps)
    rewarm = 1.0
    if dead.resample_steps and (resampled := last_resampling(dead, step, num_steps)):
        rewarm = _ramp(step - resampled + 1, dead.rewarm * dead.resample_steps)
    return optimizer.lr * min(up, down) * rewarm


def last_resampling(dead: DeadConfig, step: int, num_steps: int) -> int | None:
    """Returns the latest step up to `step` that resamples; None before the first.

    Multiples of `resample_steps` do, if at least one whole period is left in which resampled latents can learn.
    """
    period = dead.resample_steps
    if period is None:
        return None
    latest = min(step // period, num_steps // period - 1) * period
    return latest if latest > 0 else None


def _ramp(done: int, length: float) -> float:
    return min(1.0, done / length) if length else 1.0
