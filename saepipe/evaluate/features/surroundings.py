"""Digests of the text around each token, by which repeated text is told: duplicates of a document, or boilerplate."""

from __future__ import annotations

import numpy as np

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Layout, Split
from saepipe.evaluate.features.contexts import Chunk

BEFORE, AFTER = 10, 5
"""Tokens around a token that belong to its surroundings, as far as they are in its document and context."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def of_chunk(cache: Cache, split: Split, chunk: Chunk) -> np.ndarray:
    """Returns the digest of each row's surroundings, (num_rows,) int64."""
    first, last = int(chunk.context[0]), int(chunk.context[-1])
    tokens, documents = (
        cache.array(name).read(first, last + 1) for name in (Layout.contexts(split), Layout.documents(split))
    )
    return surroundings(tokens, documents)[chunk.context - first, chunk.position]


def surroundings(tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Returns digests (num_contexts, context_size) int64: equal if the tokens around two tokens are.

    Args:
        tokens: (num_contexts, context_size) ids.
        documents: same shape: the document of each token.
    """
    size = tokens.shape[1]
    state = np.zeros(tokens.shape, np.uint64)
    for offset in range(-BEFORE, AFTER + 1):
        here = np.arange(size) + offset
        there = here.clip(0, size - 1)
        same = (documents[:, there] == documents) & (here == there)
        entry = np.where(same, tokens[:, there].astype(np.int64) + 1, 0).astype(np.uint64)
        with np.errstate(over="ignore"):
            state = (state + entry) * _FACTOR
            state ^= state >> np.uint64(29)
    return state.view(np.int64)
