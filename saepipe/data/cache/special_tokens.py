"""Drops BOS and other special tokens from the rows that a cache stores."""

from __future__ import annotations

import numpy as np


def keep_mask(ids: np.ndarray, special_ids: frozenset[int]) -> np.ndarray:
    """Returns True for ordinary tokens and False for BOS, EOS, pad and other special tokens.

    Args:
        ids: integer token ids of any shape.
        special_ids: ids whose activations are not worth training on (the norm at BOS is ~20 times the others').
    """
    return ~np.isin(ids, np.fromiter(special_ids, dtype=np.int64))
