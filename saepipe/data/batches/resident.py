"""A whole cache in memory, decoded once."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch

from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import StagingMemory
from saepipe.data.batches.streamed import ShuffledRows, split_chunks
from saepipe.data.cache.joined_rows import BatchRows
from saepipe.data.errors import OutOfSpaceError
from saepipe.data.terminal.progress import Progress
from saepipe.data.workers import Workers

MAX_SHARE = 0.9
"""Largest share of the free memory to use; training needs some too."""

READ_AHEAD = 64
"""Number of chunks that the kernel is asked to read before they are decoded."""


class ResidentRows:
    """The rows of a whole cache at one hook, in stored order."""

    def __init__(self, rows: BatchRows, staging: StagingMemory, threads: int, progress: Progress) -> None:
        """Decodes every chunk.

        Raises:
            OutOfSpaceError: if the rows do not fit; raised before anything is decoded.
            CorruptDataError: if a shard is damaged; the message names it.
        """
        check_fits(rows, staging)
        self._staging, self._chunk_rows = staging, rows.chunk_rows
        self._memory: torch.Tensor | None = staging.empty(rows.num_chunks * rows.chunk_rows, rows.width)
        staging.before_fill(self._memory)
        progress.start(f"decode {rows.name} into {staging.name}", rows.num_rows, "rows")
        workers = Workers(threads, "decode")
        outs = split_chunks(self._memory, rows.chunk_rows)
        fills = [workers.submit(_fill, rows, staging, chunk, out) for chunk, out in enumerate(outs)]
        try:
            for chunk, fill in enumerate(fills):
                workers.result(fill)
                progress.advance(rows.rows_in(chunk))
        finally:
            workers.close()
            progress.finish()
        staging.after_fill()

    def close(self) -> None:
        self._memory = None

    def load_pools(self, pools: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows]]:
        """Yields each pool with its rows."""
        for pool in pools:
            assert self._memory is not None, "closed"
            index = row_numbers(pool, self._chunk_rows)[pool.order()]
            yield pool, ShuffledRows(self._staging, self._memory, self._staging.upload_index(index))


def check_fits(rows: BatchRows, staging: StagingMemory) -> None:
    """Raises OutOfSpaceError if `staging` cannot hold all of `rows`, decoded."""
    needed = rows.num_chunks * rows.chunk_rows * rows.width * 2
    allowed = MAX_SHARE * staging.free_bytes()
    if needed > allowed:
        raise OutOfSpaceError(
            f"{rows.name} needs {needed / 1e9:.3g} GB, but may use only {allowed / 1e9:.3g} GB in {staging.name} "
            f"({MAX_SHARE:.0%} of the free memory)",
            hint="resident: none, which streams the same batches",
        )


def row_numbers(pool: Pool, chunk_rows: int) -> torch.Tensor:
    """Row numbers in the cache of a pool's rows, chunk by chunk; int64 (pool.num_rows,)."""
    starts = torch.tensor(pool.chunks) * chunk_rows
    return (starts[:, None] + torch.arange(chunk_rows)).flatten()[: pool.num_rows]


def _fill(rows: BatchRows, staging: StagingMemory, chunk: int, out: torch.Tensor) -> None:
    rows.will_need(min(chunk + READ_AHEAD, rows.num_chunks - 1))
    staging.fill(rows, chunk, out)
