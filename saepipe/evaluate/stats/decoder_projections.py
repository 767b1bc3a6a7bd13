"""The n-th decoder projection, a proxy of whether the L0 of an SAE is right (arXiv 2508.16560)."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.evaluate.stats.decoder_cosines import directions

RANK = 3 / 8
"""n over the number of latents: well above any useful L0, and below the half beyond which the authors see noise."""
_BATCH = 256
"""Tokens whose projections are held at a time, 64 MiB for 65,536 latents."""


def nth_decoder_projection(x: Tensor, W_dec: Tensor) -> float | None:
    """Returns s_n^dec = the value of rank n * batch among all projections d_i . x of a batch, the largest first.

    It is the mean over batches of 256 tokens, as in the authors' code, which averages over batches too. The d_i are
    the decoder rows scaled to unit norm, without rows of zeros, and n is 3/8 of their number.

    Args:
        x: (num_tokens, d_in) activations less b_dec; not empty.
        W_dec: (d_sae, d_in).

    Returns:
        The mean over tokens, or None if no decoder row has a direction.
    """
    rows, _ = directions(W_dec)
    if len(rows) == 0:
        return None
    rank = len(rows) - int(RANK * len(rows))  # per token, the smallest first
    total = 0.0
    for batch in torch.split(x.float(), _BATCH):
        total += len(batch) * float((batch @ rows.T).flatten().kthvalue(rank * len(batch)).values)
    return total / len(x)
