"""Decides which documents are held out."""

from __future__ import annotations

import xxhash


def heldout_score(text: str) -> float:
    """Maps a document's text, and nothing else, to a number in [0, 1), uniform over texts.

    A document is held out if its score is below the held-out share. So duplicates are all on the same side, and raising
    the share only moves documents into the held-out part.
    """
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=0x5AE) / 2.0**64
