"""A thread of the first rank that reads the text once, and hands the windows of every missing pool to its owner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from threading import Event
from typing import Protocol, Self

from saepipe.data.cache.layout import Split
from saepipe.data.workers import Workers
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.pool_text import TextFolder, pool_texts
from saepipe.harvest.pools import SplitSpec
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.split_specs import heldout_split, train_split

_POLL_SECONDS = 0.2


class Text(Protocol):
    """The text of a harvest, read once from its start: `Reading`, or that of a rolling cache."""

    @property
    def num_heldout_windows(self) -> int: ...

    def train_batches(self) -> Iterator[WindowBatch]: ...

    def fill_heldout(self) -> None: ...

    def heldout_batches(self) -> Iterator[WindowBatch]: ...


class HandingOut:
    """Reads while it is entered; leaving it ends the reading after the batch at hand."""

    def __init__(
        self,
        config: HarvestConfig,
        lm: LanguageModel,
        reading: Text,
        texts: TextFolder,
        stored: Mapping[Split, set[int]],
        start: Callable[[], None],
        most_waiting: int,
    ) -> None:
        """
        Args:
            config: the harvest.
            lm: its model.
            reading: of the text.
            texts: receives the text of each pool.
            stored: numbers of the pools that need none.
            start: begins the cache; called once, when the text of the stored pools was compared.
            most_waiting: texts that may wait for their owners before the reading pauses.
        """
        self._config, self._lm, self._reading, self._texts = config, lm, reading, texts
        self._stored, self._start, self._most_waiting = stored, start, most_waiting
        self._begun, self._stopped = Event(), Event()
        self.num_pools: dict[Split, int] = {}
        """pools by split, stored ones included; complete after `wait`"""

    def __enter__(self) -> Self:
        self._workers = Workers(1, "read the text")
        self._done: Future[None] = self._workers.submit(self._read)
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._workers.close()

    def look(self) -> None:
        """Raises the error that has ended the reading, if there is one."""
        if self._done.done():
            self._workers.result(self._done)

    def wait_until_begun(self) -> None:
        while not self._begun.is_set():
            self.look()
            time.sleep(_POLL_SECONDS)

    def wait(self) -> None:
        """Waits until all text is handed out."""
        self._workers.result(self._done)

    def _read(self) -> None:
        special = self._lm.special_ids
        train = train_split(self._config)
        self._hand_out(train, self._reading.train_batches(), lambda batch: int(batch.keep(special).sum()))
        self._reading.fill_heldout()
        heldout = heldout_split(self._config, self._reading.num_heldout_windows)
        self._hand_out(heldout, self._reading.heldout_batches(), lambda batch: batch.ids.size)

    def _hand_out(
        self, spec: SplitSpec, batches: Iterator[WindowBatch], num_rows: Callable[[WindowBatch], int]
    ) -> None:
        self.num_pools[spec.split] = 0
        for text in pool_texts(spec, self._until_stopped(batches), num_rows):
            if self._stopped.is_set():  # the text was cut short, and so may be this pool's
                return
            self.num_pools[spec.split] += 1
            if text.begin.pools not in self._stored[spec.split]:
                self._begin()
                self._texts.put(spec.split, text)
                self._pause()
        if not self._stopped.is_set():
            self._begin()
            self._texts.end(spec.split)

    def _until_stopped(self, batches: Iterator[WindowBatch]) -> Iterator[WindowBatch]:
        for batch in batches:
            yield batch
            if self._stopped.is_set():
                return

    def _pause(self) -> None:
        """Waits while many texts wait for their owners; asked once a pool, since it lists all texts that wait."""
        pauses = self._texts.pauses()
        while self._texts.num_waiting() >= self._most_waiting and not self._stopped.is_set():
            time.sleep(next(pauses))

    def _begin(self) -> None:
        if not self._begun.is_set():
            self._start()
            self._begun.set()
