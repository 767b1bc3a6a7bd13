"""What is done to a batch's activations on the model's device: rounded, checked, selected and packed into rows.

No operation here reads a result back, so on CUDA the host goes on while the device works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from saepipe.data.cache.layout import Layout

FINITE, INDEX, NUM_KEPT = "finite", "index", "num_kept"
"""Names, beside those of the cache's arrays, of what the host has to know about packed rows."""


@dataclass(frozen=True)
class Activations:
    """Activations of one batch at one hook."""

    x: torch.Tensor
    """(batch, context_size, d_in), as the model gave them"""
    rounded: torch.Tensor
    """(batch, context_size, d_in) bfloat16, as they are stored"""
    norms: torch.Tensor
    """(batch, context_size) float32, of the rounded rows"""

    @classmethod
    def of(cls, x: torch.Tensor) -> Activations:
        rounded = x.bfloat16()
        return cls(x, rounded, rounded.float().norm(dim=-1))

    @property
    def bits(self) -> torch.Tensor:
        """(batch * context_size, d_in) int16"""
        return self.rounded.flatten(0, 1).view(torch.int16)

    @property
    def finite(self) -> torch.Tensor:
        """(batch, context_size) bool; rounding can make the largest values infinite, and squaring can make norms so."""
        return torch.isfinite(self.norms)


def pack_train(
    activations: Mapping[str, Activations], candidates: torch.Tensor, limits: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Gathers the training rows of a batch by array name, (num_candidates, ...): first those to keep, in order.

    Args:
        activations: by hook.
        candidates: (num_candidates,) int64, places in the flattened batch, on the model's device.
        limits: by hook, the norm above which rows are not kept.

    Returns:
        Also INDEX, each row's place in the flattened batch; NUM_KEPT, (); and FINITE, (num_hooks,).
    """
    norms = {hook: part.norms.flatten() for hook, part in activations.items()}
    index, num_kept = candidates, torch.full((), len(candidates), device=candidates.device)
    if limits:
        keep = torch.stack([norms[hook][index] <= limit for hook, limit in limits.items()]).all(0)
        index, num_kept = index[keep.logical_not().argsort(stable=True)], keep.sum()
    rows = {Layout.acts(hook): part.bits[index] for hook, part in activations.items()}
    rows |= {Layout.norm(hook): norm[index] for hook, norm in norms.items()}
    return rows | {INDEX: index, NUM_KEPT: num_kept, FINITE: _all_finite(activations)}


def pack_heldout(activations: Mapping[str, Activations]) -> dict[str, torch.Tensor]:
    """The rows of all positions by array name, (batch * context_size, d_in), and FINITE."""
    rows = {Layout.acts(hook, "heldout"): part.bits for hook, part in activations.items()}
    return rows | {FINITE: _all_finite(activations)}


def _all_finite(activations: Mapping[str, Activations]) -> torch.Tensor:
    return torch.stack([part.finite.all() for part in activations.values()])
