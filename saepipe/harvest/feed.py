"""Feeds windows to the model: batches of training windows, held-out windows set aside, contexts written."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xxhash

from saepipe.data.cache.layout import Layout, Split
from saepipe.data.cache.writer import CacheWriter
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.tokenize import Window

_READ_AHEAD = 3
"""Batches that are read before they are asked for; they come in bursts, since many documents are tokenised at once."""


@dataclass(frozen=True)
class _Read:
    """A training batch, and the held-out windows that were read along with it."""

    batch: WindowBatch
    heldout: list[Window]


class WindowFeed:
    """Yields training batches, and collects up to `max_heldout` held-out windows meanwhile in `heldout`."""

    def __init__(
        self,
        windows: Iterator[tuple[Split, Window]],
        batch_size: int,
        max_heldout: int,
        *,
        digest: bool = True,
        marks_stored: bool = False,
    ) -> None:
        """
        Args:
            windows: of the text.
            batch_size: windows per batch.
            max_heldout: held-out windows to set aside.
            digest: whether training batches carry the digest of what was read until their end.
            marks_stored: whether that covers which tokens are stored; not in caches that store all.
        """
        self._windows, self._batch_size, self._max_heldout = windows, batch_size, max_heldout
        self._digest, self._marks_stored = digest, marks_stored
        self.heldout: list[Window] = []
        self.num_documents = 0
        """documents of the training text up to the last one that was yielded"""

    def train_batches(self) -> Generator[WindowBatch]:
        """Yields batches in order; a thread reads and tokenises the next ones while the caller uses this one.

        A batch's held-out windows are set aside when it is yielded, so that they depend only on the config.
        """
        reads, reader = self._reads(), ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        queue = deque(reader.submit(next, reads, None) for _ in range(_READ_AHEAD))
        try:
            while (read := queue.popleft().result()) is not None:
                queue.append(reader.submit(next, reads, None))
                self.heldout += read.heldout[: self._max_heldout - len(self.heldout)]
                self.num_documents = int(read.batch.documents.max()) + 1
                yield read.batch
        finally:
            reader.shutdown(cancel_futures=True)

    def heldout_batches(self) -> Iterator[WindowBatch]:
        for first in range(0, len(self.heldout), self._batch_size):
            yield WindowBatch.of(first, self.heldout[first : first + self._batch_size])

    def _reads(self) -> Iterator[_Read]:
        train: list[Window] = []
        heldout: list[Window] = []
        first, state = 0, xxhash.xxh3_128()

        def read() -> _Read:
            if not self._digest:
                return _Read(WindowBatch.of(first, train), heldout)
            state.update(f"{len(train)} {len(heldout)} ".encode())
            for window in (*train, *heldout):
                state.update(window.ids.tobytes())
                state.update(window.documents.tobytes())
                if self._marks_stored:
                    state.update(window.stored.tobytes())
            return _Read(WindowBatch.of(first, train, state.hexdigest()), heldout)

        for split, window in self._windows:
            (train if split == "train" else heldout).append(window)
            if len(train) == self._batch_size:
                yield read()
                first, train, heldout = first + len(train), [], []
        if train:
            yield read()


class ContextShards:
    """Collects a split's contexts and hands them to the cache shard by shard."""

    def __init__(self, writer: CacheWriter, split: Split, special_ids: frozenset[int]) -> None:
        self._writer, self._split, self._special_ids = writer, split, special_ids
        self._batches: list[WindowBatch] = []
        self._num_written = 0
        self.num_contexts = 0

    def recorded(self, batches: Iterable[WindowBatch]) -> Iterator[WindowBatch]:
        """Yields the batches, and collects the contexts of each."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: WindowBatch) -> None:
        self._batches.append(batch)
        self.num_contexts += len(batch.ids)
        if self.num_contexts - self._num_written >= self._writer.layout.shard_rows:
            self._write(self._writer.layout.shard_rows)

    def close(self) -> None:
        """Writes the last, partial shard."""
        if self.num_contexts > self._num_written:
            self._write(self.num_contexts - self._num_written)

    def _write(self, count: int) -> None:
        ids = np.concatenate([batch.ids for batch in self._batches])
        documents = np.concatenate([batch.documents for batch in self._batches])
        keep = np.concatenate([batch.keep(self._special_ids) for batch in self._batches])
        shard = self._num_written // self._writer.layout.shard_rows
        arrays = {
            Layout.contexts(self._split): ids[:count],
            Layout.documents(self._split): documents[:count],
            Layout.keep(self._split): keep[:count],
        }
        self._writer.put_contexts(self._split, shard, arrays)
        rest = WindowBatch(0, ids[count:], documents[count:], stored=keep[count:])
        self._batches = [rest] if len(rest.ids) else []
        self._num_written += count
