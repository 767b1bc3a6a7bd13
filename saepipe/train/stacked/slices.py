"""Tensors of several runs in one: nested dicts of the same structure, with a leading axis of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def shared(items: Sequence[Any]) -> Any:
    """Moves tensors (...), or those of nested dicts, into one tensor (num_runs, ...); each becomes a slice of it.

    They remain the same objects, so whoever holds one (a state, a tracker) holds the slice. They keep their memory
    layout too, on which the rounding of products depends.
    """
    if isinstance(items[0], Mapping):
        return {key: shared([item[key] for item in items]) for key in items[0]}
    axes = sorted(range(items[0].dim()), key=items[0].stride, reverse=True)
    together = torch.stack([item.detach().permute(axes) for item in items])
    together = together.permute(0, *(1 + axes.index(axis) for axis in range(len(axes))))
    for item, part in zip(items, together, strict=True):
        item.data = part
    return together
