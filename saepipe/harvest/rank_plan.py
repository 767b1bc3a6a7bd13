"""Share of one rank in a harvest: pools, shards, bytes, memory, time and price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from saepipe.data.batches.rank_memory import Measured, RankMemory
from saepipe.data.terminal.display import readable_bytes, readable_time
from saepipe.harvest.batch_size import pool_bytes
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel

_KEPT_BYTES = 2**25
"""Largest array that the C library keeps in a thread once it was freed; larger ones are returned."""


@dataclass(frozen=True)
class RankPlan:
    """What the first rank has to do, which has as many pools as any. It alone reads the text."""

    ranks: int
    pools: int
    """of training and held-out rows, of all ranks"""
    pools_of_a_rank: int
    shards_of_a_rank: int
    """at all hooks"""
    bytes_of_a_rank: int
    """on disk"""
    seconds: float
    """until the last rank has ended, each as fast as this machine is now"""
    waits_for_text: bool
    """whether reading takes longer than the passes of a rank, so that more ranks would not help"""
    rank_hours: float
    cost: str | None
    """of those hours, if the config has a rate"""

    @classmethod
    def of(
        cls, config: HarvestConfig, ranks: int, rows: tuple[int, int], num_bytes: int, times: tuple[float, float]
    ) -> Self:
        """Plans the ranks of a harvest.

        Args:
            config: the harvest.
            ranks: number of ranks.
            rows: training and held-out rows.
            num_bytes: of all shards on disk.
            times: seconds of all passes, and of reading the text, by this machine.
        """
        pools = [_pools(rows[0], config.pool_rows), _pools(rows[1], config.shard_rows)]
        own = [num_rows for split in pools for num_rows in split[::ranks]]
        share = sum(own) / max(1, sum(rows))
        passes, reading = share * times[0], times[1]
        seconds = max(passes, reading)
        hours = ranks * seconds / 3600
        return cls(
            ranks=ranks,
            pools=sum(map(len, pools)),
            pools_of_a_rank=len(own),
            shards_of_a_rank=len(config.hooks) * sum(-(-num_rows // config.shard_rows) for num_rows in own),
            bytes_of_a_rank=int(share * num_bytes),
            seconds=round(seconds, 1),
            waits_for_text=reading > passes,
            rank_hours=hours,
            cost=config.cost.price(hours) if config.cost else None,
        )

    def sentence(self) -> str:
        """Returns the share of a rank and the time of all, for people."""
        price = f", {self.cost}" if self.cost else ""
        time = f"{readable_time(self.seconds)}, {self.rank_hours:.3g} hours of ranks{price}"
        if self.ranks == 1:
            return time
        waits = "; they wait for the text, which one rank reads" if self.waits_for_text else ""
        share = f"{self.pools_of_a_rank} of {self.pools} pools, {self.shards_of_a_rank} shards, "
        size = readable_bytes(self.bytes_of_a_rank)
        return f"{self.ranks}, each as fast as this machine: {time}; up to {share}{size} each{waits}"


def _pools(num_rows: int, pool_rows: int) -> list[int]:
    """Returns the rows of each pool; the ranks take the pools in turn."""
    return [min(pool_rows, num_rows - start) for start in range(0, num_rows, pool_rows)]


def rank_memory(config: HarvestConfig, lm: LanguageModel, measured: Measured, ratio: float) -> RankMemory:
    """Returns the memory of a rank: that of passes, as measured, two pools, and what the encoders work in.

    Args:
        config: the harvest.
        lm: its model.
        measured: peak of passes, with the program and the model.
        ratio: at which a shard is compressed.
    """
    widths = lm.widths(config.hook_points)
    shard = 2 * config.shard_rows * max(widths.values())
    busy = config.encoders if shard <= _KEPT_BYTES else min(config.encoders, config.pool_shards)
    encoding = int(busy * shard * (1 + 2 / ratio))  # rows in their stored order, encoded chunks, and these as one
    host = measured.host + pool_bytes(config, widths) + encoding
    return RankMemory.of(lm.model.device, host=host, on_device=measured.device)
