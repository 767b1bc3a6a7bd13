"""Which latents stand for what is to be forgotten: often active on its text, and hardly on any other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.model.config import Mode


def select(forget: Tensor, retain: Tensor, threshold: float, num: int, mode: Mode) -> Tensor:
    """Of the latents below `threshold` on the retain text, the `num` that fire most often on the forget text.

    Fewer, where fewer fire on it at all. Between equal densities fixed takes the latent of the lower index; reference
    whichever numpy's unstable sort puts last, and it sees densities of six decimals only.

    Args:
        forget: (d_sae,) float64 densities.
        retain: (d_sae,) float64 densities.
        threshold: of the retain density; a latent at it is left out.
        num: how many are wanted.
        mode: see above.

    Returns:
        (num_latents,) int64 indices, the most frequent first.
    """
    if mode == "reference":
        forget, retain = forget.round(decimals=6), retain.round(decimals=6)
    forget = torch.where(retain >= threshold, 0.0, forget)
    if mode == "reference":
        order = torch.from_numpy(np.argsort(forget.numpy())[::-1].copy())
    else:
        order = forget.argsort(descending=True, stable=True)
    return order[: min(num, int(forget.count_nonzero()))]
