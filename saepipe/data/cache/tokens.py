"""Documents and token ids: which document is held out, and which positions carry an activation worth keeping."""

from __future__ import annotations

import numpy as np
import xxhash


def heldout_score(text: str) -> float:
    """A number in [0, 1) that depends on the document's text alone, uniform over texts.

    A document is held out when its score is below the held-out share, so duplicates fall on one side,
    and raising the share only ever moves documents into the held-out part.
    """
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=0x5AE) / 2.0**64


def keep_mask(ids: np.ndarray, special_ids: frozenset[int]) -> np.ndarray:
    """True where a token is an ordinary one; BOS, EOS, pad and other special tokens are False.

    Args:
        ids: integer token ids of any shape.
        special_ids: the ids that carry no activation worth training on (a BOS norm is ~20x the others').
    """
    return ~np.isin(ids, np.fromiter(special_ids, dtype=np.int64))
