"""Gradients of whole steps: the sparse path against the dense one, on this device."""

from __future__ import annotations

import torch
from gpu_parts.errors import error
from gpu_parts.material import Rows
from gpu_parts.scale import Scale
from gpu_parts.settled import ARCHITECTURES, Settled, new_run, settle
from torch import Tensor

from saepipe.train.step.step import step_loss

TOLERANCE = {"float32": 5e-3, "bfloat16": 2e-2}
"""The float32 limit is above rounding: if the encoder's product differs in its last bit, an entry at the threshold may
be on in one path and off in the other, and one of 64 * 4,096 entries is 2e-3 of a gradient."""


def errors(scale: Scale) -> dict[str, dict[str, float]]:
    """Returns |sparse - dense| / |dense|, in norms, at the smallest width, by architecture, dtype and parameter."""
    rows = Rows(scale.d_in, scale.device).sample(scale.batch)
    by_case = {}
    for name in ARCHITECTURES:
        settled = settle(scale, name, scale.d_saes[0], rows)
        for dtype in TOLERANCE:
            dense, sparse = (gradients(scale, settled, rows, path, dtype) for path in ("never", "always"))
            by_case[f"{name}, {dtype}"] = {key: error(sparse[key], dense[key]) for key in dense}
    return by_case


def tolerance(case: str) -> float:
    """Returns the limit for a key of `errors`."""
    return TOLERANCE[case.split(", ")[1]]


def gradients(scale: Scale, settled: Settled, rows: Tensor, sparse_steps: str, dtype: str) -> dict[str, Tensor]:
    """Returns the gradients of the loss at the first step, by parameter."""
    recipe, state = new_run(scale, settled, sparse_steps, 0, dtype)
    loss = step_loss(recipe, state, recipe.scaled(rows))
    return dict(zip(state.params, torch.autograd.grad(loss.total, list(state.params.values())), strict=True))
