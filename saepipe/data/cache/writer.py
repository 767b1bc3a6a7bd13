"""Writes a cache shard by shard: encoded and written on threads, listed in the manifest in order, sealed at the end.

A pool of shards is the unit of shuffle and of resume: what the manifest does not list as part of a whole pool is
dropped and made again.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.cache.cache import Layout, Split
from saepipe.data.cache.hook_writer import HookWriter
from saepipe.data.cache.int8 import SNR_FLOOR, Snr
from saepipe.data.cache.shards import RowArray, describe_shard
from saepipe.data.errors import HealthError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line

_DATA_FOLDERS = ("acts", "int8", "norm", "context_id", "position", "contexts", "documents", "keep", "heldout", "stats")


@dataclass(frozen=True)
class RowPool:
    """Rows that are shuffled together and written as whole shards.

    arrays: by array name, (num_rows, ...). order: (num_rows,) int64, which row goes to each place.
    facts: what its manifest line keeps (the cursor from which the next pool is made, counts).
    """

    split: Split
    number: int
    arrays: Mapping[str, np.ndarray]
    order: np.ndarray
    facts: Mapping[str, Any]


class CacheWriter:
    """A half-made cache. The caller holds the folder's `writer_lock`, and closes the writer."""

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        pool_rows: Mapping[Split, int],
        *,
        threads: int = 4,
        snr_floor: float = SNR_FLOOR,
    ) -> None:
        """
        Args:
            folder: an empty or half-made cache.
            layout: of its arrays.
            pool_rows: rows a pool of each split holds, whole shards; the last pool may hold fewer.
            threads: encoders.
            snr_floor: dB that `int8` must reach in the ordinary channels, in the first pool and in all.
        """
        self.folder, self.layout, self.pool_rows, self.snr_floor = folder, layout, pool_rows, snr_floor
        self.bytes_written = 0
        self._lines = _whole_pools(folder, artifact.read_manifest(folder))
        self._contexts: list[Line] = []
        self._hooks = {f"acts/{hook}": HookWriter(folder, layout, hook) for hook in layout.hooks}
        self._encoders = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._pending: Future[None] | None = None

    def close(self) -> None:
        """Stops the threads; what is not listed by then will be made again."""
        self._encoders.shutdown(wait=True, cancel_futures=True)
        self._lister.shutdown(wait=True, cancel_futures=True)

    def pools(self, split: Split) -> list[Line]:
        """The manifest lines of the whole pools written so far, in order; there may be gaps between them."""
        pools = [line for line in self._lines if line["kind"] == "pool" and line["split"] == split]
        return sorted(pools, key=lambda line: line["pool"])

    def drop_short_pools(self) -> None:
        """Forgets last pools that are not full, so that an extended cache has the same pools as one made at once."""
        short = {
            (line["split"], line["pool"])
            for split in self.pool_rows
            for line in self.pools(split)
            if line["num_rows"] < self.pool_rows[split]
        }
        self._lines = [line for line in self._lines if (line["split"], line["pool"]) not in short]

    def start(self, attributes: Mapping[str, Any]) -> None:
        """Begins or goes on: writes the group's attributes, drops what belongs to no whole pool.

        Raises:
            HealthError: if the rows that are there lie below the floor of `int8`.
        """
        (self.folder / artifact.COMMITTED).unlink(missing_ok=True)  # a cache that is extended is unfinished again
        self._write_group(attributes)  # before all else: it says to a later harvest what the folder is
        artifact.rewrite_manifest(self.folder, self._lines)
        listed = {name for line in self._lines for name in line["files"]}
        for name in _data_files(self.folder):
            if name not in listed:
                (self.folder / name).unlink()
        self._snr()

    def put(self, pool: RowPool) -> None:
        """Queues a pool. Waits while the one before it is still being written, so memory stays bounded."""
        self.wait()
        size = self.layout.shard_rows
        for name, hook in self._hooks.items():
            if pool.split == "train" and not hook.settled:
                hook.settle(pool.arrays[name][pool.order[:size]], self._train_shards())
        starts = range(0, len(pool.order), size)
        shards = [self._encoders.submit(self._write_shard, pool, start) for start in starts]
        self._pending = self._lister.submit(self._list, pool, shards)

    def wait(self) -> None:
        """Until all that was put is listed; raises what went wrong while it was written.

        Raises:
            HealthError: if `int8` loses more of the first pool than the floor allows.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def log(self, **facts: Any) -> None:
        """Appends to a log of times and places that no digest covers."""
        where = {"time": time.time(), "host": platform.node(), "pid": os.getpid(), "bytes": self.bytes_written}
        with (self.folder / artifact.LOG / "harvest.jsonl").open("a") as file:
            file.write(json.dumps({**where, **facts}) + "\n")

    def put_contexts(self, split: Split, shard: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes shard `shard` of a split's contexts: by name, the arrays of `Layout.contexts`.

        Contexts cost no forward pass. They are listed when the cache is finished, and written again on resume.
        """
        files: dict[str, Any] = {}
        for name, array in self.layout.contexts(split).items():
            files |= self._write_rows(array, shard, arrays[name])
        num_contexts = len(next(iter(arrays.values())))
        self._contexts.append({"kind": "contexts", "split": split, "num_contexts": num_contexts, "files": files})

    def finish(self, attributes: Mapping[str, Any]) -> str:
        """Writes statistics and metadata with the final `attributes`, lists every file, and seals the cache.

        Returns:
            The cache's fingerprint.

        Raises:
            HealthError: if `int8` loses more than the floor allows; the cache is not sealed.
        """
        self.wait()
        snr = {hook: asdict(found) for hook, found in self._snr().items()}
        self._write_group({**attributes, "int8_snr_db": snr} if snr else attributes)
        for split in self.pool_rows:
            num_contexts = sum(line["num_contexts"] for line in self._contexts if line["split"] == split)
            num_rows = sum(line["num_rows"] for line in self.pools(split))
            self._describe(self.layout.contexts(split), num_contexts)
            self._describe(self.layout.rows(split), num_rows)
        lines = sorted(self._lines, key=_place)
        for hook in self._hooks.values():
            hook.describe(self._train_shards())
        lines += sorted(self._contexts, key=lambda line: line["split"], reverse=True)
        listed = {name for line in lines for name in line["files"]}
        rest = {"zarr.json", *_data_files(self.folder)} - listed
        lines.append({"kind": "metadata", "files": artifact.digest_files(self.folder, rest)})
        artifact.rewrite_manifest(self.folder, lines)
        return artifact.commit(self.folder)

    def _write_group(self, attributes: Mapping[str, Any]) -> None:
        """The group's zarr.json in one piece; zarr-python writes it twice, at first without attributes."""
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"saepipe": dict(attributes)}}
        artifact.write_json(self.folder / "zarr.json", group)

    def _describe(self, arrays: Mapping[str, RowArray], num_rows: int) -> None:
        if num_rows:
            for array in arrays.values():
                array.describe(self.folder, num_rows)

    def _write_shard(self, pool: RowPool, start: int) -> Line:
        order = pool.order[start : start + self.layout.shard_rows]
        shard = (pool.number * self.pool_rows[pool.split] + start) // self.layout.shard_rows
        files: dict[str, Any] = {}
        arrays = self.layout.rows(pool.split)
        for name, values in pool.arrays.items():
            rows = values[order]
            parts = self._hooks[name].shard(shard, rows) if name in self._hooks else [(arrays[name], rows)]
            for array, part in parts:
                files |= self._write_rows(array, shard, part)
        place = {"split": pool.split, "pool": pool.number, "shard": shard, "num_rows": len(order)}
        return {"kind": "shard", **place, "files": files}

    def _write_rows(self, array: RowArray, shard: int, rows: np.ndarray) -> dict[str, Any]:
        data = array.encode(rows)
        name = array.file(shard)
        artifact.write_file(self.folder / name, data)
        self.bytes_written += len(data)
        return {name: {**artifact.digest_bytes(data), **describe_shard(array, data)}}

    def _list(self, pool: RowPool, shards: list[Future[Line]]) -> None:
        lines = [shard.result() for shard in shards]
        place = {"split": pool.split, "pool": pool.number, "num_rows": len(pool.order)}
        lines.append({"kind": "pool", **place, **pool.facts, "files": {}})
        for line in lines:
            artifact.append_manifest(self.folder, line)
        self._lines += lines
        if pool.split == "train" and pool.number == 0:  # rather than hours later
            self._snr()

    def _train_shards(self) -> list[Line]:
        """The lines of training shards, in order."""
        shards = [line for line in self._lines if line["kind"] == "shard" and line["split"] == "train"]
        return sorted(shards, key=lambda line: line["shard"])

    def _snr(self) -> dict[str, Snr]:
        """By hook, of the `int8` rows listed so far."""
        lines = self._train_shards()
        found = {name.removeprefix("acts/"): hook.snr(lines) for name, hook in self._hooks.items()}
        for name, snr in found.items():
            if snr is not None and not snr.reaches(self.snr_floor):
                raise HealthError(
                    f"codec int8 loses too much at {name}: {snr}; the floor is {self.snr_floor:g} dB in the ordinary",
                    hint="codec: lossless; or a lower int8_snr_floor, if that will do",
                )
        return {name: snr for name, snr in found.items() if snr is not None}


def _whole_pools(folder: Path, lines: list[Line]) -> list[Line]:
    """The lines of shards whose pool is listed as whole, and is, by its files' sizes; and of those pools."""
    whole = {(line["split"], line["pool"]) for line in lines if line["kind"] == "pool"}
    kept = [line for line in lines if (line.get("split"), line.get("pool")) in whole]
    broken = {
        (line["split"], line["pool"]) for line in kept for _ in artifact.damaged_files(folder, [line], hashes=False)
    }
    return [line for line in kept if (line["split"], line["pool"]) not in broken]


def _place(line: Line) -> tuple[bool, int, bool]:
    """Training before held-out, pool by pool, shards before the line that closes their pool."""
    return line["split"] != "train", line["pool"], line["kind"] == "pool"


def _data_files(folder: Path) -> list[str]:
    roots = (folder / name for name in _DATA_FOLDERS)
    return [str(path.relative_to(folder)) for root in roots for path in root.rglob("*") if path.is_file()]
