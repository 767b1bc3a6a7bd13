"""Documents to windows of token ids: every window full and starting with BOS, nothing padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from saepipe.data.cache.cache import Split
from saepipe.harvest.text import Document

_DOCUMENTS_AT_ONCE = 512


@dataclass(frozen=True)
class Window:
    """One context: ids (context_size,) int32, and which document each is of, (context_size,) int32."""

    ids: np.ndarray
    documents: np.ndarray


class Packer:
    """Cuts a stream of documents into windows.

    A document that does not fit goes on in the next window, behind that window's BOS. With `separate`, BOS also
    stands between documents inside a window; attention crosses it. (The convention of SAELens' ActivationsStore.)
    """

    def __init__(self, context_size: int, bos_id: int, *, separate: bool) -> None:
        self._context_size, self._bos_id, self._separate = context_size, bos_id, separate
        self._ids: list[np.ndarray] = []
        self._documents: list[np.ndarray] = []
        self._free = context_size

    def add(self, ids: np.ndarray, document: int) -> Iterator[Window]:
        """Takes a document's ids, (tokens,), without special tokens; gives the windows that it completes."""
        if len(ids) and self._free < self._context_size and self._separate:
            yield from self._put(np.array([self._bos_id]), document)
        at = 0
        while at < len(ids):
            if self._free == self._context_size:
                yield from self._put(np.array([self._bos_id]), document)
            part = ids[at : at + self._free]
            yield from self._put(part, document)
            at += len(part)

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
    """Each document with its ids, (tokens,) int64, no special tokens added."""
    stream = iter(documents)
    while batch := list(islice(stream, _DOCUMENTS_AT_ONCE)):
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
    """Windows of training and of held-out documents, each packed on its own, in the order they fill.

    What is left in a window that the last document does not fill is dropped: at most one window a split.
    """
    packers: dict[Split, Packer] = {
        "train": Packer(context_size, bos_id, separate=separate),
        "heldout": Packer(context_size, bos_id, separate=separate),
    }
    for document, ids in tokenise(documents, tokenizer):
        split: Split = "heldout" if document.heldout_score < heldout_share else "train"
        for window in packers[split].add(ids, document.number):
            yield split, window
