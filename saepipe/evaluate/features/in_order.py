"""The rows of a cache in the order of its text. The training rows are stored shuffled, but only within a pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from saepipe.data.cache import Cache, Split
from saepipe.data.mmap_store import MappedRows

_HELDOUT_CONTEXTS = 256


@dataclass(frozen=True)
class OrderedRows:
    """Rows that follow one another, by context and position. Special tokens are not among them."""

    context: np.ndarray  # (num_rows,) int64
    position: np.ndarray  # (num_rows,) int64
    x: Tensor  # (num_rows, d_in) bfloat16

    def __len__(self) -> int:
        return len(self.context)


def whole_contexts(cache: Cache, split: Split) -> np.ndarray:
    """(num_contexts, context_size) int32 token ids of the contexts whose rows are all stored, as far as we know.

    In training that is all but the last: the cache may end within it.
    """
    if split == "heldout":
        return cache.heldout.contexts
    context = MappedRows(cache.path, "context_id", cache.files)
    last = int(context.read(0, context.num_rows).max())
    return MappedRows(cache.path, "contexts", cache.files).read(0, last)


def in_order(cache: Cache, hook: str, split: Split, num_contexts: int) -> Iterator[OrderedRows]:
    """The rows of the first `num_contexts` contexts, once each; a pool of them in memory at a time."""
    return (_training if split == "train" else _heldout)(cache, hook, num_contexts)


def _training(cache: Cache, hook: str, num_contexts: int) -> Iterator[OrderedRows]:
    acts, stop = cache.acts(hook), 0
    contexts, positions = (MappedRows(cache.path, name, cache.files) for name in ("context_id", "position"))
    for line in cache.lines:
        if line["kind"] != "pool" or line["split"] != "train":
            continue
        start, stop = stop, stop + line["num_rows"]
        context, position = contexts.read(start, stop), positions.read(start, stop)
        order = np.lexsort((position, context))
        order = order[context[order] < num_contexts]
        if not len(order):
            return
        yield OrderedRows(context[order], position[order].astype(np.int64), acts[start:stop][order])


def _heldout(cache: Cache, hook: str, num_contexts: int) -> Iterator[OrderedRows]:
    for start in range(0, num_contexts, _HELDOUT_CONTEXTS):
        stop = min(start + _HELDOUT_CONTEXTS, num_contexts)
        keep = np.asarray(cache.heldout.keep[start:stop])
        context, position = np.nonzero(keep)
        yield OrderedRows(context + start, position, cache.heldout.activations(hook, start, stop)[keep])
