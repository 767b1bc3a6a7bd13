"""The arrays of the training rows at one hook: their values in each shard, and totals over all shards at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import zarr

from saepipe.data.cache.channel_moments import Moments
from saepipe.data.cache.int8 import Channels, Snr, quantise
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.open_shard import open_shard
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import RowArray
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import Line
from saepipe.data.remote.fetchers import NUM_THREADS

_AHEAD = 2 * NUM_THREADS
"""Shards that are asked for before they are read."""

Part = tuple[RowArray, np.ndarray]
"""An array of the cache, and its values in one shard."""


class HookWriter:
    """Computes what to write for each shard, and reads totals back; CacheWriter writes the files. Thread-safe if ready.

    The moments of each shard, and its error with `int8`, are stored beside its rows, so that a resumed harvest gets
    the same totals. `lines` are always the manifest lines of the training shards, in order.
    """

    def __init__(self, folder: Path, layout: Layout, hook: str) -> None:
        self._folder, self._hook = folder, hook
        self._acts, self._frozen = layout.train_acts(hook), layout.channels(hook)
        self._moments, self._noise = layout.shard_moments(hook, Moments.FIELDS), layout.shard_noise(hook)
        self._channels: Channels | None = None

    @property
    def ready(self) -> bool:
        """Returns whether shards may be written."""
        return not self._frozen or self._channels is not None

    def freeze_channels(self, bits: np.ndarray, lines: Sequence[Line]) -> None:
        """Freezes the channel statistics of `int8`: those of the first shard, which is listed already or is `bits`."""
        if lines and lines[0]["shard"] == 0:
            self._channels = Channels(*(next(self._read_all(array, lines[:1])) for array in self._frozen))
        else:
            self._channels = Channels.of(Moments.of(bits))

    def shard(self, number: int, bits: np.ndarray) -> Iterator[Part]:
        """The arrays to write for one shard, from its rows (rows, d_in) uint16.

        Raises:
            CorruptDataError: if the rows are so large that their moments overflow.
        """
        moments = Moments.of(bits).packed()
        if not np.isfinite(moments).all():
            channel = int(np.argwhere(~np.isfinite(moments))[0][1])
            raise CorruptDataError(
                f"channel {channel} at {self._hook} has values up to {moments[-1, channel]:.3g} in shard {number}, "
                "whose variance overflows float32",
                hint="check the model: activations of that size mean that it diverges",
            )
        yield self._moments, moments[None]
        if self._channels is None:
            yield self._acts[0], bits
            return
        stored, noise = quantise(bits, self._channels)
        yield from zip(self._acts, stored.parts, strict=True)
        yield self._noise, noise[None]
        if number == 0:
            yield from zip(self._frozen, (self._channels.mean, self._channels.std), strict=True)

    def snr(self, lines: Sequence[Line]) -> Snr | None:
        """SNR of all rows of the listed shards; None unless they are `int8`."""
        if not self._frozen or not lines:
            return None
        noise = np.sum([values[0] for values in self._read_all(self._noise, lines)], axis=0)
        return Snr.of(self.moments(lines), noise)

    def moments(self, lines: Sequence[Line]) -> Moments:
        """Moments of all rows of the listed shards."""
        parts = zip(self._read_all(self._moments, lines), lines, strict=True)
        return Moments.merge(Moments.unpacked(values[0], line["num_rows"]) for values, line in parts)

    def describe(self, lines: Sequence[Line]) -> None:
        """Writes the statistics of all rows, and the zarr.json of the statistics per shard."""
        moments = self.moments(lines)
        self._moments.describe(self._folder, len(lines))
        group = zarr.open_group(self._folder / Layout.stats(self._hook), mode="a")
        for name in ("mean", "std", "absmax"):
            group.create_array(name, data=getattr(moments, name).astype(np.float32), overwrite=True)
        if self._frozen:
            self._noise.describe(self._folder, len(lines))
            for array in self._frozen:
                array.describe(self._folder, array.shard_rows)

    def _read_all(self, array: RowArray, lines: Sequence[Line]) -> Iterator[np.ndarray]:
        """Yields the only chunk of `array` in the shard that each line lists; some are fetched ahead from a bucket."""
        shards = (self._asked_for(array, line) for line in lines)
        ahead = deque(islice(shards, _AHEAD))
        while ahead:
            values = np.empty((array.chunk_rows, *array.row_shape), array.dtype)
            ahead.popleft().read(0, values)
            yield values
            ahead.extend(islice(shards, 1))

    def _asked_for(self, array: RowArray, line: Line) -> ShardReader:
        name = array.file(line["shard"])
        shard = open_shard(array, self._folder, name, line["files"][name])
        shard.will_need(0)
        return shard
