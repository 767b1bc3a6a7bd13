"""The pools of a rolling cache that a training reads: waited for, opened for any thread, and removed once passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.coming_rows import ComingRows, WaitEnded
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError, Stopped
from saepipe.data.rolling.rolling_folder import RollingFolder

_POLL_SECONDS = 0.02


class OpenPools(ComingRows):
    """The pools behind the head of a rolling cache. Thread-safe."""

    def __init__(self, folder: RollingFolder, pool_rows: int, num_rows: int) -> None:
        """
        Args:
            folder: where the pools come and go.
            pool_rows: rows of a full pool.
            num_rows: rows of all pools, those of the head included; the last one may be short.
        """
        self.folder, self.pool_rows, self.num_rows = folder, pool_rows, num_rows
        self._first = 0
        self._open: dict[tuple[int, str], MappedRows] = {}
        self._lock, self._stopped = Lock(), Event()
        self.goes_on: Callable[[], bool] = lambda: True
        """returns whether the harvest does, and raises what has ended it"""

    def need_from(self, number: int) -> None:
        """Says which pool is needed first."""
        self._first = number
        self._stopped.clear()
        self.folder.need_from(number)

    def pass_rows(self, num_rows: int) -> None:
        """Removes the pools whose rows are all among the first `num_rows`."""
        if (number := num_rows // self.pool_rows) > self._first:
            self._pass_pools(number)

    def pass_all(self) -> None:
        """Removes all pools."""
        self._pass_pools(-(-self.num_rows // self.pool_rows))

    def _pass_pools(self, number: int) -> None:
        """Removes the pools before `number`."""
        with self._lock:  # closes their files, since an open one keeps its space
            self._open = {key: rows for key, rows in self._open.items() if key[0] >= number}
        self._first = number
        self.folder.need_from(number)

    def stop_waiting(self) -> None:
        """Lets every wait for a pool end."""
        self._stopped.set()

    def is_here(self, number: int) -> bool:
        return self.folder.is_made(number)

    def rows(self, number: int, hook: str) -> MappedRows:
        """Waits for a pool, and returns its rows at a hook.

        Raises:
            WaitEnded: if it will not come, or is not full because the text has ended.
        """
        if (rows := self._open.get((number, hook))) is not None:
            return rows
        self._wait_for(number)
        with self._lock:
            if (number, hook) not in self._open:
                self._open[number, hook] = self._checked(number, Cache.open(self.folder.pool(number))).rows(hook)
            return self._open[number, hook]

    def _wait_for(self, number: int) -> None:
        while not self.is_here(number):
            if self._stopped.is_set():
                raise WaitEnded
            if not self._harvest_goes_on() and not self.is_here(number):
                raise self._text_ended(sum(line["num_rows"] for line in self.folder.lines()))
            time.sleep(_POLL_SECONDS)

    def _harvest_goes_on(self) -> bool:
        try:
            return self.goes_on()
        except (Exception, Stopped) as error:
            raise WaitEnded(error) from error

    def _checked(self, number: int, cache: Cache) -> Cache:
        """Returns the cache of a pool; raises WaitEnded if it is shorter than the training counts on."""
        if cache.num_tokens == min(self.pool_rows, self.num_rows - number * self.pool_rows):
            return cache
        raise self._text_ended(number * self.pool_rows + cache.num_tokens)

    def _text_ended(self, num_rows: int) -> WaitEnded:
        problem = f"the text ended after {num_rows:,} of the {self.num_rows:,} training tokens of the stream"
        hint = f"set num_tokens: {num_rows} in the harvest, and train for as many in another --out"
        return WaitEnded(ConfigError(problem, hint=hint))
