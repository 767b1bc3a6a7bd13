"""The latents whose decoder rows have the most similar directions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.stats.decoder_cosines import directions
from saepipe.train.pairs.search import nearest


def neighbours(W_dec: Tensor, num: int) -> dict[str, np.ndarray]:
    """Returns indices and cosines (d_sae, num), nearest first; -1 and NaN for a zero row, or if there are too few."""
    rows, index = directions(W_dec)
    neighbour = torch.full((len(W_dec), num), -1, device=W_dec.device)
    cosine = torch.full((len(W_dec), num), torch.nan, device=W_dec.device)
    if len(rows) > 1:
        values, nearest_rows = nearest(rows, num)  # fewer than num if there are fewer other rows
        neighbour[index, : nearest_rows.shape[1]] = index[nearest_rows]
        cosine[index, : nearest_rows.shape[1]] = values.clamp(-1, 1)
    return {"neighbours": neighbour.int().cpu().numpy(), "neighbour_cosine": cosine.cpu().numpy()}
