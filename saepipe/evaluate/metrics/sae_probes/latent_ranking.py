"""The order in which sparse probes take latents."""

from __future__ import annotations

from torch import Tensor

from saepipe.evaluate.stats.linear_probes import ranked

_EPSILON = 1e-6


def ranked_latents(acts: Tensor, positive: Tensor) -> Tensor:
    """Ranks latents by |difference of class means| in units of their mean activation, largest first.

    Without the unit, latents with large activations would come first. It is the mean of |acts| over the rows where the
    latent is active, so a rare latent is not divided by its rarity.

    Args:
        acts: (num_rows, d_sae) float32 of the training rows.
        positive: (num_rows,) bool.

    Returns:
        (d_sae,) int64.
    """
    mean_active = acts.abs().sum(0) / ((acts != 0).sum(0) + _EPSILON)
    return ranked(acts / (mean_active + _EPSILON), positive)
