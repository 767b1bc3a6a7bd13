"""Decides which documents are held out, and which token positions carry an activation worth keeping."""

from __future__ import annotations

import numpy as np
import xxhash


def heldout_score(text: str) -> float:
    """Maps a document's text, and nothing else, to a number in [0, 1), uniform over texts.

    A document is held out if its score is below the held-out share. So duplicates are all on the same side, and raising
    the share only moves documents into the held-out part.
    """
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=0x5AE) / 2.0**64


def keep_mask(ids: np.ndarray, special_ids: frozenset[int]) -> np.ndarray:
    """Returns True for ordinary tokens and False for BOS, EOS, pad and other special tokens.

    Args:
        ids: integer token ids of any shape.
        special_ids: ids whose activations are not worth training on (the norm at BOS is ~20 times the others').
    """
    return ~np.isin(ids, np.fromiter(special_ids, dtype=np.int64))
