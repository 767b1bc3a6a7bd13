"""Selection of the latents to clamp: often active on the text to forget, rarely on the text to retain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.model.config import Mode


def select_latents(forget: Tensor, retain: Tensor, threshold: float, num: int, mode: Mode) -> Tensor:
    """Returns the `num` latents densest on the forget text among those below `threshold` on the retain text.

    It returns fewer if fewer are active on the forget text at all. Among equal densities, fixed takes the lower index
    and reference whichever latent numpy's unstable sort puts last; reference also rounds densities to six decimals.

    Args:
        forget: (d_sae,) float64 densities.
        retain: (d_sae,) float64 densities.
        threshold: limit of the retain density; a latent exactly at it is left out.
        num: number of latents wanted.
        mode: see above.

    Returns:
        (num_latents,) int64 indices, the densest first.
    """
    if mode == "reference":
        forget, retain = forget.round(decimals=6), retain.round(decimals=6)
    forget = torch.where(retain >= threshold, 0.0, forget)
    if mode == "reference":
        order = torch.from_numpy(np.argsort(forget.numpy())[::-1].copy())
    else:
        order = forget.argsort(descending=True, stable=True)
    return order[: min(num, int(forget.count_nonzero()))]
