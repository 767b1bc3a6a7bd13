"""What a cache keeps of the training rows at one hook: shard by shard as they come, and in sum at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zarr

from saepipe.data.cache.cache import Layout
from saepipe.data.cache.channel_moments import Moments
from saepipe.data.cache.int8 import Channels, Snr, quantise
from saepipe.data.cache.shards import MappedShard, RowArray
from saepipe.data.folders.artifact import Line

Part = tuple[RowArray, np.ndarray]
"""An array of the cache, and its values in one shard."""


class HookWriter:
    """Says what is to be written, and what was; the files are the CacheWriter's. Safe across threads once settled.

    Each shard's moments are stored beside its rows, and with `int8` what it lost, so that a resumed harvest has the
    same sums. Lines are those of the training shards, in order.
    """

    def __init__(self, folder: Path, layout: Layout, hook: str) -> None:
        self._folder, self._hook = folder, hook
        self._acts, self._frozen = layout.train_acts(hook), layout.channels(hook)
        packed = (len(Moments.FIELDS), layout.d_in)
        attributes = {"of": list(Moments.FIELDS)}
        self._moments = RowArray(f"stats/{hook}/shards", "float64", packed, 1, 1, "none", attributes)
        self._noise = RowArray(f"int8/{hook}/noise", "float64", (layout.d_in,), 1, 1, "none", {"of": "(x - x_hat)^2"})
        self._channels: Channels | None = None

    @property
    def settled(self) -> bool:
        """Whether shards may be written."""
        return not self._frozen or self._channels is not None

    def settle(self, bits: np.ndarray, lines: Sequence[Line]) -> None:
        """Freezes the channel statistics of `int8`: those of the first shard, which is `bits` or listed already."""
        if lines and lines[0]["shard"] == 0:
            self._channels = Channels(*(self._read(array, lines[0]) for array in self._frozen))
        else:
            self._channels = Channels.of(Moments.of(bits))

    def shard(self, number: int, bits: np.ndarray) -> Iterator[Part]:
        """What is stored of one shard's rows, (rows, d_in) uint16."""
        yield self._moments, Moments.of(bits).packed()[None]
        if self._channels is None:
            yield self._acts[0], bits
            return
        stored, noise = quantise(bits, self._channels)
        yield from zip(self._acts, stored.parts, strict=True)
        yield self._noise, noise[None]
        if number == 0:
            yield from zip(self._frozen, (self._channels.mean, self._channels.std), strict=True)

    def snr(self, lines: Sequence[Line]) -> Snr | None:
        """Of the shards listed; None unless they are `int8`."""
        if not self._frozen or not lines:
            return None
        noise = np.sum([self._read(self._noise, line)[0] for line in lines], axis=0)
        return Snr.of(self.moments(lines), noise)

    def moments(self, lines: Sequence[Line]) -> Moments:
        """Of all rows of the shards listed."""
        parts = ((self._read(self._moments, line)[0], line["num_rows"]) for line in lines)
        return Moments.merge(Moments.unpacked(packed, count) for packed, count in parts)

    def describe(self, lines: Sequence[Line]) -> None:
        """Writes the statistics of all shards, and the zarr.json of each shard's."""
        moments = self.moments(lines)
        self._moments.describe(self._folder, len(lines))
        group = zarr.open_group(self._folder / "stats" / self._hook, mode="a")
        for name in ("mean", "std", "absmax"):
            group.create_array(name, data=getattr(moments, name).astype(np.float32), overwrite=True)
        if self._frozen:
            self._noise.describe(self._folder, len(lines))
            for array in self._frozen:
                array.describe(self._folder, array.shard_rows)

    def _read(self, array: RowArray, line: Line) -> np.ndarray:
        """The one chunk of `array` in the shard that a line lists."""
        name = array.file(line["shard"])
        values = np.empty((array.chunk_rows, *array.row_shape), array.dtype)
        MappedShard(array, self._folder / name, line["files"][name]).read(0, values)
        return values
