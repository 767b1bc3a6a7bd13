"""Turns documents into windows of token ids; each window is full and starts with BOS, and nothing is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from saepipe.data.cache.layout import Split
from saepipe.harvest.text import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIRST_DOCUMENTS, _DOCUMENTS_AT_ONCE = 32, 512
"""Documents that are tokenised together, at first few, so that the first pass of the model begins soon."""


@dataclass(frozen=True)
class Window:
    """A context: token ids, and the number of the document that each belongs to, both (context_size,) int32."""

    ids: np.ndarray
    documents: np.ndarray


class Packer:
    """Cuts a stream of documents into windows.

    A document that does not fit continues in the next window, after that window's BOS. With `separate`, BOS also
    separates documents within a window; attention crosses it. (This is the convention of SAELens' ActivationsStore.)
    """

    def __init__(self, context_size: int, bos_id: int, *, separate: bool) -> None:
        self._context_size, self._bos_id, self._separate = context_size, bos_id, separate
        self._ids: list[np.ndarray] = []
        self._documents: list[np.ndarray] = []
        self._free = context_size

    def add(self, ids: np.ndarray, document: int) -> Iterator[Window]:
        """Adds a document's ids (tokens,), but not a second BOS; yields the windows that it completes."""
        ids = ids[1:] if len(ids) and ids[0] == self._bos_id else ids
        if len(ids) and self._free < self._context_size and self._separate:
            yield from self._put(np.array([self._bos_id]), document)
        start = 0
        while start < len(ids):
            if self._free == self._context_size:
                yield from self._put(np.array([self._bos_id]), document)
            part = ids[start : start + self._free]
            yield from self._put(part, document)
            start += len(part)

    def _put(self, ids: np.ndarray, document: int) -> Iterator[Window]:
        self._ids.append(ids)
        self._documents.append(np.full(len(ids), document))
        self._free -= len(ids)
        if self._free == 0:
            yield Window(np.concatenate(self._ids).astype(np.int32), np.concatenate(self._documents).astype(np.int32))
            self._ids, self._documents, self._free = [], [], self._context_size


def tokenise(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Document, np.ndarray]]:
    """Yields each document with its ids, (tokens,) int64, without special tokens."""
    stream, count = iter(documents), _FIRST_DOCUMENTS
    while batch := list(islice(stream, count)):
        count = min(2 * count, _DOCUMENTS_AT_ONCE)
        texts = [document.text for document in batch if document.text is not None]
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
        for document in batch:
            ids = next(encoded) if document.text is not None else document.ids
            yield document, np.asarray(ids, np.int64)


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_size: int,
    bos_id: int,
    separate: bool,
    heldout_share: float,
) -> Iterator[tuple[Split, Window]]:
    """Yields windows of training and of held-out documents, packed separately, in the order in which they fill.

    A last window that is not full is dropped: at most one per split.
    """
    packers: dict[Split, Packer] = {
        "train": Packer(context_size, bos_id, separate=separate),
        "heldout": Packer(context_size, bos_id, separate=separate),
    }
    for document, ids in tokenise(documents, tokenizer):
        split: Split = "heldout" if document.heldout_score < heldout_share else "train"
        for window in packers[split].add(ids, document.number):
            yield split, window
