"""The space that a stream takes at most, on disk and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.display import readable_bytes
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config_sections import StreamConfig

MARGIN = 1.02
"""Bytes of a pool's rows on disk, at most, over those in memory: incompressible rows have checksums and indices."""
OTHER_BYTES = 2**20
"""Bytes of a pool's other files, at most."""


@dataclass(frozen=True)
class Space:
    """Bytes that a stream takes at most."""

    head_bytes: int
    """of the first pool and the held-out part, which stay on disk"""
    pool_bytes: int
    most_pools: int
    """later pools that may be on disk at a time"""
    row_bytes: int
    """of one pool's rows in memory"""
    ranks: int

    @classmethod
    def of(cls, settings: StreamConfig, config: HarvestConfig, widths: Mapping[str, int]) -> Self:
        """Computes the space of a stream.

        Raises:
            ConfigError: if its space does not hold two pools, one to be read and one to be written.
        """
        bytes_per_row = 12 + sum(2 * width + 4 for width in widths.values())
        row_bytes = config.pool_rows * bytes_per_row
        pool_bytes = int(MARGIN * row_bytes) + OTHER_BYTES
        most_pools = int(settings.gb * 1e9 / pool_bytes)
        if most_pools < 2:
            raise ConfigError(
                f"stream.gb {settings.gb:g} is less than two pools of {readable_bytes(pool_bytes)}",
                hint=f"gb: {1.01 * 2e-9 * pool_bytes:.3g}, or a smaller pool_shards in the harvest",
            )
        head_bytes = pool_bytes + int(MARGIN * config.heldout_tokens * bytes_per_row)
        return cls(head_bytes, pool_bytes, most_pools, row_bytes, settings.ranks)

    @property
    def pools_bytes(self) -> int:
        """Bytes on disk of as many pools as there may be."""
        return self.most_pools * self.pool_bytes

    def sentence(self) -> str:
        """Says what is bounded by how much."""
        waiting = f"{self.most_pools} pools of {readable_bytes(self.pool_bytes)}"
        return (
            f"the stream holds at most {waiting} on disk, {readable_bytes(self.pools_bytes)} in all, and keeps a head "
            f"of {readable_bytes(self.head_bytes)}; the harvest holds two pools in memory, "
            f"{readable_bytes(2 * self.row_bytes)}{', on each rank' if self.ranks > 1 else ''}, besides its model"
        )
