"""Writes a cache: threads encode and write its shards, the manifest lists them in order, and a seal ends it.

A pool of shards is the unit of shuffling and of resuming. Files that the manifest does not list as part of a complete
pool are deleted and made again.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.bucket_address import mirrored
from saepipe.data.cache import rank_manifests
from saepipe.data.cache.codecs import SNR_FLOOR
from saepipe.data.cache.hook_writer import HookWriter
from saepipe.data.cache.int8 import Snr
from saepipe.data.cache.layout import FOLDERS, Layout, Split
from saepipe.data.cache.shards import RowArray, describe_shard
from saepipe.data.cache.text_lines import text_lines
from saepipe.data.errors import HealthError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.folders.inside import inside
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import publish, send_files
from saepipe.data.workers import Workers


@dataclass(frozen=True)
class RowPool:
    """Rows that are shuffled together and written as whole shards.

    arrays: by array name, (num_rows, ...).
    order: (num_rows,) int64, the row to store at each index.
    facts: extra entries of the pool's manifest line (the position after the pool, counts).
    """

    split: Split
    number: int
    arrays: Mapping[str, np.ndarray]
    order: np.ndarray
    facts: Mapping[str, Any]


class CacheWriter:
    """An unfinished cache. The caller holds the folder's `writer_lock`, and closes the writer.

    Under torchrun every rank has a writer. That of the first rank starts and finishes the cache.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        pool_rows: Mapping[Split, int],
        *,
        threads: int = 4,
        snr_floor: float = SNR_FLOOR,
        rank: int = 0,
    ) -> None:
        """
        Args:
            folder: a new or unfinished cache.
            layout: the arrays to write.
            pool_rows: rows per pool of each split, a whole number of shards; the last pool may hold fewer.
            threads: number of encoder threads.
            snr_floor: dB that `int8` must reach in the ordinary channels, in the first pool and overall.
            rank: of this process among those that write the cache.
        """
        self.folder, self.layout, self.pool_rows, self.snr_floor = folder, layout, pool_rows, snr_floor
        self.bytes_written = 0
        self._rank = rank
        self._listed = rank_manifests.read_lines(folder)
        self._lines = _complete_pools(folder, self._listed)
        self._contexts: list[Line] = []
        self._hooks = {layout.acts(hook): HookWriter(folder, layout, hook) for hook in layout.hooks}
        self._encoders = Workers(threads, "encode")
        self._lister = Workers(1, "list shards")
        self._pending: Future[None] | None = None

    def close(self) -> None:
        """Stops the threads; pools that are not listed by then will be made again."""
        self._encoders.close()
        self._lister.close()

    @property
    def takes_any_pool(self) -> bool:
        """Returns whether another pool than the first may be put: `int8` needs the channel statistics of the first."""
        first = self._train_shards()[:1]
        return all(hook.ready for hook in self._hooks.values()) or any(line["shard"] == 0 for line in first)

    def pools(self, split: Split) -> list[Line]:
        """The manifest lines of the complete pools written so far, in order; there may be gaps between them."""
        pools = [line for line in self._lines if line["kind"] == "pool" and line["split"] == split]
        return sorted(pools, key=lambda line: line["pool"])

    def adopt(self) -> None:
        """Takes over the pools that other ranks have listed since; looks at the files of no others."""
        known = {(line["split"], line["pool"]) for line in self._lines}
        listed = rank_manifests.read_lines(self.folder, known)
        new = [line for line in listed if line["kind"] in ("shard", "pool")]
        new = [line for line in new if (line["split"], line["pool"]) not in known]
        # Objects are there once they are sent; a file system may show files of another machine later than their lines.
        self._lines += new if mirrored(self.folder) else _complete_pools(self.folder, new)

    def drop_short_pools(self) -> None:
        """Drops partial last pools, so that an extended cache has the same pools as one made in a single harvest."""
        short = {
            (line["split"], line["pool"])
            for split in self.pool_rows
            for line in self.pools(split)
            if line["num_rows"] < self.pool_rows[split]
        }
        self._lines = [line for line in self._lines if (line["split"], line["pool"]) not in short]

    def start(self, attributes: Mapping[str, Any]) -> None:
        """Starts or resumes: writes the group's attributes, and deletes files that belong to no complete pool.

        Contexts that were put before are kept.

        Raises:
            HealthError: if the stored rows are below the SNR floor of `int8`.
        """
        (self.folder / artifact.COMMITTED).unlink(missing_ok=True)  # a cache being extended is unfinished again
        self._write_group(attributes)  # first, because it tells a later harvest what this folder is
        artifact.rewrite_manifest(self.folder, [*self._lines, *text_lines(self._listed, self._lines)])
        listed = {name for line in (*self._lines, *self._contexts) for name in line["files"]}
        for name in _data_files(self.folder):
            if name not in listed:
                inside(self.folder, name).unlink()
        publish(self.folder)
        rank_manifests.remove(self.folder)
        self._check_snr()

    def put(self, pool: RowPool) -> None:
        """Queues a pool. Waits until the previous one is written, so that memory stays bounded."""
        self.wait()
        size = self.layout.shard_rows
        for name, hook in self._hooks.items():
            if pool.split == "train" and not hook.ready:
                hook.freeze_channels(pool.arrays[name][pool.order[:size]], self._train_shards())
        starts = range(0, len(pool.order), size)
        shards = [self._encoders.submit(self._write_shard, pool, start) for start in starts]
        self._pending = self._lister.submit(self._append_lines, pool, shards)

    def wait(self) -> None:
        """Waits until all queued pools are listed; raises any error from the writing threads.

        Raises:
            HealthError: if `int8` loses more of the first pool than the floor allows.
        """
        if self._pending is not None:
            self._lister.result(self._pending)
            self._pending = None

    def log(self, **facts: Any) -> None:
        """Appends `facts` to a log, with the time and the process; no digest covers the log."""
        origin = {"time": time.time(), "host": platform.node(), "pid": os.getpid(), "bytes": self.bytes_written}
        with (self.folder / artifact.LOG / "harvest.jsonl").open("a") as file:
            file.write(json.dumps({**origin, **facts}) + "\n")

    def put_contexts(self, split: Split, shard: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes one shard of a split's contexts; `arrays` holds those of `Layout.context_arrays`, by name.

        Contexts need no forward pass. They are listed when the cache is finished, and rewritten on resume.
        """
        files: dict[str, Any] = {}
        for name, array in self.layout.context_arrays(split).items():
            files |= self._write_rows(array, shard, arrays[name])
        num_contexts = len(next(iter(arrays.values())))
        self._contexts.append({"kind": "contexts", "split": split, "num_contexts": num_contexts, "files": files})

    def finish(self, attributes: Mapping[str, Any]) -> str:
        """Writes the statistics and the metadata with the final `attributes`, lists every file, and seals the cache.

        Returns:
            The cache's fingerprint.

        Raises:
            HealthError: if `int8` loses more than the floor allows; the cache is not sealed.
        """
        self.wait()
        snrs = {hook: asdict(snr) for hook, snr in self._check_snr().items()}
        self._write_group({**attributes, "int8_snr_db": snrs} if snrs else attributes)
        for split in self.pool_rows:
            num_contexts = sum(line["num_contexts"] for line in self._contexts if line["split"] == split)
            num_rows = sum(line["num_rows"] for line in self.pools(split))
            self._describe(self.layout.context_arrays(split), num_contexts)
            self._describe(self.layout.row_arrays(split), num_rows)
        lines = sorted(self._lines, key=_manifest_order)
        for hook in self._hooks.values():
            hook.describe(self._train_shards())
        lines += sorted(self._contexts, key=lambda line: line["split"], reverse=True)
        listed = {name for line in lines for name in line["files"]}
        rest = {"zarr.json", *_data_files(self.folder)} - listed
        lines.append({"kind": "metadata", "files": artifact.digest_files(self.folder, rest)})
        artifact.rewrite_manifest(self.folder, lines)
        publish(self.folder)  # all but the seal
        rank_manifests.remove(self.folder)
        return artifact.commit(self.folder)

    def _write_group(self, attributes: Mapping[str, Any]) -> None:
        """Writes the group's zarr.json in one step; zarr-python would first write it without attributes."""
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
        arrays = self.layout.row_arrays(pool.split)
        for name, values in pool.arrays.items():
            rows = values[order]
            parts = self._hooks[name].shard(shard, rows) if name in self._hooks else [(arrays[name], rows)]
            for array, part in parts:
                files |= self._write_rows(array, shard, part)
        fields = {"split": pool.split, "pool": pool.number, "shard": shard, "num_rows": len(order)}
        return {"kind": "shard", **fields, "files": files}

    def _write_rows(self, array: RowArray, shard: int, rows: np.ndarray) -> dict[str, Any]:
        data = array.encode(rows)
        name = array.file(shard)
        artifact.write_file(self.folder / name, data)
        self.bytes_written += len(data)
        return {name: {**artifact.digest_bytes(data), **describe_shard(array, data)}}

    def _append_lines(self, pool: RowPool, shards: list[Future[Line]]) -> None:
        lines = [self._encoders.result(shard) for shard in shards]
        fields = {"split": pool.split, "pool": pool.number, "num_rows": len(pool.order)}
        lines.append({"kind": "pool", **fields, **pool.facts, "files": {}})
        send_files(self.folder, lines)
        rank_manifests.list_pool(self.folder, self._rank, lines)
        self._lines += lines
        if pool.split == "train" and pool.number == 0:  # now, rather than hours later
            self._check_snr()

    def _train_shards(self) -> list[Line]:
        """The manifest lines of the training shards, in order."""
        shards = [line for line in self._lines if line["kind"] == "shard" and line["split"] == "train"]
        return sorted(shards, key=lambda line: line["shard"])

    def _check_snr(self) -> dict[str, Snr]:
        """SNR by hook of the `int8` rows listed so far; raises HealthError if one is below the floor."""
        lines = self._train_shards()
        snrs = {hook: self._hooks[self.layout.acts(hook)].snr(lines) for hook in self.layout.hooks}
        for hook, snr in snrs.items():
            if snr is not None and not snr.reaches(self.snr_floor):
                floor = f"the floor is {self.snr_floor:g} dB in the ordinary ones"
                hint = "codec: lossless; or a lower int8_snr_floor, if that is good enough"
                raise HealthError(f"codec int8 loses too much at {hook}: {snr}; {floor}", hint=hint)
        return {hook: snr for hook, snr in snrs.items() if snr is not None}


def _complete_pools(folder: Path, lines: list[Line]) -> list[Line]:
    """The lines of pools, and of their shards, that are listed as complete and whose files have the right sizes."""
    complete = {(line["split"], line["pool"]) for line in lines if line["kind"] == "pool"}
    pools = [line for line in lines if line["kind"] in ("shard", "pool")]
    kept = [line for line in pools if (line["split"], line["pool"]) in complete]
    broken = {(line["split"], line["pool"]) for line in kept for _ in damaged_files(folder, [line], hashes=False)}
    return [line for line in kept if (line["split"], line["pool"]) not in broken]


def _manifest_order(line: Line) -> tuple[bool, int, bool]:
    """Sort key: training before held-out, pool by pool, shards before the line that closes their pool."""
    return line["split"] != "train", line["pool"], line["kind"] == "pool"


def _data_files(folder: Path) -> list[str]:
    roots = (folder / name for name in FOLDERS)
    return [str(path.relative_to(folder)) for root in roots for path in root.rglob("*") if path.is_file()]
