"""Room for the entries of a sparse step: its shapes are fixed, although only the device knows how many there are.

A captured step needs it: the pre-activations are computed, the host reads the numbers of entries, as in every sparse
step of such an architecture, and chooses a captured step with room for as many.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saepipe.train.sae.base import Architecture, Params


class Room(NamedTuple):
    """Pre-activations of a step, and the numbers to which its entries are padded."""

    pre_acts: Tensor  # (batch, d_sae)
    num_entries: int  # at least as many as there are
    num_near: int  # entries whose slope is estimated apart; 0: too many to take one by one, or none


def reached(sae: Architecture, params: Params, pre_acts: Tensor, *, transformed: bool) -> Tensor:
    """Marks the entries (batch, d_sae) of a sparse step, bool: active ones, and before a transform those near, too."""
    mask, near = sae.mask(params, pre_acts), sae.near(params, pre_acts) if transformed else None
    return mask if near is None else mask | near


def count_entries(sae: Architecture, params: Params, pre_acts: Tensor, *, transformed: bool) -> Tensor:
    """Returns the numbers of entries, and of those whose slope is estimated apart, (2,) int64, without waiting."""
    entries, near = reached(sae, params, pre_acts, transformed=transformed), sae.near(params, pre_acts)
    num_near = entries.new_zeros((), dtype=torch.int64) if near is None or transformed else near.sum()
    return torch.stack([entries.sum(), num_near])
