"""Whole steps: the gradients of the sparse path beside those of the dense one, on this device."""

from __future__ import annotations

import torch
from gpu_parts.errors import error
from gpu_parts.material import Rows
from gpu_parts.scale import Scale
from gpu_parts.settled import ARCHITECTURES, Settled, fresh, settle
from torch import Tensor

from saepipe.train.step.step import step_loss

TOLERANCE = {"float32": 5e-3, "bfloat16": 2e-2}
"""More than rounding in float32: where the encoder's product differs in its last bit, an entry at the edge is on in one
path and off in the other, and one of 64 * 4,096 entries is 2e-3 of a gradient."""


def errors(scale: Scale) -> dict[str, dict[str, float]]:
    """By architecture and dtype, then by parameter: |sparse - dense| / |dense|, in norms, at the smallest width."""
    rows = Rows(scale.d_in, scale.device).draw(scale.batch)
    found = {}
    for name in ARCHITECTURES:
        settled = settle(scale, name, scale.d_saes[0], rows)
        for dtype in TOLERANCE:
            dense, sparse = (gradients(scale, settled, rows, path, dtype) for path in ("never", "always"))
            found[f"{name}, {dtype}"] = {key: error(sparse[key], dense[key]) for key in dense}
    return found


def tolerance(case: str) -> float:
    """Of a key of `errors`."""
    return TOLERANCE[case.split(", ")[1]]


def gradients(scale: Scale, settled: Settled, rows: Tensor, sparse_steps: str, dtype: str) -> dict[str, Tensor]:
    """Of the loss at the first step, by parameter."""
    recipe, state = fresh(scale, settled, sparse_steps, 0, dtype)
    loss = step_loss(recipe, state, recipe.scaled(rows))
    return dict(zip(state.params, torch.autograd.grad(loss.total, list(state.params.values())), strict=True))
