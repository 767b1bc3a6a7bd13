"""A rolling cache as the training sees it: the head, whose training rows go on for as long as the harvest does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.rolling.open_pools import OpenPools
from saepipe.data.rolling.rolling_rows import RollingRows

Harvesting = Callable[[], AbstractContextManager[Callable[[], bool]]]
"""Harvests pools from the first that is needed on, until it is left; yields a function that returns whether it goes
on, and raises what has ended it."""


@dataclass(frozen=True, repr=False)
class RollingCache(Cache):
    """The head, a finished cache by itself, with all training rows that there will be; all else is the head's.

    Rows behind the head can be read while the cache is `coming_from` a row at or before them.
    """

    pools: OpenPools
    harvesting: Harvesting

    @classmethod
    def of(cls, head: Cache, pools: OpenPools, harvesting: Harvesting) -> RollingCache:
        """Continues a head that holds whole pools."""
        own = {field.name: getattr(head, field.name) for field in fields(head)}
        return cls(**own, pools=pools, harvesting=harvesting)

    @property
    def pool_rows(self) -> int:
        return self.pools.pool_rows

    def rows(self, hook: str) -> MappedRows:
        return RollingRows(super().rows(hook), hook, self.pools)

    @contextmanager
    def coming_from(self, row: int) -> Iterator[OpenPools]:
        """Lets the pools from that of `row` on be made while this is entered; those of the head are there.

        None is left when it ends without an error.
        """
        num_in_head = super().rows(self.hooks[0]).num_rows
        self.pools.need_from(max(row, num_in_head) // self.pool_rows)
        with self.harvesting() as goes_on:
            self.pools.goes_on = goes_on
            try:
                yield self.pools
            finally:
                self.pools.stop_waiting()
        self.pools.pass_all()
