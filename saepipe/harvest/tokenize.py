"""Turns documents into windows of token ids; each window is full, and nothing is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    stored: np.ndarray
    """(context_size,) bool: tokens whose rows are stored, unless they are special"""


class Packer:
    """Cuts a stream of documents into windows.

    Every window starts with BOS. A document that does not fit continues in the next window, after that window's BOS.
    With `separate`, BOS also separates documents within a window; attention crosses it. (This is the convention of
    SAELens' ActivationsStore.) Without a BOS, documents follow each other as they are.
    """

    def __init__(self, context_size: int, bos_id: int | None, *, separate: bool) -> None:
        self._context_size, self._separate = context_size, separate
        self._bos = np.array([] if bos_id is None else [bos_id], np.int64)
        self._ids: list[np.ndarray] = []
        self._documents: list[np.ndarray] = []
        self._stored: list[np.ndarray] = []
        self._free = context_size

    def add(self, ids: np.ndarray, document: int, stored: np.ndarray | None = None) -> Iterator[Window]:
        """Adds a document's ids (tokens,), but not a second BOS; yields the windows that it completes.

        `stored` (tokens,) is whether each token's row is stored; None: all.
        """
        stored = np.ones(len(ids), bool) if stored is None else stored
        if np.isin(ids[:1], self._bos).any():
            ids, stored = ids[1:], stored[1:]
        bos = self._bos, np.zeros(len(self._bos), bool)
        if len(ids) and self._free < self._context_size and self._separate:
            yield from self._put(*bos, document)
        start = 0
        while start < len(ids):
            if self._free == self._context_size:
                yield from self._put(*bos, document)
            stop = start + self._free
            yield from self._put(ids[start:stop], stored[start:stop], document)
            start = stop

    def _put(self, ids: np.ndarray, stored: np.ndarray, document: int) -> Iterator[Window]:
        self._ids.append(ids)
        self._documents.append(np.full(len(ids), document))
        self._stored.append(stored)
        self._free -= len(ids)
        if self._free == 0:
            parts = np.concatenate(self._ids), np.concatenate(self._documents), np.concatenate(self._stored)
            yield Window(parts[0].astype(np.int32), parts[1].astype(np.int32), parts[2])
            self._ids, self._documents, self._stored, self._free = [], [], [], self._context_size


@dataclass(frozen=True)
class Tokenised:
    """A document's tokens."""

    document: Document
    ids: np.ndarray
    """(tokens,) int64, without special tokens"""
    stored: np.ndarray | None
    """(tokens,) bool: whether a token has a character of the spans to store; None: all"""


def tokenise(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenised]:
    """Tokenises documents of text, and passes the ids of others on."""
    stream, count = iter(documents), _FIRST_DOCUMENTS
    while batch := list(islice(stream, count)):
        count = min(2 * count, _DOCUMENTS_AT_ONCE)
        texts = [document.text for document in batch if document.text is not None]
        with_offsets = any(document.stored is not None for document in batch)
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=with_offsets) if texts else {}
        ids, offsets = iter(encoded.get("input_ids", ())), iter(encoded.get("offset_mapping", ()))
        for document in batch:
            own = next(ids) if document.text is not None else document.ids
            stored = _stored(document, next(offsets)) if with_offsets else None
            yield Tokenised(document, np.asarray(own, np.int64), stored)


def _stored(document: Document, offsets: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """Returns which tokens, of the text at these offsets, have a character of the document's spans to store."""
    if document.stored is None:
        return None
    start, end = np.array(offsets, np.int64).reshape(-1, 2).T
    stored = np.zeros(len(start), bool)
    for first, last in document.stored:
        stored |= (start < last) & (end > first)
    return stored


def pack(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_size: int,
    bos_id: int | None,
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
    for tokens in tokenise(documents, tokenizer):
        split: Split = "heldout" if tokens.document.heldout_score < heldout_share else "train"
        for window in packers[split].add(tokens.ids, tokens.document.number, tokens.stored):
            yield split, window
