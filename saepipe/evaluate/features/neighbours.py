"""The latents whose decoder rows point where a latent's own does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.stats.decoder_cosines import directions
from saepipe.train.pairs.search import nearest


def neighbours(W_dec: Tensor, num: int) -> dict[str, np.ndarray]:
    """(d_sae, num) indices and cosines, nearest first; -1 and NaN where a row is zero or there are too few others."""
    rows, index = directions(W_dec)
    found = torch.full((len(W_dec), num), -1, device=W_dec.device)
    cosine = torch.full((len(W_dec), num), torch.nan, device=W_dec.device)
    if len(rows) > 1:
        values, others = nearest(rows, num)  # fewer where there are fewer others
        found[index, : others.shape[1]] = index[others]
        cosine[index, : others.shape[1]] = values.clamp(-1, 1)
    return {"neighbours": found.int().cpu().numpy(), "neighbour_cosine": cosine.cpu().numpy()}
